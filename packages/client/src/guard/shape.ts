import { TurnpikeError } from '@turnpike/core';

/** What is in the caller's hands, by its methods: no library is imported, so none needs to be installed. */
export type Shape =
  | 'kafkajs Kafka'
  | 'kafkajs producer'
  | 'kafkajs consumer'
  | 'confluent Kafka'
  | 'confluent producer'
  | 'confluent consumer'
  | 'rdkafka producer'
  | 'rdkafka consumer'
  | 'admin';

/** The first that fits: what only one of two similar ones has stands in it, and that one stands first. */
const shapes: readonly (readonly [Shape, readonly string[]])[] = [
  ['kafkajs Kafka', ['producer', 'consumer', 'admin', 'logger']],
  ['confluent Kafka', ['producer', 'consumer', 'admin']],
  ['kafkajs producer', ['send', 'sendBatch', 'transaction', 'isIdempotent']],
  ['confluent producer', ['send', 'sendBatch', 'transaction', 'flush', 'isActive']],
  ['confluent consumer', ['subscribe', 'run', 'stop', 'disconnect', 'seek', 'commitOffsets', 'assignment']],
  ['kafkajs consumer', ['subscribe', 'run', 'stop', 'disconnect', 'seek', 'commitOffsets', 'on']],
  ['rdkafka producer', ['produce', 'poll', 'flush', 'getMetadata', 'connect']],
  ['rdkafka consumer', ['subscribe', 'consume', 'assign', 'getMetadata', 'connect', 'on']],
  ['admin', ['createTopics', 'deleteTopics', 'connect']],
  ['admin', ['createTopic', 'deleteTopic', 'disconnect']],
];

/** @throws TurnpikeError CONFIG_INVALID. */
export function shapeOf(instance: unknown): Shape {
  const has = (name: string) => typeof (instance as Record<string, unknown>)[name] === 'function';
  const found = instance !== null && typeof instance === 'object' ? shapes.find(([, methods]) => methods.every(has)) : undefined;
  if (found) return found[0];
  throw new TurnpikeError(
    'CONFIG_INVALID',
    `guard() was given ${nameOf(instance)}; it takes a Kafka, a producer or a consumer of kafkajs or @confluentinc/kafka-javascript (promisified or raw), made but not necessarily connected.`,
  );
}

function nameOf(instance: unknown): string {
  if (instance === null || typeof instance !== 'object') return instance === null ? 'null' : `a value of type ${typeof instance}`;
  const { name } = (instance.constructor ?? {}) as { name?: unknown };
  return typeof name === 'string' && name !== '' && name !== 'Object' ? `an object of class ${name}` : 'an object that is none';
}

/** Puts another function in a method's place, on this one object. What holds the object already is guarded with it. */
export function replace<T extends object, K extends keyof T & string>(target: T, name: K, make: (original: T[K]) => T[K]): void {
  Object.defineProperty(target, name, { value: make(target[name]), writable: true, configurable: true, enumerable: Object.keys(target).includes(name) });
}
