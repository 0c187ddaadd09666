import { readFileSync } from 'node:fs';
import kafkajs from 'kafkajs';
import { type BenchClient, type Job, Missing } from '../job.ts';
import { at, keys, orderAt, valuesOf } from '../records.ts';
import { startStubRegistry } from '../stub-registry.ts';
import { newGroup, registryPackage, tokenOf } from './common.ts';

process.env.KAFKAJS_NO_PARTITIONER_WARNING = '1';
const { Kafka, logLevel } = kafkajs;

/** kafkajs at its defaults, acks=all; orders through @kafkajs/confluent-schema-registry. */
export function kafkajsClient(job: Job, eachBatch: boolean): BenchClient {
  if (job.compression !== 'none') throw new Missing('kafkajs brings gzip only');
  const { topic, oauth } = job;
  const kafka = new Kafka({
    clientId: 'bench',
    brokers: [...job.bootstrap],
    logLevel: logLevel.NOTHING,
    ...(oauth
      ? {
          ssl: { ca: readFileSync(oauth.caFile, 'utf8') },
          sasl: { mechanism: 'oauthbearer' as const, oauthBearerProvider: async () => ({ value: (await tokenOf(oauth)).value }) },
        }
      : {}),
  });
  return {
    async producer() {
      const values = valuesOf(job.valueBytes);
      const encode = job.payload === 'order' ? await orderEncoder() : undefined;
      const producer = kafka.producer({ allowAutoTopicCreation: false });
      await producer.connect();
      return {
        sendOne: encode
          ? async (i) => producer.send({ topic, acks: -1, messages: [{ key: orderAt(i).orderId, value: await encode(orderAt(i)) }] })
          : (i) => producer.send({ topic, acks: -1, messages: [{ key: at(keys, i), value: at(values, i) }] }),
        sendMany: (i, count) =>
          producer.send({ topic, acks: -1, messages: Array.from({ length: count }, (_, n) => ({ key: at(keys, i + n), value: at(values, i + n) })) }),
      };
    },
    async consumer(by) {
      const consumer = kafka.consumer({ groupId: newGroup() });
      await consumer.connect();
      await consumer.subscribe({ topic, fromBeginning: true });
      return {
        start: (onRecord) =>
          consumer.run(
            by === 'batch' || eachBatch
              ? {
                  eachBatch: async ({ batch }) => {
                    for (const message of batch.messages) onRecord(message.value?.length ?? 0);
                  },
                }
              : { eachMessage: async ({ message }) => onRecord(message.value?.length ?? 0) },
          ),
      };
    },
  };
}

interface RegistryModule {
  readonly SchemaRegistry: new (options: { readonly host: string }) => { encode(id: number, value: unknown): Promise<Buffer> };
}

async function orderEncoder(): Promise<(order: unknown) => Promise<Buffer>> {
  const { SchemaRegistry } = registryPackage<RegistryModule>('kafkajs', '@kafkajs/confluent-schema-registry');
  const stub = await startStubRegistry();
  const registry = new SchemaRegistry({ host: stub.url });
  return (order) => registry.encode(stub.id, order);
}
