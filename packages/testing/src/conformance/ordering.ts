import assert from 'node:assert/strict';
import { compileProducerOptions, murmur2, Scratch, StickyPartition, TopicProducer } from '@turnpike/core';
import { noTelemetry, openGate, type ProducerPort, type Serde, systemClock } from '@turnpike/core/spi';
import { eachSent, numbered } from './data.ts';
import { type CaseDefinition, define } from './frame.ts';
import type { Sent } from './producer-bench.ts';
import { aTurn } from './within.ts';

/** Where Java's own client puts these keys among 12 partitions (org.apache.kafka.common.utils.Utils, kafka-clients 4.3.1). */
const JAVA: readonly (readonly [key: string, partition: number])[] = [
  ['a', 4],
  ['ab', 2],
  ['abc', 3],
  ['abcd', 8],
  ['JFK', 1],
  ['Zürich', 1],
  ['東京', 7],
  ['São Paulo', 0],
  ['Москва', 11],
  ['😀', 9],
  [' ', 9],
  ['', 9],
];

export const ordering: readonly CaseDefinition[] = [
  define({
    row: 'Order per key',
    name: 'keeps the order of every key among thousands of records over several partitions',
    quick: true,
    run: async (bench) => {
      const partitions = 6;
      const topic = await bench.topic('t', { partitions });
      const link = await bench.link();
      const producer = await link.producer({ maxBatchBytes: 10_000 });
      await producer.port.warm([topic]);
      const sent: (Promise<Sent> | undefined)[] = [];
      const partitionOf = (key: string) => (murmur2(Buffer.from(key), 0, key.length) & 0x7fffffff) % partitions;
      for (const n of numbered(6_000)) {
        const key = `k${n % 61}`;
        sent.push(producer.append({ topic, partition: partitionOf(key), key, value: `${n}` }));
        // Some wait for a turn of the event loop: what is gathered and what is under way alternate.
        if (n % 700 === 0) await aTurn();
      }
      eachSent(await Promise.allSettled(sent.map((s) => s ?? Promise.reject(new Error('there is room for all')))));
      const consumer = await link.consumer();
      await consumer.join([topic], partitions);
      await consumer.untilCount(6_000);
      assert.equal(consumer.records.length, 6_000);
      const byKey = Map.groupBy(consumer.records, (r) => r.key?.toString());
      assert.equal(byKey.size, 61);
      for (const [key, of] of byKey)
        assert.deepEqual(
          of.map((r) => Number(r.value)),
          numbered(6_000).filter((n) => `k${n % 61}` === key),
          `${key} in order`,
        );
    },
  }),

  define({
    row: 'Order per key',
    name: 'brings a partition to a reader without a gap: offsets follow each other, and batches end where the next begins',
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 2 });
      const link = await bench.link();
      const producer = await link.producer({ maxBatchBytes: 4_000 });
      eachSent(await producer.sendAll(numbered(2_000).map((n) => ({ topic, partition: n % 2, value: `${n}` }))));
      const consumer = await link.consumer({ maxPartitionFetchBytes: 8_000 });
      await consumer.join([topic], 2);
      await consumer.untilCount(2_000);
      for (const partition of [0, 1]) {
        const batches = consumer.batches.filter((b) => b.partition === partition);
        const of = batches.flatMap((b) => [...b.records]);
        assert.deepEqual(
          of.map((r) => r.offset),
          numbered(1_000).map(BigInt),
        );
        for (const [i, batch] of batches.entries()) {
          assert.equal([...batch.records][0]?.offset, i === 0 ? 0n : batches[i - 1]?.nextOffset);
          assert.ok(batch.highWatermark >= batch.nextOffset, 'the high watermark is not behind what was read');
          assert.ok(batch.bytes > 0);
        }
        assert.equal(batches.at(-1)?.nextOffset, 1_000n);
      }
    },
  }),

  define({
    row: "Java's partitioner",
    name: 'puts each key where Java puts it',
    quick: true,
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 12 });
      const producer = await (await bench.link()).producer();
      const sender = topicProducer(topic, producer.port);
      for (const [key] of JAVA) await sender.send(key, { key });
      const reader = await bench.readBack(topic, JAVA.length);
      assert.deepEqual(new Map(reader.records.map((r) => [r.key?.toString(), r.partition])), new Map(JAVA));
    },
  }),

  define({
    row: "Java's partitioner",
    name: 'spreads records without a key, and puts a record where its sender says',
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 3 });
      const producer = await (await bench.link()).producer({ maxBatchBytes: 2_000 });
      const sender = topicProducer(topic, producer.port, 2_000);
      await Promise.all(numbered(600).map((n) => sender.send(`without ${n}`)));
      const reader = await bench.readBack(topic, 600);
      assert.deepEqual([...new Set(reader.records.map((r) => r.partition))].sort(), [0, 1, 2]);
      const { partition } = await sender.send('told', { key: 'a', partition: 2 });
      assert.equal(partition, 2);
    },
  }),
];

/** As a client composes it, of texts. */
function topicProducer(topic: string, port: ProducerPort, switchBytes = 16_000): TopicProducer {
  return new TopicProducer({
    topic,
    keyOf: undefined,
    key: textSerde,
    value: textSerde,
    stages: [],
    access: { produce: () => {}, consume: () => {} },
    gate: openGate,
    telemetry: noTelemetry,
    clock: systemClock,
    port,
    scratch: new Scratch(),
    // Any seed will do: the sequence visits all partitions.
    sticky: new StickyPartition({ random: sequence(), switchBytes }),
    options: compileProducerOptions(),
  });
}

function sequence(): () => number {
  let n = 0;
  return () => ((n++ * 5) % 7) / 7;
}

const textSerde: Serde<unknown> = {
  ready: () => Promise.resolve(),
  prepare: () => undefined,
  encodeInto(value, dst, pos) {
    const bytes = Buffer.from(String(value));
    if (bytes.length > dst.length - pos) return -bytes.length;
    bytes.copy(dst, pos);
    return pos + bytes.length;
  },
  decode: (src) => src.toString(),
};
