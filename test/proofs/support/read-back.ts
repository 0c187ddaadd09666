import { readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import type { Platform } from '@turnpike/testing';
import kafkajs from 'kafkajs';
import { readCounted } from './contract.ts';
import type { StoredRecord } from './history.ts';

/** How long nothing may come before the read-back has failed, in ms. */
const STALL_MS = 30_000;

/** Gives every record of the topics, from offset 0 to the end of each partition's log, as kafkajs reads them: it shares no code with the client that has sent them. Resolves with how many there are. */
export async function readBack(platform: Platform, topics: readonly string[], onRecord: (record: StoredRecord) => void): Promise<number> {
  const { caFile, certFile, keyFile } = platform.admin.mtls;
  const kafka = new kafkajs.Kafka({
    clientId: 'read-back',
    brokers: [...(platform.cluster?.bootstrap.mtls ?? [])],
    ssl: { ca: readFileSync(caFile), cert: readFileSync(certFile), key: readFileSync(keyFile) },
    logLevel: kafkajs.logLevel.NOTHING,
  });
  const ends = await endsOf(kafka, topics);
  const total = [...ends.values()].reduce((sum, end) => sum + end, 0);
  for (const [place, end] of ends) if (end === 0) ends.delete(place);
  if (ends.size === 0) return 0;
  const consumer = kafka.consumer({ groupId: 'read-back', readUncommitted: true, maxBytesPerPartition: 4 * 1024 * 1024 });
  const done = Promise.withResolvers<void>();
  let last = performance.now();
  const watch = setInterval(() => {
    if (performance.now() - last > STALL_MS) done.reject(new Error(`the read-back stands still before the end of ${[...ends.keys()].join(', ')}`));
  }, 1_000);
  consumer.on('consumer.crash', ({ payload }) => done.reject(payload.error));
  try {
    await consumer.connect();
    await consumer.subscribe({ topics: [...topics], fromBeginning: true });
    await consumer.run({
      autoCommit: false,
      eachBatch: async ({ batch: { topic, partition, messages } }) => {
        last = performance.now();
        const place = `${topic}/${partition}`;
        for (const { offset, key, value } of messages) {
          const at = Number(offset);
          if (at >= (ends.get(place) ?? 0)) break;
          if (value === null) throw new Error(`${place}@${at} has no value`);
          const { event, sequence } = readCounted(value);
          onRecord({ topic, partition, offset: at, key: key?.toString() ?? null, event, sequence });
          if (at + 1 === ends.get(place)) ends.delete(place);
        }
        if (ends.size === 0) done.resolve();
      },
    });
    await done.promise;
  } finally {
    clearInterval(watch);
    await consumer.disconnect();
  }
  return total;
}

async function endsOf(kafka: kafkajs.Kafka, topics: readonly string[]): Promise<Map<string, number>> {
  const admin = kafka.admin();
  await admin.connect();
  try {
    const ends = new Map<string, number>();
    for (const topic of topics) {
      for (const { partition, low, high } of await offsetsOf(admin, topic)) {
        if (low !== '0') throw new Error(`the log of ${topic}/${partition} begins at ${low}`);
        ends.set(`${topic}/${partition}`, Number(high));
      }
    }
    return ends;
  } finally {
    await admin.disconnect();
  }
}

/** kafkajs gives up at once where a leader is just being elected, which a broker that is back brings about. */
async function offsetsOf(admin: kafkajs.Admin, topic: string): ReturnType<kafkajs.Admin['fetchTopicOffsets']> {
  const end = performance.now() + STALL_MS;
  for (;;) {
    try {
      return await admin.fetchTopicOffsets(topic);
    } catch (error) {
      if (!(error as Partial<kafkajs.KafkaJSError>).retriable || performance.now() > end) throw error;
      await pause(200);
    }
  }
}
