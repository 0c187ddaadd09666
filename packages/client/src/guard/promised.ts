import type { InboundMessage, TopicMessages } from './records.ts';
import { replace } from './shape.ts';
import { joining, type SentPartition, type Stages } from './stages.ts';
import type { Tally } from './tally.ts';

// The parts that are guarded of kafkajs' clients and of confluent's promisified ones, which took over their form.

interface Sender {
  send(record: TopicMessages): Promise<SentPartition[]>;
  sendBatch(batch: { readonly topicMessages?: readonly TopicMessages[] }): Promise<SentPartition[]>;
}

export interface PromisedProducer extends Sender {
  connect(): Promise<void>;
  /** kafkajs: an object of its own; confluent: the producer itself. */
  transaction(): Promise<Sender & { sendOffsets(offsets: { readonly consumerGroupId?: string }): Promise<void> }>;
}

export interface PromisedConsumer {
  subscribe(subscription: { readonly topics?: readonly unknown[]; readonly topic?: unknown }): Promise<void>;
  run(config?: RunConfig): Promise<void>;
  stop(): Promise<void>;
  disconnect(): Promise<void>;
  /** kafkajs; confluent's refuses it. */
  on(event: string, listener: (event: { readonly payload?: { readonly groupId?: string } }) => void): unknown;
}

type MessageHandler = (payload: {
  readonly topic: string;
  readonly partition: number;
  readonly message: InboundMessage;
  heartbeat(): Promise<unknown>;
}) => Promise<void>;

type BatchHandler = (payload: {
  readonly batch: { readonly topic: string; readonly partition: number; readonly messages: readonly InboundMessage[] };
  heartbeat(): Promise<unknown>;
}) => Promise<void>;

interface RunConfig {
  readonly eachMessage?: MessageHandler | null;
  readonly eachBatch?: BatchHandler | null;
}

export interface PromisedKafka {
  producer(config?: ClientConfig): PromisedProducer;
  consumer(config?: ClientConfig): PromisedConsumer;
}

/** kafkajs: at the top; confluent: under kafkaJS, or in librdkafka's own names. */
interface ClientConfig {
  readonly groupId?: unknown;
  readonly transactionalId?: unknown;
  readonly kafkaJS?: { readonly groupId?: unknown; readonly transactionalId?: unknown };
  readonly 'group.id'?: unknown;
  readonly 'transactional.id'?: unknown;
}

export interface Guarding {
  readonly stages: Stages;
  readonly tally: Tally;
  readonly group: string | undefined;
  readonly transactionalId: string | undefined;
}

/** `adopt` guards what the instance makes: once, even if somebody guards it again. */
export function guardKafka(kafka: PromisedKafka, adopt: (made: object, known: { readonly group?: string; readonly transactionalId?: string }) => void): void {
  replace(
    kafka,
    'producer',
    (original) =>
      function (this: unknown, ...args: Parameters<typeof original>) {
        const [config] = args;
        const made = Reflect.apply(original, this, args);
        const id = textOf(config?.transactionalId) ?? textOf(config?.kafkaJS?.transactionalId) ?? textOf(config?.['transactional.id']);
        adopt(made, id === undefined ? {} : { transactionalId: id });
        return made;
      },
  );
  replace(
    kafka,
    'consumer',
    (original) =>
      function (this: unknown, ...args: Parameters<typeof original>) {
        const [config] = args;
        const made = Reflect.apply(original, this, args);
        const group = textOf(config?.groupId) ?? textOf(config?.kafkaJS?.groupId) ?? textOf(config?.['group.id']);
        adopt(made, group === undefined ? {} : { group });
        return made;
      },
  );
}

/** `whenToCheck`: kafkajs takes its transactional id at transaction(), confluent at connect(). */
export function guardProducer(producer: PromisedProducer, guarding: Guarding, { checkIdAt }: { readonly checkIdAt: 'transaction' | 'connect' }): void {
  const { stages, tally, transactionalId } = guarding;
  const checkId = () => {
    if (transactionalId !== undefined) stages.check([{ action: 'transact', name: transactionalId, records: 0 }], tally);
  };
  // kafkajs' producer sends outside of its transactions too; all that confluent's sends belongs to one.
  guardSender(producer, { ...guarding, transactionalId: checkIdAt === 'connect' ? transactionalId : undefined });
  if (checkIdAt === 'connect')
    replace(
      producer,
      'connect',
      (original) =>
        async function (this: unknown) {
          checkId();
          return Reflect.apply(original, this, []);
        },
    );
  else
    replace(
      producer,
      'transaction',
      (original) =>
        async function (this: unknown) {
          checkId();
          const transaction = await Reflect.apply(original, this, []);
          guardSender(transaction, guarding);
          replace(
            transaction,
            'sendOffsets',
            (sendOffsets) =>
              async function (this: unknown, ...args: Parameters<typeof sendOffsets>) {
                stages.check(joining(textOf(args[0]?.consumerGroupId), 0), tally);
                return Reflect.apply(sendOffsets, this, args);
              },
          );
          return transaction;
        },
    );
}

function guardSender(sender: Sender, guarding: Guarding): void {
  const { stages, tally, transactionalId } = guarding;
  /** confluent's sendBatch() calls its own send(), at once: those records have been through. */
  let inside = false;
  const within = <T>(f: () => T): T => {
    inside = true;
    try {
      return f();
    } finally {
      inside = false;
    }
  };
  replace(
    sender,
    'send',
    (original) =>
      async function (this: unknown, ...args: Parameters<typeof original>) {
        const [record, ...rest] = args;
        // What isn't whole, the library refuses in its own words.
        if (inside || !isWhole(record)) return Reflect.apply(original, this, args);
        return stages.send([record], { transactionalId, tally }, ([traced = record]) => Reflect.apply(original, this, [traced, ...rest]));
      },
  );
  replace(
    sender,
    'sendBatch',
    (original) =>
      async function (this: unknown, ...args: Parameters<typeof original>) {
        const [batch, ...rest] = args;
        const { topicMessages } = batch ?? {};
        if (!Array.isArray(topicMessages) || !topicMessages.every(isWhole)) return Reflect.apply(original, this, args);
        const send = (traced: readonly TopicMessages[]) =>
          within(() => Reflect.apply(original, this, [traced === topicMessages ? batch : { ...batch, topicMessages: traced }, ...rest]));
        return stages.send(topicMessages, { transactionalId, tally }, send);
      },
  );
}

const isWhole = (record: TopicMessages | undefined): record is TopicMessages =>
  typeof record?.topic === 'string' &&
  record.topic !== '' &&
  Array.isArray(record.messages) &&
  record.messages.every((m) => typeof m === 'object' && m !== null);

/** `joinEvent`: of kafkajs, whose consumer doesn't say its group before. */
export function guardConsumer(consumer: PromisedConsumer, { stages, tally, group: given }: Guarding, joinEvent?: string): void {
  let group = given;
  let stopping = new AbortController();
  if (group === undefined && joinEvent !== undefined)
    consumer.on(joinEvent, ({ payload }) => {
      group ??= textOf(payload?.groupId);
    });
  const stop = () => stopping.abort();
  replace(
    consumer,
    'subscribe',
    (original) =>
      async function (this: unknown, ...args: Parameters<typeof original>) {
        const { topics, topic } = args[0] ?? {};
        const named = [topic, ...(Array.isArray(topics) ? topics : [])].flatMap((t) => textOf(t) ?? []).filter((t) => !t.startsWith('^'));
        // A pattern (librdkafka's begin with ^) names no topic: what it matches is asked about when it comes.
        stages.check([...named.map((name) => ({ action: 'consume' as const, name, records: 0 })), ...joining(group, 0)], tally);
        return Reflect.apply(original, this, args);
      },
  );
  for (const name of ['stop', 'disconnect'] as const)
    replace(
      consumer,
      name,
      (original) =>
        function (this: unknown) {
          stop();
          return Reflect.apply(original, this, []);
        },
    );
  replace(
    consumer,
    'run',
    (original) =>
      async function (this: unknown, ...args: Parameters<typeof original>) {
        const [config, ...rest] = args;
        if (!config) return Reflect.apply(original, this, args);
        stopping = new AbortController();
        const { eachMessage, eachBatch } = config;
        const context = (heartbeat: () => Promise<unknown>) => ({ group, heartbeat, tally, stopping: stopping.signal });
        const guarded: RunConfig = {
          ...config,
          ...(typeof eachMessage === 'function'
            ? {
                eachMessage: (payload) => {
                  const { topic, partition, message } = payload;
                  return stages.handle(
                    { topic, partition, messages: [message] },
                    context(() => payload.heartbeat()),
                    async () => eachMessage(payload),
                  );
                },
              }
            : {}),
          ...(typeof eachBatch === 'function'
            ? {
                eachBatch: (payload) =>
                  stages.handle(
                    payload.batch,
                    context(() => payload.heartbeat()),
                    async () => eachBatch(payload),
                  ),
              }
            : {}),
        };
        return Reflect.apply(original, this, [guarded, ...rest]);
      },
  );
}

const textOf = (value: unknown): string | undefined => (typeof value === 'string' && value !== '' ? value : undefined);
