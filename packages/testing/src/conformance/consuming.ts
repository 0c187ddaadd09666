import assert from 'node:assert/strict';
import { isTurnpikeError } from '@turnpike/core';
import type { SeekTarget } from '@turnpike/core/spi';
import { assertRefusal } from './assertions.ts';
import { eachSent, numbered } from './data.ts';
import { type CaseDefinition, define } from './frame.ts';

/** For what must not come. */
const QUIET_MS = 500;

export const consuming: readonly CaseDefinition[] = [
  define({
    row: 'Seek by offset and time',
    name: 'reads on from an offset, a time, the beginning and the end',
    quick: true,
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await bench.link();
      const producer = await link.producer();
      const t0 = Date.now() - 100_000;
      eachSent(await producer.sendAll(numbered(20).map((n) => ({ topic, value: `${n}`, timestampMs: t0 + n * 1_000 }))));
      const consumer = await link.consumer();
      await consumer.join([topic], 1);
      await consumer.untilCount(20);
      const tp = { topic, partition: 0 };
      const from = async (target: SeekTarget, count: number): Promise<readonly (string | null)[]> => {
        const before = consumer.records.length;
        await bench.within(10_000, consumer.port.seek(tp, target), 'seek');
        await consumer.untilCount(before + count);
        return consumer.values.slice(before);
      };
      const last = (count: number) =>
        numbered(20)
          .slice(20 - count)
          .map(String);
      assert.deepEqual(await from(12n, 8), last(8));
      assert.deepEqual(await from('beginning', 20), last(20));
      assert.deepEqual(await from({ timestampMs: t0 + 15_000 }, 5), last(5));
      assert.deepEqual(await from({ timestampMs: t0 + 15_001 }, 4), last(4));
      assert.deepEqual(await from({ timestampMs: 0 }, 20), last(20));
      await bench.within(10_000, consumer.port.seek(tp, 3n), 'seek');
      await bench.within(10_000, consumer.port.seek(tp, 'end'), 'seek');
      await consumer.pollFor(QUIET_MS);
      assert.equal(consumer.records.length, 77, 'nothing comes from the end, nor from the seek before');
      await producer.send({ topic, value: 'new' });
      await consumer.untilCount(78);
      assert.deepEqual(await from({ timestampMs: Date.now() + 3_600_000 }, 0), [], 'past every timestamp is the end');
      await producer.send({ topic, value: 'newer' });
      await consumer.untilCount(79);
      assert.deepEqual(consumer.values.slice(77), ['new', 'newer']);
    },
  }),

  define({
    row: 'Seek by offset and time',
    name: 'drops what was fetched ahead when it is told to read elsewhere',
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await bench.link();
      const producer = await link.producer();
      eachSent(await producer.sendAll(numbered(5_000).map((n) => ({ topic, value: `${n} ${'x'.repeat(100)}` }))));
      const consumer = await link.consumer({ maxPartitionFetchBytes: 50_000 });
      await consumer.join([topic], 1);
      await consumer.untilCount(1);
      for (const target of [4_000n, 10n, 2_500n]) {
        const before = consumer.records.length;
        await consumer.port.seek({ topic, partition: 0 }, target);
        await consumer.untilCount(before + 50);
        assert.deepEqual(
          consumer.records.slice(before, before + 50).map((r) => r.offset),
          numbered(50).map((n) => target + BigInt(n)),
        );
      }
    },
  }),

  define({
    row: 'Seek by offset and time',
    name: 'refuses to seek in a partition that is not its own',
    run: async (bench) => {
      const topic = await bench.topic();
      const consumer = await (await bench.link()).consumer();
      await consumer.join([topic], 1);
      await assertRefusal(consumer.port.seek({ topic, partition: 7 }, 0n), 'MEMBERSHIP_LOST', 10_000);
    },
  }),

  define({
    row: 'Pause and resume',
    name: 'holds back a paused partition, lets the other go on, and loses nothing on resume',
    quick: true,
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 2 });
      const link = await bench.link();
      const producer = await link.producer();
      const consumer = await link.consumer();
      await consumer.join([topic], 2);
      const paused = { topic, partition: 0 };
      consumer.port.pause([paused]);
      eachSent(await producer.sendAll(numbered(200).map((n) => ({ topic, partition: n % 2, value: `${n}` }))));
      await consumer.untilCount(100);
      await consumer.pollFor(QUIET_MS);
      assert.deepEqual(new Set(consumer.records.map((r) => r.partition)), new Set([1]));
      consumer.port.resume([paused]);
      await consumer.untilCount(200);
      assert.deepEqual(
        consumer.values.slice(100),
        numbered(100).map((n) => `${n * 2}`),
      );
    },
  }),

  define({
    row: 'Pause and resume',
    name: 'delivers nothing of a paused partition although it was fetched ahead',
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 2 });
      const link = await bench.link();
      const producer = await link.producer();
      eachSent(await producer.sendAll(numbered(4_000).map((n) => ({ topic, partition: n % 2, value: `${n} ${'x'.repeat(200)}` }))));
      const consumer = await link.consumer({ maxPartitionFetchBytes: 20_000 });
      await consumer.join([topic], 2);
      await consumer.until(() => new Set(consumer.records.map((r) => r.partition)).size === 2, { what: 'records of both partitions' });
      consumer.port.pause([{ topic, partition: 0 }]);
      const held = consumer.records.filter((r) => r.partition === 0).length;
      await consumer.until(() => consumer.records.filter((r) => r.partition === 1).length === 2_000, { what: 'all of the other partition' });
      assert.equal(consumer.records.filter((r) => r.partition === 0).length, held);
      consumer.port.resume([{ topic, partition: 0 }]);
      await consumer.untilCount(4_000);
      assert.deepEqual(
        consumer.records.filter((r) => r.partition === 0).map((r) => r.offset),
        numbered(2_000).map(BigInt),
      );
    },
  }),

  define({
    row: 'Commit and resume',
    name: 'goes on exactly where the group has committed, and tells what is committed and where the end is',
    quick: true,
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 2 });
      const link = await bench.link();
      const group = await bench.group();
      const producer = await link.producer();
      eachSent(await producer.sendAll(numbered(200).map((n) => ({ topic, partition: n % 2, value: `${n}` }))));
      const tps = [0, 1].map((partition) => ({ topic, partition }));
      const first = await link.consumer({ group });
      await first.join([topic], 2);
      await first.untilCount(200);
      assert.deepEqual(await first.port.committed(tps), []);
      await first.port.commit([{ topic, partition: 0, offset: 40n }]);
      const [committed, ...others] = await first.port.committed(tps);
      assert.deepEqual([committed?.topic, committed?.partition, committed?.offset, others.length], [topic, 0, 40n, 0]);
      assert.deepEqual((await first.port.endOffsets(tps)).map((o) => [o.partition, o.offset]).sort(), [
        [0, 100n],
        [1, 100n],
      ]);
      assert.deepEqual(
        (await bench.admin.groupOffsets(group)).map((o) => [o.topic, o.partition, o.offset]),
        [[topic, 0, 40n]],
      );
      await first.port[Symbol.asyncDispose]();
      const second = await link.consumer({ group });
      await second.join([topic], 2);
      await second.untilCount(160);
      await second.pollFor(QUIET_MS);
      assert.equal(second.records.length, 160);
      for (const [partition, from] of [40, 0].entries())
        assert.deepEqual(
          second.records.filter((r) => r.partition === partition).map((r) => r.offset),
          numbered(100 - from).map((n) => BigInt(n + from)),
        );
    },
  }),

  define({
    row: 'Commit and resume',
    name: 'refuses a commit for a partition that is not its own with MEMBERSHIP_LOST',
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 2 });
      const group = await bench.group();
      const [one, two] = [await (await bench.link()).consumer({ group }), await (await bench.link()).consumer({ group })];
      await one.join([topic], 2);
      const joining = two.join([topic], 1);
      await one.until(() => one.assigned.size === 1, { what: 'the group shares its partitions' });
      await joining;
      const [theirs] = [...two.assigned.values()];
      assert.ok(theirs);
      await assertRefusal(one.port.commit([{ ...theirs, offset: 1n }]), 'MEMBERSHIP_LOST', 10_000);
    },
  }),

  define({
    row: 'Where a group begins',
    name: 'begins at the earliest record, or with what is sent from now on, as it is told',
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await bench.link();
      const producer = await link.producer();
      eachSent(await producer.sendAll(numbered(10).map((n) => ({ topic, value: `old ${n}` }))));
      const [earliest, latest] = [await link.consumer({ startAt: 'earliest' }), await link.consumer({ startAt: 'latest' })];
      await Promise.all([earliest.join([topic], 1), latest.join([topic], 1)]);
      let n = 0;
      // Where "now" is, is known some time after the assignment.
      await bench.eventually(
        20_000,
        async () => {
          await producer.send({ topic, value: `new ${n++}` });
          await latest.poll(100);
          return latest.values.length;
        },
        (count) => count > 0,
        'something new comes',
      );
      await earliest.untilCount(10 + n);
      assert.deepEqual(earliest.values, [...numbered(10).map((i) => `old ${i}`), ...numbered(n).map((i) => `new ${i}`)], 'the earliest: everything');
      assert.ok(
        latest.values.every((v) => v?.startsWith('new')),
        'the latest: nothing old',
      );
      const [first] = latest.values;
      await latest.until(() => latest.values.at(-1) === `new ${n - 1}`, { what: 'the last one' });
      assert.deepEqual(
        latest.values,
        numbered(n)
          .map((i) => `new ${i}`)
          .slice(Number(first?.split(' ')[1])),
        'and no gap',
      );
    },
  }),

  define({
    row: 'Where a group begins',
    name: 'fails with OFFSET_OUT_OF_RANGE where nothing is committed and it is told not to guess',
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await bench.link();
      const producer = await link.producer();
      await producer.send({ topic, value: 'v' });
      const consumer = await link.consumer({ startAt: 'fail' });
      const error = await assertRefusal(
        (async () => {
          await consumer.subscribe([topic]);
          await consumer.until(() => consumer.records.length > 0, { what: 'a record, or a refusal' });
        })(),
        'OFFSET_OUT_OF_RANGE',
        10_000,
      );
      assert.equal(error.facts.topic, topic);
      assert.deepEqual(consumer.values, []);
    },
  }),

  define({
    row: 'Where a group begins',
    name: 'begins anew where what was committed is out of range',
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await bench.link();
      const producer = await link.producer();
      eachSent(await producer.sendAll(numbered(10).map((n) => ({ topic, value: `${n}` }))));
      const group = await bench.group();
      const first = await link.consumer({ group });
      await first.join([topic], 1);
      await first.port.commit([{ topic, partition: 0, offset: 1_000n }]);
      await first.port[Symbol.asyncDispose]();
      const second = await link.consumer({ group, startAt: 'earliest' });
      await second.join([topic], 1);
      await second.untilCount(10);
      assert.deepEqual(second.values, numbered(10).map(String));
      await second.port[Symbol.asyncDispose]();
      const third = await link.consumer({ group, startAt: 'fail' });
      await assertRefusal(
        (async () => {
          await third.subscribe([topic]);
          await third.until(() => third.records.length > 0, { what: 'a record, or a refusal' });
        })(),
        'OFFSET_OUT_OF_RANGE',
        10_000,
      );
    },
  }),

  define({
    row: 'Polling',
    name: 'waits for records no longer than it is told, and not at all once the signal aborts',
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await bench.link();
      const consumer = await link.consumer();
      await consumer.join([topic], 1);
      await consumer.poll(200);
      const timed = async (promise: Promise<readonly unknown[]>): Promise<number> => {
        const started = performance.now();
        assert.deepEqual(await promise, []);
        return performance.now() - started;
      };
      const waited = await timed(consumer.port.poll(600));
      assert.ok(waited >= 550 && waited < 2_000, `600 ms were asked for, ${waited.toFixed(0)} it took`);
      assert.ok((await timed(consumer.port.poll(0))) < 500, 'no wait at all');
      const abort = new AbortController();
      const polling = timed(consumer.port.poll(20_000, abort.signal));
      setTimeout(() => abort.abort(), 100).unref();
      assert.ok((await bench.within(5_000, polling, 'the aborted poll')) < 2_000, 'an abort ends it at once');
      assert.ok((await timed(consumer.port.poll(20_000, abort.signal))) < 500, 'a signal that is aborted before ends it at once');
      // A record ends the wait before its time.
      const producer = await link.producer();
      await producer.port.warm([topic]);
      const woken = consumer.port.poll(20_000);
      await producer.send({ topic, value: 'v' });
      assert.equal((await bench.within(5_000, woken, 'the poll brings the record'))[0]?.records.length, 1);
    },
  }),

  define({
    row: 'Bounded read-ahead',
    name: 'reads no more ahead of a slow poller than maxPrefetchBytes, and then brings everything',
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 2 });
      // A broker never cuts a batch in two: the batches are small.
      const producer = await (await bench.link()).producer({ maxBatchBytes: 100_000 });
      const value = Buffer.alloc(50_000, 'x');
      eachSent(await producer.sendAll(numbered(160).map((n) => ({ topic, partition: n % 2, key: `${n}`, value }))));
      let charged = 0;
      const charge = (_topic: string, _group: string, _records: number, bytes: number): void => {
        charged += bytes;
      };
      const link = await bench.link({ fetchGate: { permit: () => 0, charge } });
      const [maxPrefetchBytes, maxPartitionFetchBytes] = [500_000, 200_000];
      const consumer = await link.consumer({ maxPrefetchBytes, maxPartitionFetchBytes });
      await consumer.subscribe([topic]);
      await bench.eventually(
        20_000,
        () => consumer.assigned.size,
        (n) => n === 2,
        'both partitions',
      );
      // Nobody polls: what a transport reads on its own is what it would hold.
      await new Promise((resolve) => setTimeout(resolve, 1_500));
      const most = maxPrefetchBytes + maxPartitionFetchBytes;
      assert.ok(charged <= most, `${charged} bytes were read ahead, at most ${most} may be`);
      await consumer.untilCount(160);
      for (const partition of [0, 1])
        assert.deepEqual(
          consumer.records.filter((r) => r.partition === partition).map((r) => r.offset),
          numbered(80).map(BigInt),
        );
      assert.ok(charged >= 160 * value.length, 'every byte was charged');
    },
  }),

  define({
    row: 'Consumer quota',
    name: 'fetches a topic only by permit of the quota, is charged for each record once, and goes on with other topics meanwhile',
    quick: true,
    run: async (bench) => {
      const [held, free] = [await bench.topic('held'), await bench.topic('free')];
      const producer = await (await bench.link()).producer();
      eachSent(await producer.sendAll([held, free].flatMap((topic) => numbered(100).map((n) => ({ topic, value: `${n}` })))));
      let open = false;
      const charges: { readonly topic: string; readonly group: string; readonly records: number; readonly bytes: number }[] = [];
      const link = await bench.link({
        fetchGate: {
          permit: (topic) => (open || topic === free ? 0 : 50),
          charge: (topic, group, n, bytes) => void charges.push({ topic, group, records: n, bytes }),
        },
      });
      const consumer = await link.consumer();
      await consumer.join([held, free], 2);
      const of = (topic: string) => consumer.records.filter((r) => r.topic === topic).length;
      await consumer.until(() => of(free) === 100, { what: 'the topic that has a permit' });
      await consumer.pollFor(QUIET_MS);
      assert.equal(of(held), 0, 'no permit, no record');
      open = true;
      await consumer.until(() => of(held) === 100, { what: 'the topic that has got its permit' });
      for (const topic of [held, free]) {
        const its = charges.filter((c) => c.topic === topic);
        assert.equal(
          its.reduce((sum, c) => sum + c.records, 0),
          100,
        );
        assert.ok(its.every((c) => c.group === consumer.group && c.bytes > 0));
      }
    },
  }),

  define({
    row: 'Closing',
    name: 'ends a poll that waits, and refuses what comes after, when the consumer is closed',
    run: async (bench) => {
      const topic = await bench.topic();
      const consumer = await (await bench.link()).consumer();
      await consumer.join([topic], 1);
      const polling = consumer.port.poll(30_000);
      await bench.within(15_000, consumer[Symbol.asyncDispose](), 'close');
      assert.deepEqual(await bench.within(5_000, polling, 'the poll ends'), []);
      const late = await consumer.port.commit([{ topic, partition: 0, offset: 1n }]).then(
        () => undefined,
        (error: unknown) => error,
      );
      assert.ok(isTurnpikeError(late), 'a commit after the close is refused with an error of ours');
      const [group] = await bench.admin.describeGroups([consumer.group]);
      assert.deepEqual(group?.members ?? [], [], 'and the member has left its group');
    },
  }),
];
