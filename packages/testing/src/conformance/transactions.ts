import assert from 'node:assert/strict';
import type { TurnpikeError } from '@turnpike/core';
import { wireTransport } from '@turnpike/transports/wire';
import { assertRefusal } from './assertions.ts';
import type { Bench, ConsumerBenchOptions, LinkBench } from './bench.ts';
import type { ConsumerBench } from './consumer-bench.ts';
import { eachSent, numbered } from './data.ts';
import { type CaseDefinition, define } from './frame.ts';
import { fragile } from './lifecycle.ts';
import type { ProducerBench, RecordInit } from './producer-bench.ts';

/** For what must not come. */
const QUIET_MS = 700;
const TOLD_MS = 5_000;
/** How long a step of a transaction may take, in ms: the first one of a cluster makes the coordinator's topic. */
const STEP_MS = 20_000;

/** A link that can write transactions: of the transport under test, else of one that has them. */
const writerLink = (bench: Bench): Promise<LinkBench> => bench.link(bench.capabilities.transactions ? {} : { transport: wireTransport() });

const writer = async (bench: Bench, link: LinkBench, transactionalId?: string): Promise<ProducerBench> =>
  bench.within(STEP_MS, link.producer({ transactionalId: transactionalId ?? (await bench.transactionalId()) }), 'the transactional producer opens');

/** One transaction. */
async function transact(bench: Bench, producer: ProducerBench, records: readonly RecordInit[], end: 'commit' | 'abort'): Promise<void> {
  await bench.within(STEP_MS, producer.transaction.begin(), 'begin');
  eachSent(await producer.sendAll(records));
  await bench.within(STEP_MS, producer.transaction[end](), end);
}

async function reader(link: LinkBench, topics: readonly string[], partitions: number, options: ConsumerBenchOptions = {}): Promise<ConsumerBench> {
  const consumer = await link.consumer({ isolation: 'read_committed', ...options });
  await consumer.join(topics, partitions);
  return consumer;
}

const transactional = {
  needs: 'broker',
  capability: (c: Bench['capabilities']) => c.transactions,
  requires: { producer: { transactionalId: 'conformance' } },
} as const;

const readsCommitted = {
  needs: 'broker',
  capability: (c: Bench['capabilities']) => c.readCommitted,
  asks: { consumer: { isolation: 'read_committed' } },
} as const;

export const transactions: readonly CaseDefinition[] = [
  define({
    row: 'Transactions',
    name: 'shows what was committed, on all its partitions, and nothing of what was aborted, to those who read committed records; all of it to others',
    ...transactional,
    quick: true,
    run: async (bench) => {
      const [one, two] = [await bench.topic('one', { partitions: 2 }), await bench.topic('two')];
      const link = await bench.link();
      const producer = await writer(bench, link);
      const records = (what: string): RecordInit[] =>
        numbered(30).map((n) => (n % 3 === 2 ? { topic: two, value: `${what} ${n}` } : { topic: one, partition: n % 3, value: `${what} ${n}` }));
      await transact(bench, producer, records('aborted'), 'abort');
      await transact(bench, producer, records('committed'), 'commit');
      const committed = await reader(link, [one, two], 3);
      const all = await reader(link, [one, two], 3, { isolation: 'read_uncommitted' });
      await committed.untilCount(30);
      await all.untilCount(60);
      await committed.pollFor(QUIET_MS);
      const values = (of: readonly string[]) => of.flatMap((what) => records(what).map((r) => r.value)).sort();
      assert.deepEqual([...committed.values].sort(), values(['committed']));
      assert.deepEqual([...all.values].sort(), values(['aborted', 'committed']));
    },
  }),

  define({
    row: 'Transactions',
    name: 'commits the offsets of a group with the records, or neither',
    ...transactional,
    run: async (bench) => {
      const [input, output] = [await bench.topic('input'), await bench.topic('output')];
      const group = await bench.group();
      const link = await bench.link();
      const plain = await link.producer();
      eachSent(await plain.sendAll(numbered(10).map((n) => ({ topic: input, value: `${n}` }))));
      const consumer = await reader(link, [input], 1, { group });
      await consumer.untilCount(10);
      const producer = await writer(bench, link);
      const attempt = async (offset: bigint, value: string, end: 'commit' | 'abort'): Promise<void> => {
        await producer.transaction.begin();
        await producer.send({ topic: output, value });
        await bench.within(STEP_MS, producer.transaction.sendOffsets(group, [{ topic: input, partition: 0, offset }]), 'sendOffsets');
        await bench.within(STEP_MS, producer.transaction[end](), end);
      };
      const offsets = async () => (await bench.admin.groupOffsets(group)).map((o) => [o.topic, o.partition, o.offset]);
      await attempt(9n, 'aborted', 'abort');
      assert.deepEqual(await offsets(), [], 'an aborted transaction moves nothing');
      await attempt(6n, 'committed', 'commit');
      await bench.eventually(TOLD_MS, offsets, (o) => o.length > 0, 'the offsets are committed');
      assert.deepEqual(await offsets(), [[input, 0, 6n]]);
      await consumer[Symbol.asyncDispose]();
      const next = await reader(link, [input], 1, { group });
      await next.untilCount(4);
      assert.deepEqual(next.values, ['6', '7', '8', '9']);
      const results = await reader(link, [output], 1);
      await results.untilCount(1);
      await results.pollFor(QUIET_MS);
      assert.deepEqual(results.values, ['committed']);
      // Of a group that this identity may not be in.
      const denied = bench.unique('denied');
      await producer.transaction.begin();
      await assertRefusal(producer.transaction.sendOffsets(denied, [{ topic: input, partition: 0, offset: 1n }]), 'AUTHORIZATION_FAILED', TOLD_MS);
      await bench.within(STEP_MS, producer.transaction.abort(), 'abort');
    },
  }),

  define({
    row: 'Transactions',
    name: 'can not be committed once a record of it has failed, and the next one is not the worse for it',
    ...transactional,
    run: async (bench) => {
      const [topic, denied] = [await bench.topic('t', { configs: { 'max.message.bytes': '5000' } }), await bench.topic('denied', { principals: [] })];
      await bench.allow('topic', denied, ['describe']);
      const link = await bench.link();
      const producer = await writer(bench, link);
      const failing: readonly (readonly [RecordInit, 'RECORD_TOO_LARGE' | 'AUTHORIZATION_FAILED'])[] = [
        [{ topic, value: 'x'.repeat(20_000) }, 'RECORD_TOO_LARGE'],
        [{ topic: denied, value: 'v' }, 'AUTHORIZATION_FAILED'],
      ];
      for (const [record, code] of failing) {
        await bench.within(STEP_MS, producer.transaction.begin(), 'begin');
        await producer.send({ topic, value: `before ${code}` });
        await assertRefusal(producer.send(record), code, TOLD_MS);
        await assertRefusal(producer.transaction.commit(), 'TRANSACTION_ABORTED', TOLD_MS);
        await bench.within(STEP_MS, producer.transaction.abort(), 'abort');
        await transact(bench, producer, [{ topic, value: `after ${code}` }], 'commit');
      }
      const consumer = await reader(link, [topic], 1);
      await consumer.untilCount(2);
      await consumer.pollFor(QUIET_MS);
      assert.deepEqual(
        consumer.values,
        failing.map(([, code]) => `after ${code}`),
      );
    },
  }),

  define({
    row: 'Transactions',
    name: 'aborts at close what is open, so that no reader waits for its timeout',
    ...transactional,
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await bench.link();
      const producer = await writer(bench, link);
      await bench.within(STEP_MS, producer.transaction.begin(), 'begin');
      await producer.send({ topic, value: 'never committed' });
      await bench.within(10_000, producer[Symbol.asyncDispose](), 'close');
      const plain = await link.producer();
      await plain.send({ topic, value: 'after' });
      const consumer = await reader(link, [topic], 1);
      await consumer.untilCount(1, 15_000);
      assert.deepEqual(consumer.values, ['after']);
    },
  }),

  define({
    row: 'Transactions',
    name: 'commits and aborts by turns with one producer, empty ones too, and takes no record outside of one',
    ...transactional,
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await bench.link();
      const producer = await writer(bench, link);
      const outside = () => assertRefusal(producer.send({ topic, value: 'outside' }), 'CONFIG_INVALID', TOLD_MS);
      await outside();
      const expected: string[] = [];
      for (const round of numbered(12)) {
        const end = round % 3 === 0 ? 'commit' : 'abort';
        const values = round % 4 === 3 ? [] : numbered(5).map((n) => `${round} ${n}`);
        await transact(
          bench,
          producer,
          values.map((value) => ({ topic, value })),
          end,
        );
        if (end === 'commit') expected.push(...values);
        if (round % 6 === 0) await outside();
      }
      await transact(bench, producer, [{ topic, value: 'last' }], 'commit');
      const consumer = await reader(link, [topic], 1);
      await consumer.until(() => consumer.values.includes('last'));
      assert.deepEqual(consumer.values, [...expected, 'last']);
    },
  }),

  define({
    row: 'Transactions',
    name: 'makes of each record exactly one, though the process that does is replaced in the middle again and again',
    ...transactional,
    run: async (bench) => {
      const [input, output] = [await bench.topic('input'), await bench.topic('output')];
      const [group, transactionalId] = [await bench.group(), await bench.transactionalId()];
      const link = await bench.link();
      const plain = await link.producer();
      const values = numbered(40).map(String);
      eachSent(await plain.sendAll(values.map((value) => ({ topic: input, value }))));
      let next = 0n;
      for (const round of numbered(12)) {
        const process = await bench.link();
        // As in Java: the transactional id is taken over before the committed offsets are read, so that what its last owner has left open is decided.
        const producer = await writer(bench, process, transactionalId);
        await bench.within(STEP_MS, producer.transaction.begin(), 'begin');
        const [committed] = await bench.eventually(
          STEP_MS,
          () => bench.admin.groupOffsets(group),
          (offsets) => round < 2 || offsets.length > 0,
          'the offsets of the first rounds are committed',
        );
        next = committed?.offset ?? 0n;
        const batch = values.slice(Number(next), Number(next) + 7);
        eachSent(await producer.sendAll(batch.map((value) => ({ topic: output, value: `made of ${value}` }))));
        const offsets = [{ topic: input, partition: 0, offset: next + BigInt(batch.length) }];
        await bench.within(STEP_MS, producer.transaction.sendOffsets(group, offsets), 'sendOffsets');
        // Every other one is gone before it has committed.
        if (round % 2 === 1) await bench.within(STEP_MS, producer.transaction.commit(), 'commit');
      }
      const results = await reader(link, [output], 1);
      await results.untilCount(values.length);
      await results.pollFor(QUIET_MS);
      assert.deepEqual(
        results.values,
        values.map((value) => `made of ${value}`),
      );
    },
  }),

  define({
    row: 'Transactions',
    name: 'tells truly what became of a transaction whose coordinator is killed while it ends, and goes on with the next',
    ...transactional,
    alone: true, // It stops the broker that the others of its kind use.
    run: async (bench) => {
      const { platform, node } = await fragile(bench);
      const topic = await bench.topic('t', { partitions: 2, platform });
      const transactionalId = await bench.transactionalId('x', { platform });
      const link = await bench.link({ platform });
      const producer = await bench.within(STEP_MS, link.producer({ transactionalId }), 'the transactional producer opens');
      const records = (what: string) => numbered(10).map((n) => ({ topic, partition: n % 2, value: `${what} ${n}` }));
      await transact(bench, producer, records('before'), 'commit');
      await bench.within(STEP_MS, producer.transaction.begin(), 'begin');
      eachSent(await producer.sendAll(records('meanwhile')));
      await node.kill();
      const committing = producer.transaction.commit().then(
        () => undefined,
        (error: TurnpikeError) => error,
      );
      await node.start();
      const error = await bench.within(40_000, committing, 'commit() ends');
      const expected = [...records('before'), ...records('after')].map((r) => r.value);
      if (error === undefined) expected.push(...records('meanwhile').map((r) => r.value));
      else {
        assert.ok(['TRANSACTION_ABORTED', 'BROKER_UNAVAILABLE'].includes(error.code), error.message);
        assert.notEqual(error.written, 'unknown', 'the broker was back in time to tell');
        await bench.within(STEP_MS, producer.transaction.abort(), 'abort');
      }
      await transact(bench, producer, records('after'), 'commit');
      const consumer = await reader(link, [topic], 2, { group: await bench.group('g', { platform }) });
      await consumer.untilCount(expected.length);
      await consumer.pollFor(QUIET_MS);
      assert.deepEqual([...consumer.values].sort(), expected.sort());
    },
  }),

  define({
    row: 'Fencing',
    name: 'lets a producer write nothing more, records or offsets, once another one has taken its transactional id',
    ...transactional,
    run: async (bench) => {
      const topic = await bench.topic();
      const [group, transactionalId] = [await bench.group(), await bench.transactionalId()];
      const link = await bench.link();
      const zombie = await writer(bench, link, transactionalId);
      await bench.within(STEP_MS, zombie.transaction.begin(), 'begin');
      await zombie.send({ topic, value: 'before' });
      const next = await writer(bench, await bench.link(), transactionalId);
      await bench.within(STEP_MS, next.transaction.begin(), 'begin');
      const codes = ['PRODUCER_FENCED', 'TRANSACTION_ABORTED'] as const;
      await assertRefusal(zombie.send({ topic, value: 'from the grave' }), codes, TOLD_MS);
      await assertRefusal(zombie.transaction.sendOffsets(group, [{ topic, partition: 0, offset: 1n }]), codes, TOLD_MS);
      await assertRefusal(zombie.transaction.commit(), codes, TOLD_MS);
      await next.send({ topic, value: 'after' });
      await bench.within(STEP_MS, next.transaction.commit(), 'commit');
      const [all, committed] = [await reader(link, [topic], 1, { isolation: 'read_uncommitted' }), await reader(link, [topic], 1)];
      await Promise.all([all.untilCount(2), committed.untilCount(1)]);
      await Promise.all([all.pollFor(QUIET_MS), committed.pollFor(QUIET_MS)]);
      assert.deepEqual(all.values, ['before', 'after']);
      assert.deepEqual(committed.values, ['after']);
      assert.deepEqual(await bench.admin.groupOffsets(group), []);
    },
  }),

  define({
    row: 'Fencing',
    name: 'tells a producer that another one has taken its transactional id, and nothing of its open transaction is read',
    ...transactional,
    run: async (bench) => {
      const topic = await bench.topic();
      const transactionalId = await bench.transactionalId();
      const link = await bench.link();
      const zombie = await writer(bench, link, transactionalId);
      await transact(bench, zombie, [{ topic, value: 'first' }], 'commit');
      await bench.within(STEP_MS, zombie.transaction.begin(), 'begin');
      await zombie.send({ topic, value: 'fenced' });
      const next = await writer(bench, await bench.link(), transactionalId);
      await transact(bench, next, [{ topic, value: 'second' }], 'commit');
      await assertRefusal(zombie.transaction.commit(), 'PRODUCER_FENCED', TOLD_MS);
      await assertRefusal(
        (async () => {
          await zombie.transaction.begin();
          await zombie.send({ topic, value: 'from the grave' });
          await zombie.transaction.commit();
        })(),
        'PRODUCER_FENCED',
        TOLD_MS,
      );
      await transact(bench, next, [{ topic, value: 'third' }], 'commit');
      const consumer = await reader(link, [topic], 1);
      await consumer.untilCount(3);
      await consumer.pollFor(QUIET_MS);
      assert.deepEqual(consumer.values, ['first', 'second', 'third']);
    },
  }),

  define({
    row: 'read_committed',
    name: 'delivers the committed records only, where many aborted ranges of the same producers lie between them in one fetch',
    ...readsCommitted,
    quick: true,
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await writerLink(bench);
      // One of them over wire, so that each transport reads its ranges too.
      const producers = [await writer(bench, link), await writer(bench, await bench.foreign())];
      const plain = await link.producer();
      const expected: string[] = [];
      const all: string[] = [];
      // Two producers, each with aborted and committed ranges by turns, both open at the same time: a range ends only at its own producer's marker.
      for (const round of numbered(20)) {
        const ends = round % 2 === 0 ? (['abort', 'commit'] as const) : (['commit', 'abort'] as const);
        for (const producer of producers) await bench.within(STEP_MS, producer.transaction.begin(), 'begin');
        for (const [i, producer] of producers.entries()) {
          const values = numbered(3).map((n) => `${round} ${i} ${ends[i]} ${n}`);
          eachSent(await producer.sendAll(values.map((value) => ({ topic, value }))));
          all.push(...values);
          if (ends[i] === 'commit') expected.push(...values);
        }
        const loose = `${round} of no transaction`;
        await plain.send({ topic, value: loose });
        all.push(loose);
        expected.push(loose);
        for (const [i, producer] of producers.entries()) await bench.within(STEP_MS, producer.transaction[ends[i] ?? 'abort'](), 'end');
      }
      for (const readers of [await bench.link(), await bench.foreign()]) {
        const [committed, uncommitted] = [await reader(readers, [topic], 1), await reader(readers, [topic], 1, { isolation: 'read_uncommitted' })];
        await Promise.all([committed.untilCount(expected.length), uncommitted.untilCount(all.length)]);
        await committed.pollFor(QUIET_MS);
        assert.deepEqual(committed.values, expected);
        assert.deepEqual(uncommitted.values, all);
      }
    },
  }),

  define({
    row: 'read_committed',
    name: 'begins in the middle of aborted ranges without showing one of them',
    ...readsCommitted,
    run: async (bench) => {
      const topic = await bench.topic();
      const producer = await writer(bench, await writerLink(bench));
      for (const round of numbered(6))
        await transact(
          bench,
          producer,
          numbered(5).map((n) => ({ topic, value: `${round} ${n}` })),
          round % 2 === 0 ? 'abort' : 'commit',
        );
      // Five records and a marker each: 14 lies in the third transaction, which was aborted, 20 in the fourth, which was not.
      const consumer = await reader(await bench.link(), [topic], 1);
      for (const [from, first] of [
        [14n, '3 0'],
        [20n, '3 2'],
      ] as const) {
        const before = consumer.records.length;
        await bench.within(TOLD_MS, consumer.port.seek({ topic, partition: 0 }, from), 'seek');
        const expected = [3, 5].flatMap((round) => numbered(5).map((n) => `${round} ${n}`));
        const rest = expected.slice(expected.indexOf(first));
        await consumer.until(() => consumer.values.slice(before).includes('5 4'), { what: 'the last committed record' });
        const got = consumer.records.slice(before);
        assert.deepEqual(
          got.slice(got.findIndex((r) => r.value?.toString() === first && r.offset >= from)).map((r) => r.value?.toString()),
          rest,
        );
        assert.ok(
          got.every((r) => !/^[024] /.test(r.value?.toString() ?? '')),
          'nothing that was aborted',
        );
      }
    },
  }),

  define({
    row: 'read_committed',
    name: 'waits at a transaction that is still open, and goes on when it ends',
    ...readsCommitted,
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await writerLink(bench);
      const [producer, plain] = [await writer(bench, link), await link.producer()];
      const readers = await bench.link();
      const [committed, uncommitted] = [await reader(readers, [topic], 1), await reader(readers, [topic], 1, { isolation: 'read_uncommitted' })];
      for (const end of ['commit', 'abort'] as const) {
        const seen = { committed: committed.records.length, uncommitted: uncommitted.records.length };
        await bench.within(STEP_MS, producer.transaction.begin(), 'begin');
        eachSent(await producer.sendAll(numbered(5).map((n) => ({ topic, value: `open ${n}` }))));
        eachSent(await plain.sendAll(numbered(5).map((n) => ({ topic, value: `after ${n}` }))));
        await uncommitted.untilCount(seen.uncommitted + 10);
        await committed.pollFor(QUIET_MS);
        assert.equal(committed.records.length, seen.committed, 'nothing past the last stable offset');
        await bench.within(STEP_MS, producer.transaction[end](), end);
        const expected = [...(end === 'commit' ? numbered(5).map((n) => `open ${n}`) : []), ...numbered(5).map((n) => `after ${n}`)];
        await committed.untilCount(seen.committed + expected.length);
        assert.deepEqual(committed.values.slice(seen.committed), expected);
      }
    },
  }),

  define({
    row: 'read_committed',
    name: 'lets a group reach the end of the log, though control records and aborted ones are last',
    ...readsCommitted,
    run: async (bench) => {
      const topic = await bench.topic();
      const group = await bench.group();
      const producer = await writer(bench, await writerLink(bench));
      await transact(
        bench,
        producer,
        numbered(10).map((n) => ({ topic, value: `${n}` })),
        'commit',
      );
      await transact(
        bench,
        producer,
        numbered(10).map((n) => ({ topic, value: `aborted ${n}` })),
        'abort',
      );
      const consumer = await reader(await bench.link(), [topic], 1, { group });
      await consumer.untilCount(10);
      const [end] = await bench.admin.offsets([{ topic, partition: 0 }], 'end');
      assert.equal(end?.offset, 22n, 'twenty records and two markers');
      await consumer.until(() => consumer.batches.at(-1)?.nextOffset === end.offset, { withinMs: 10_000, what: 'nextOffset is at the end of the log' });
      await consumer.commit();
      assert.equal((await bench.admin.groupOffsets(group))[0]?.offset, end.offset, 'the lag is 0');
      assert.deepEqual(consumer.values, numbered(10).map(String));
    },
  }),
];
