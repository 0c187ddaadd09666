import assert from 'node:assert/strict';
import type { HeadersInit, HeaderValue, RecordHeaders } from '@turnpike/core';
import type { Compression } from '@turnpike/core/spi';
import type { Bench } from './bench.ts';
import type { ConsumerBench } from './consumer-bench.ts';
import { eachSent, numbered } from './data.ts';
import { type CaseDefinition, define } from './frame.ts';

/** Every codec is a case; the first of all is none. */
const CODECS: readonly Exclude<Compression, 'none'>[] = ['gzip', 'snappy', 'lz4', 'zstd'];

export const records: readonly CaseDefinition[] = [
  define({
    row: 'Produce and consume',
    name: 'brings what was sent to whoever reads, in order, at the offset that the producer was told',
    quick: true,
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await bench.link();
      const producer = await link.producer();
      const sent = eachSent(await producer.sendAll(numbered(100).map((n) => ({ topic, key: `k${n}`, value: `v${n}` }))));
      assert.deepEqual(
        sent.map((s) => s.offset),
        numbered(100).map(BigInt),
      );
      const consumer = await link.consumer();
      await consumer.join([topic], 1);
      await consumer.untilCount(100);
      assert.deepEqual(
        consumer.records.map((r) => [r.topic, r.partition, r.offset, r.key?.toString(), r.value?.toString()]),
        numbered(100).map((n) => [topic, 0, BigInt(n), `k${n}`, `v${n}`]),
      );
      assert.equal(producer.settledTwice, 0);
    },
  }),

  define({
    row: 'Produce and consume',
    name: 'brings values of every size from nothing to a megabyte unchanged, and read by a foreign client',
    run: async (bench) => {
      const topic = await bench.topic();
      const producer = await (await bench.link()).producer();
      const values = [0, 1, 127, 128, 16_383, 16_384, 100_000, 900_000].map((length) => Buffer.alloc(length, `${length} `));
      eachSent(await producer.sendAll(values.map((value) => ({ topic, key: 'k', value }))));
      const reader = await bench.readBack(topic, values.length);
      for (const [i, value] of values.entries()) assert.ok(reader.records[i]?.value?.equals(value), `the value of ${value.length} bytes came as it was sent`);
    },
  }),

  define({
    row: 'Produce and consume',
    name: 'reads what a foreign client has written, in batches of many shapes',
    run: async (bench) => {
      const topic = await bench.topic();
      const producer = await (await bench.foreign()).producer();
      for (const size of [1, 2, 50, 1]) eachSent(await producer.sendAll(numbered(size).map((n) => ({ topic, value: `${size}/${n}`, headers: { n: `${n}` } }))));
      const consumer = await (await bench.link()).consumer();
      await consumer.join([topic], 1);
      await consumer.untilCount(54);
      assert.deepEqual(
        consumer.values,
        [1, 2, 50, 1].flatMap((size) => numbered(size).map((n) => `${size}/${n}`)),
      );
      assert.deepEqual(
        consumer.records.map((r) => r.offset),
        numbered(54).map(BigInt),
      );
    },
  }),

  define({
    row: 'Headers',
    name: 'carries headers as they are: bytes, repeated names, nothing, any script',
    quick: true,
    run: async (bench) => {
      const headers: readonly (readonly [string, HeaderValue])[] = [
        ['bytes', new Uint8Array([0, 255, 254, 128, 10])],
        ['twice', 'one'],
        ['twice', new Uint8Array([2])],
        ['twice', ''],
        ['empty', ''],
        ['', 'a name of nothing'],
        ['né 東京 🚆', 'Zürich'],
        ['constructor', 'no name is special'],
      ];
      for (const reader of await readersOf(bench, headers)) {
        const [first, second] = reader.records;
        for (const name of new Set(headers.map(([of]) => of)))
          assert.deepEqual(
            hexOf(first?.headers).filter(([of]) => of === name),
            wanted(headers).filter(([of]) => of === name),
          );
        assert.equal(first?.headers.size, headers.length);
        assert.deepEqual(hexOf(second?.headers), []);
      }
    },
  }),

  define({
    row: 'Headers with a null value',
    name: 'keeps a header without a value apart from one whose value is empty',
    capability: (c) => c.nullHeaders,
    run: async (bench) => {
      const headers: readonly (readonly [string, HeaderValue])[] = [
        ['null', null],
        ['empty', ''],
        ['twice', null],
        ['twice', ''],
        ['twice', null],
      ];
      for (const { records: of } of await readersOf(bench, headers)) assert.deepEqual(hexOf(of[0]?.headers), wanted(headers));
    },
  }),

  define({
    row: 'Headers with a null value',
    name: 'writes a header without a value as that, for whoever can tell',
    run: async (bench) => {
      const headers: readonly (readonly [string, HeaderValue])[] = [
        ['null', null],
        ['empty', ''],
      ];
      const [, foreign] = await readersOf(bench, headers);
      assert.deepEqual(hexOf(foreign.records[0]?.headers), wanted(headers));
    },
  }),

  define({
    row: 'Order of headers',
    name: 'reads headers in their order, whatever their names',
    run: async (bench) => {
      for (const { records: of } of await readersOf(bench, MIXED)) assert.deepEqual(hexOf(of[0]?.headers), wanted(MIXED));
    },
  }),

  define({
    row: 'Order of headers',
    name: 'writes headers in their order, whatever their names, for whoever reads them so',
    run: async (bench) => {
      const [, foreign] = await readersOf(bench, MIXED);
      assert.deepEqual(hexOf(foreign.records[0]?.headers), wanted(MIXED));
    },
  }),

  define({
    row: 'Tombstones',
    name: 'keeps a tombstone (no value) apart from a value that is empty',
    quick: true,
    run: async (bench) => {
      const topic = await bench.topic('compacted', { configs: { 'cleanup.policy': 'compact' } });
      const link = await bench.link();
      const producer = await link.producer();
      eachSent(
        await producer.sendAll([
          { topic, key: 'a', value: 'v' },
          { topic, key: 'a', value: '' },
          { topic, key: 'a', value: null },
        ]),
      );
      const consumer = await link.consumer();
      await consumer.join([topic], 1);
      await consumer.untilCount(3);
      for (const { values } of [consumer, await bench.readBack(topic, 3)]) assert.deepEqual(values, ['v', '', null]);
    },
  }),

  define({
    row: 'Null and empty keys',
    name: 'keeps a record without a key apart from one whose key is empty',
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await bench.link();
      const producer = await link.producer();
      eachSent(
        await producer.sendAll([
          { topic, key: null, value: 'none' },
          { topic, key: '', value: 'empty' },
          { topic, key: new Uint8Array([0]), value: 'zero' },
        ]),
      );
      const consumer = await link.consumer();
      await consumer.join([topic], 1);
      await consumer.untilCount(3);
      for (const reader of [consumer, await bench.readBack(topic, 3)])
        assert.deepEqual(
          reader.records.map((r) => r.key && [...r.key]),
          [null, [], [0]],
        );
    },
  }),

  define({
    row: 'Timestamps',
    name: "keeps a record's own timestamp, long past and to come",
    run: async (bench) => {
      const topic = await bench.topic('t', { configs: { 'message.timestamp.before.max.ms': '9223372036854775807', 'retention.ms': '-1' } });
      const link = await bench.link();
      const producer = await link.producer();
      const times = [1, 1_000_000_000_000, 1_234_567_890_123, Date.now(), Date.now() + 60_000];
      const sent = eachSent(await producer.sendAll(times.map((timestampMs) => ({ topic, value: 'v', timestampMs }))));
      const consumer = await link.consumer();
      await consumer.join([topic], 1);
      await consumer.untilCount(times.length);
      for (const got of [sent, consumer.records, (await bench.readBack(topic, times.length)).records])
        assert.deepEqual(
          got.map((r) => r.timestampMs),
          times,
        );
    },
  }),

  define({
    row: 'Timestamps',
    name: "reads the broker's time where the topic says LogAppendTime",
    needs: 'broker',
    run: async (bench) => {
      const topic = await bench.topic('t', { configs: { 'message.timestamp.type': 'LogAppendTime' } });
      const link = await bench.link();
      const producer = await link.producer();
      const before = Date.now();
      await producer.send({ topic, value: 'v', timestampMs: 1_000_000_000_000 });
      const consumer = await link.consumer();
      await consumer.join([topic], 1);
      await consumer.untilCount(1);
      const at = consumer.records[0]?.timestampMs ?? 0;
      assert.ok(at >= before - 1_000 && at <= Date.now() + 1_000, `${at} is the time of writing, not the producer's own`);
    },
  }),

  ...CODECS.map((compression) =>
    define({
      row: `Compression: ${compression}`,
      name: `compresses with ${compression}: less than the topic's limit goes out, and everybody reads it`,
      needs: 'broker',
      capability: (c) => c.compression.includes(compression),
      asks: { producer: { compression } },
      quick: compression === 'gzip',
      run: async (bench) => {
        // Only what is compressed fits: 100 kB of one letter into a topic of 20 kB.
        const topic = await bench.topic('small', { configs: { 'max.message.bytes': '20000' } });
        const link = await bench.link();
        const producer = await link.producer({ compression });
        const value = 'a'.repeat(100_000);
        eachSent(await producer.sendAll([{ topic, key: 'k', value, headers: { h: 'é' } }, ...numbered(20).map((n) => ({ topic, value: `v${n}` }))]));
        const consumer = await link.consumer();
        await consumer.join([topic], 1);
        await consumer.untilCount(21);
        for (const { values, records: got } of [consumer, await bench.readBack(topic, 21)]) {
          assert.deepEqual(values, [value, ...numbered(20).map((n) => `v${n}`)]);
          assert.equal(got[0]?.headers.text('h'), 'é');
        }
      },
    }),
  ),

  ...CODECS.map((compression) =>
    define({
      row: `Compression: ${compression}`,
      name: `reads what a foreign client has compressed with ${compression}`,
      needs: 'broker',
      capability: (c) => c.compression.includes(compression),
      run: async (bench) => {
        const topic = await bench.topic();
        const producer = await (await bench.foreign()).producer({ compression });
        eachSent(await producer.sendAll(numbered(500).map((n) => ({ topic, key: `k${n}`, value: `value number ${n}` }))));
        const consumer = await (await bench.link()).consumer();
        await consumer.join([topic], 1);
        await consumer.untilCount(500);
        assert.deepEqual(
          consumer.values,
          numbered(500).map((n) => `value number ${n}`),
        );
      },
    }),
  ),
];

/** Names that an object would put into another order. */
const MIXED: readonly (readonly [string, HeaderValue])[] = [
  ['z', '1'],
  ['twice', '2'],
  ['a', '3'],
  ['twice', '4'],
  ['10', '5'],
  ['9', '6'],
  ['twice', '7'],
];

/** Who has read a record with these headers and one without: the transport under test, and a foreign client. */
async function readersOf(bench: Bench, headers: HeadersInit): Promise<readonly [ConsumerBench, ConsumerBench]> {
  const topic = await bench.topic();
  const link = await bench.link();
  const producer = await link.producer();
  eachSent(
    await producer.sendAll([
      { topic, value: 'with', headers },
      { topic, value: 'without' },
    ]),
  );
  const own = await link.consumer();
  await own.join([topic], 1);
  await own.untilCount(2);
  return [own, await bench.readBack(topic, 2)];
}

const wanted = (headers: readonly (readonly [string, HeaderValue])[]): readonly (readonly [string, string | null])[] =>
  headers.map(([name, value]) => [name, value === null ? null : Buffer.from(value as string).toString('hex')]);

const hexOf = (headers: RecordHeaders | undefined): readonly (readonly [string, string | null])[] =>
  [...(headers ?? [])].map(([name, value]) => [name, value && Buffer.from(value).toString('hex')] as const);
