import { type BenchClient, type BenchConsumer, type BenchProducer, type Job, Missing } from '../job.ts';
import { at, keys, orderAt, valuesOf } from '../records.ts';
import { startStubRegistry } from '../stub-registry.ts';
import { newGroup, registryPackage, tokenOf } from './common.ts';

type Library = typeof import('@confluentinc/kafka-javascript');

export type ConfluentVariant = 'promisified' | 'linger0' | 'callback';

/** @confluentinc/kafka-javascript, acks=all: its promisified API at its defaults, the same with linger.ms 0, and the callback API beneath. */
export async function confluentClient(job: Job, variant: ConfluentVariant): Promise<BenchClient> {
  const library = await load();
  return {
    producer: () =>
      variant === 'callback' ? callbackProducer(library, job) : promisifiedProducer(library, job, variant === 'linger0' ? { 'linger.ms': 0 } : {}),
    consumer: (by) => (variant === 'callback' ? callbackConsumer(library, job) : promisifiedConsumer(library, job, by)),
  };
}

async function load(): Promise<Library> {
  try {
    const loaded = (await import('@confluentinc/kafka-javascript')) as Library & { readonly default?: Library };
    return loaded.default ?? loaded;
  } catch (error) {
    throw new Missing(`its native addon doesn't load (${(error as Error).message.split('\n')[0]}); npm run setup -- --transport confluent builds it`);
  }
}

function kafkaOf({ KafkaJS }: Library, { oauth, bootstrap }: Job) {
  return new KafkaJS.Kafka({
    kafkaJS: {
      clientId: 'bench',
      brokers: [...bootstrap],
      logLevel: KafkaJS.logLevel.ERROR,
      ...(oauth
        ? {
            ssl: true,
            sasl: {
              mechanism: 'oauthbearer' as const,
              oauthBearerProvider: async () => {
                const { value, expiresAtMs } = await tokenOf(oauth);
                return { value, principal: oauth.clientId, lifetime: expiresAtMs };
              },
            },
          }
        : {}),
    },
    ...(oauth ? { 'ssl.ca.location': oauth.caFile } : {}),
  });
}

async function promisifiedProducer(library: Library, job: Job, more: Readonly<Record<string, unknown>>): Promise<BenchProducer> {
  const { topic } = job;
  const values = valuesOf(job.valueBytes);
  const encode = job.payload === 'order' ? await orderEncoder(topic) : undefined;
  const compression = job.compression === 'none' ? {} : { 'compression.codec': job.compression };
  const producer = kafkaOf(library, job).producer({ kafkaJS: { acks: -1 }, ...compression, ...more });
  await producer.connect();
  return {
    sendOne: encode
      ? async (i) => producer.send({ topic, messages: [{ key: orderAt(i).orderId, value: await encode(orderAt(i)) }] })
      : (i) => producer.send({ topic, messages: [{ key: at(keys, i), value: at(values, i) }] }),
    sendMany: (i, count) => producer.send({ topic, messages: Array.from({ length: count }, (_, n) => ({ key: at(keys, i + n), value: at(values, i + n) })) }),
  };
}

async function callbackProducer({ Producer }: Library, job: Job): Promise<BenchProducer> {
  requirePlain(job);
  const { topic } = job;
  const values = valuesOf(job.valueBytes);
  const compression = job.compression === 'none' ? {} : { 'compression.codec': job.compression };
  const producer = new Producer(
    { 'metadata.broker.list': job.bootstrap.join(','), dr_cb: true, 'queue.buffering.max.messages': 1_000_000, ...compression },
    { acks: -1 },
  );
  await new Promise<void>((resolve, reject) => {
    producer.once('ready', () => resolve());
    producer.connect({}, (error) => error && reject(error));
  });
  producer.setPollInBackground(true);
  producer.on('delivery-report', (error, report) => (report.opaque as (error: unknown) => void)(error));
  const sendAll = (i: number, count: number) =>
    new Promise<void>((resolve, reject) => {
      let left = count;
      const reported = (error: unknown) => {
        if (error) reject(error);
        else if (--left === 0) resolve();
      };
      for (let n = i; n < i + count; n++) producer.produce(topic, null, at(values, n), at(keys, n), undefined, reported);
    });
  return {
    sendOne: (i) => sendAll(i, 1),
    sendMany: sendAll,
  };
}

async function promisifiedConsumer(library: Library, job: Job, by: 'record' | 'batch'): Promise<BenchConsumer> {
  const consumer = kafkaOf(library, job).consumer({ kafkaJS: { groupId: newGroup(), fromBeginning: true } });
  await consumer.connect();
  await consumer.subscribe({ topics: [job.topic] });
  return {
    start: (onRecord) =>
      consumer.run(
        by === 'batch'
          ? {
              eachBatch: async ({ batch }) => {
                for (const message of batch.messages) onRecord(message.value?.length ?? 0);
              },
            }
          : { eachMessage: async ({ message }) => onRecord(message.value?.length ?? 0) },
      ),
  };
}

async function callbackConsumer({ KafkaConsumer }: Library, job: Job): Promise<BenchConsumer> {
  requirePlain(job);
  const consumer = new KafkaConsumer({ 'group.id': newGroup(), 'metadata.broker.list': job.bootstrap.join(',') }, { 'auto.offset.reset': 'earliest' });
  await new Promise<void>((resolve, reject) => {
    consumer.once('ready', () => resolve());
    consumer.connect({}, (error) => error && reject(error));
  });
  return {
    async start(onRecord) {
      consumer.on('data', (message) => onRecord(message.value?.length ?? 0));
      consumer.subscribe([job.topic]);
      consumer.consume();
    },
  };
}

function requirePlain({ payload, oauth }: Job): void {
  if (payload === 'order' || oauth) throw new Missing('its callback API is measured in plaintext, with bytes');
}

interface RegistryModule {
  readonly SchemaRegistryClient: new (config: { readonly baseURLs: readonly string[] }) => object;
  readonly SerdeType: { readonly VALUE: unknown };
  readonly AvroSerializer: new (
    client: object,
    type: unknown,
    config: { readonly useLatestVersion: boolean },
  ) => { serialize(topic: string, value: unknown): Promise<Buffer> };
}

async function orderEncoder(topic: string): Promise<(order: unknown) => Promise<Buffer>> {
  const { AvroSerializer, SchemaRegistryClient, SerdeType } = registryPackage<RegistryModule>('confluent', '@confluentinc/schemaregistry');
  const { url } = await startStubRegistry();
  const serializer = new AvroSerializer(new SchemaRegistryClient({ baseURLs: [url] }), SerdeType.VALUE, { useLatestVersion: true });
  return (order) => serializer.serialize(topic, order);
}
