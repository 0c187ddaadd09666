import type { Guarding } from './promised.ts';
import type { InboundMessage, LibraryHeaders, OutboundMessage } from './records.ts';
import { replace } from './shape.ts';
import { joining } from './stages.ts';

// Confluent's raw clients: librdkafka's own interface, in callbacks and events. produce() is synchronous, so nothing can wait in it.

type Produce = (topic: string, partition: number | null, message: unknown, key?: unknown, timestamp?: number | null, ...rest: unknown[]) => unknown;

export interface RawClient {
  readonly globalConfig?: Readonly<Record<string, unknown>>;
}

export interface RawProducer extends RawClient {
  produce: Produce;
  initTransactions?(...args: unknown[]): unknown;
  /** HighLevelProducer. */
  setValueSerializer?(serializer: unknown): unknown;
}

export interface RawConsumer extends RawClient {
  subscribe(topics: readonly unknown[]): unknown;
  on(event: 'data', listener: (message: InboundMessage & { readonly topic: string }) => void): unknown;
}

/** What librdkafka was configured with; the client keeps it where anybody can read it. */
export const configured = (client: RawClient, name: 'group.id' | 'transactional.id'): string | undefined => {
  const value = client.globalConfig?.[name];
  return typeof value === 'string' && value !== '' ? value : undefined;
};

export function guardRawProducer(producer: RawProducer, { stages, tally, transactionalId }: Guarding): void {
  const highLevel = typeof producer.setValueSerializer === 'function';
  replace(
    producer,
    'produce',
    (original) =>
      function (this: unknown, ...args: Parameters<Produce>) {
        const [topic, , value, key] = args;
        if (typeof topic !== 'string' || topic === '') return Reflect.apply(original, this, args);
        const headers = headersIn(args, highLevel);
        const message: OutboundMessage = { key, value, ...(headers === undefined ? {} : { headers: flat(headers) }) };
        const { added, done } = stages.produceNow({ topic, messages: [message] }, { transactionalId, tally });
        try {
          const result = Reflect.apply(
            original,
            this,
            added ? withHeaders(args, highLevel, [...(headers ?? []), ...Object.entries(added).map(([k, v]) => ({ [k]: v }))]) : args,
          );
          done();
          return result;
        } catch (error) {
          done(error);
          throw error;
        }
      },
  );
  if (producer.initTransactions)
    replace(
      producer as Required<RawProducer>,
      'initTransactions',
      (original) =>
        function (this: unknown, ...args: unknown[]) {
          if (transactionalId !== undefined) stages.check([{ action: 'transact', name: transactionalId, records: 0 }], tally);
          return Reflect.apply(original, this, args);
        },
    );
}

// (topic, partition, message, key, timestamp, opaque, headers); HighLevelProducer: (..., timestamp, [headers,] callback).

function headersIn(args: readonly unknown[], highLevel: boolean): readonly LibraryHeaders[] | undefined {
  const given = highLevel ? (args.length > 6 ? args[5] : undefined) : args[6];
  return Array.isArray(given) ? (given as readonly LibraryHeaders[]) : undefined;
}

function withHeaders(args: Parameters<Produce>, highLevel: boolean, headers: readonly LibraryHeaders[]): Parameters<Produce> {
  const [topic, partition, message, key, timestamp] = args;
  const last = highLevel ? [headers, args.at(-1)] : [args[5], headers];
  return [topic, partition, message, key, timestamp, ...last];
}

/** Names may repeat in a list of headers. */
function flat(headers: readonly LibraryHeaders[]): LibraryHeaders {
  const values: Record<string, unknown[]> = {};
  for (const header of headers) for (const [name, value] of Object.entries(header ?? {})) values[name] = [...(values[name] ?? []), value];
  return values;
}

export function guardRawConsumer(consumer: RawConsumer, { stages, tally, group }: Guarding): void {
  replace(
    consumer,
    'subscribe',
    (original) =>
      function (this: unknown, ...args: Parameters<typeof original>) {
        const [topics] = args;
        // librdkafka takes a text that begins with ^ as a pattern.
        const named = Array.isArray(topics) ? topics.filter((t): t is string => typeof t === 'string' && !t.startsWith('^')) : [];
        stages.check([...named.map((name) => ({ action: 'consume' as const, name, records: 0 })), ...joining(group, 0)], tally);
        return Reflect.apply(original, this, args);
      },
  );
  consumer.on('data', (message) => {
    stages.seen(message.topic, group, [message], tally);
  });
}
