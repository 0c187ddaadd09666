import { readFileSync } from 'node:fs';
import { type CompressionAlgorithmValue, Consumer, Producer, SASLMechanisms } from '@platformatic/kafka';
import { type BenchClient, type Job, Missing } from '../job.ts';
import { at, keys, valuesOf } from '../records.ts';
import { newGroup, tokenOf } from './common.ts';

/** @platformatic/kafka as it comes, acks=all. */
export function platformaticClient(job: Job): BenchClient {
  if (job.payload === 'order') throw new Missing('it is measured with bytes');
  const { topic, oauth } = job;
  const common = {
    clientId: 'bench',
    bootstrapBrokers: [...job.bootstrap],
    ...(oauth
      ? {
          tls: { ca: readFileSync(oauth.caFile, 'utf8') },
          sasl: { mechanism: SASLMechanisms.OAUTHBEARER, token: async () => (await tokenOf(oauth)).value },
        }
      : {}),
  };
  return {
    async producer() {
      const values = valuesOf(job.valueBytes);
      const producer = new Producer({ ...common, autocreateTopics: false });
      await producer.metadata({ topics: [topic] });
      const more = { acks: -1, ...(job.compression === 'none' ? {} : { compression: job.compression as CompressionAlgorithmValue }) };
      return {
        sendOne: (i) => producer.send({ messages: [{ topic, key: at(keys, i), value: at(values, i) }], ...more }),
        sendMany: (i, count) =>
          producer.send({ messages: Array.from({ length: count }, (_, n) => ({ topic, key: at(keys, i + n), value: at(values, i + n) })), ...more }),
      };
    },
    async consumer(by) {
      if (by === 'batch') throw new Missing('it has no batches');
      const consumer = new Consumer({ ...common, groupId: newGroup() });
      return {
        async start(onRecord) {
          const stream = await consumer.consume({ topics: [topic], mode: 'earliest', autocommit: true });
          for await (const message of stream) onRecord(message.value.length);
        },
      };
    },
  };
}
