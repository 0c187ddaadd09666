import assert from 'node:assert/strict';
import { createServer, type Socket } from 'node:net';
import { isTurnpikeError, type TurnpikeError } from '@turnpike/core';
import type { Platform } from '../platform.ts';
import { assertRefusal } from './assertions.ts';
import type { Bench, LinkBench } from './bench.ts';
import { eachSent, numbered } from './data.ts';
import { type CaseDefinition, define } from './frame.ts';
import { Flow, Ledger, Member, untilShared } from './groups-member.ts';
import { grown, liveBytes, resources } from './lifecycle-resources.ts';
import type { Sent } from './producer-bench.ts';

/** For what must not come. */
const QUIET_MS = 500;
/** How long a close may take, in ms, whatever has become of the broker. */
const CLOSE_MS = 10_000;
/** Of those that are in flight when a broker goes away; less than CLOSE_MS. */
const DELIVERY_MS = 4_000;

/** A cluster whose broker the case may stop: nobody else is on it. Runs again when the case ends. */
export async function fragile(bench: Bench): Promise<{ readonly platform: Platform; readonly node: Platform['nodes'][number] }> {
  const platform = await bench.platformWith({ nodes: 1 });
  const [node] = platform.nodes;
  assert.ok(node);
  bench.defer(async () => {
    node.resume();
    await node.start();
  });
  return { platform, node };
}

/** That each has ended, by an acknowledgement or by an error of ours that says whether it may have been written. */
function assertAllEnded(outcomes: readonly PromiseSettledResult<Sent>[]): readonly TurnpikeError[] {
  const errors = outcomes.flatMap((o) => (o.status === 'rejected' ? [o.reason as unknown] : []));
  return errors.map((error) => {
    assert.ok(isTurnpikeError(error), `an error that is not ours: ${String(error)}`);
    assert.ok(error.written === 'no' || error.written === 'unknown', `it doesn't say whether it was written: ${error.message}`);
    return error;
  });
}

/** 1,000 records appended and not waited for, closed by whichever way while they are under way; what the log holds must be what their callers were told. */
async function closeUnderLoad(bench: Bench, close: (link: LinkBench, producer: AsyncDisposable) => Promise<void>): Promise<void> {
  const partitions = 3;
  const topic = await bench.topic('t', { partitions });
  const link = await bench.link();
  const producer = await link.producer();
  await producer.port.warm([topic]);
  const values = numbered(1_000).map(String);
  const sent = values.map((value, n) => producer.append({ topic, partition: n % partitions, value, key: value }));
  assert.ok(!sent.includes(undefined), 'all of them fit into its memory');
  await bench.within(CLOSE_MS, close(link, producer), 'close');
  const outcomes = await bench.within(1_000, Promise.allSettled(sent.flatMap((s) => s ?? [])), 'when the close has ended, every record has');
  assert.equal(producer.settledTwice, 0);
  const errors = assertAllEnded(outcomes);
  const acknowledged = values.filter((_, n) => outcomes[n]?.status === 'fulfilled');
  const maybe = values.filter((_, n) => {
    const outcome = outcomes[n];
    return outcome?.status === 'rejected' && (outcome.reason as TurnpikeError).written === 'unknown';
  });
  const reader = await bench.readBack(topic, acknowledged.length);
  await reader.pollFor(QUIET_MS);
  const found = reader.values.map(String);
  assert.deepEqual(
    acknowledged.filter((v) => !found.includes(v)),
    [],
    'what was acknowledged is in the log',
  );
  assert.equal(new Set(found).size, found.length, 'once');
  assert.deepEqual(
    found.filter((v) => !acknowledged.includes(v) && !maybe.includes(v)),
    [],
    'what was certainly not written is not in it',
  );
  for (const [n, outcome] of outcomes.entries()) {
    if (outcome.status !== 'fulfilled') continue;
    const stored = reader.records.find((r) => r.partition === outcome.value.partition && r.offset === outcome.value.offset);
    assert.equal(stored?.value?.toString(), values[n], 'at the offset that its caller was told');
  }
  // A close that gives up what it could send is no close under load.
  assert.equal(errors.length, 0, `the broker is well, yet ${errors.length} records failed: ${errors[0]?.message}`);
  await assertRefusal((async () => producer.send({ topic, value: 'late' }))(), 'CLOSED', 5_000);
}

/** The broker goes away, or falls silent, while records are in flight: all ends in bounded time. */
async function closeWithoutBroker(bench: Bench, how: 'kill' | 'pause'): Promise<void> {
  const { platform, node } = await fragile(bench);
  const topic = await bench.topic('t', { partitions: 2, platform });
  const group = await bench.group('g', { platform });
  const link = await bench.link({ platform });
  const [producer, consumer] = [await link.producer({ deliveryTimeoutMs: DELIVERY_MS, requestTimeoutMs: 2_000 }), await link.consumer({ group })];
  eachSent(await producer.sendAll(numbered(20).map((n) => ({ topic, partition: n % 2, value: `${n}` }))));
  await consumer.join([topic], 2);
  await consumer.untilCount(20);
  await node[how]();
  const sent = numbered(200).map((n) => producer.append({ topic, partition: n % 2, value: `lost ${n}` }) ?? Promise.reject(new Error('no room')));
  const outcomes = Promise.allSettled(sent);
  const started = performance.now();
  await bench.within(
    CLOSE_MS,
    Promise.all([producer[Symbol.asyncDispose](), consumer[Symbol.asyncDispose]()]).then(() => {}),
    'close of producer and consumer',
  );
  await bench.within(CLOSE_MS, link[Symbol.asyncDispose](), 'close of the link');
  assert.ok(performance.now() - started < CLOSE_MS, 'all of it');
  const errors = assertAllEnded(await bench.within(1_000, outcomes, 'every record has ended'));
  assert.equal(errors.length, 200);
  for (const error of errors) assert.ok(['DELIVERY_TIMEOUT', 'BROKER_UNAVAILABLE', 'CLOSED'].includes(error.code), error.message);
  assert.equal(producer.settledTwice, 0);
  assert.deepEqual(await consumer.port.poll(0), []);
}

export const lifecycle: readonly CaseDefinition[] = [
  define({
    row: 'Connecting',
    name: 'refuses a cluster that is another one than was asked for',
    run: async (bench) => {
      const error = await assertRefusal(bench.link({ cluster: { id: 'A-cluster-of-others-xx' } }), 'CLUSTER_MISMATCH', 5_000);
      assert.equal(error.retriable, false);
    },
  }),

  define({
    row: 'Connecting',
    name: 'says BROKER_UNAVAILABLE within its timeout where nobody answers, or somebody who says nothing',
    needs: 'broker',
    run: async (bench) => {
      const silent = new Set<Socket>();
      const server = createServer((socket) => {
        socket.on('error', () => {});
        silent.add(socket);
      });
      await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
      const address = server.address();
      assert.ok(typeof address === 'object' && address);
      const bootstrap = [`127.0.0.1:${address.port}`];
      try {
        const mute = await assertRefusal(bench.link({ cluster: { bootstrap }, connectTimeoutMs: 2_000 }), 'BROKER_UNAVAILABLE', 5_000);
        assert.equal(mute.retriable, true);
      } finally {
        for (const socket of silent) socket.destroy();
        await new Promise<void>((resolve) => server.close(() => resolve()));
      }
      const nobody = await assertRefusal(bench.link({ cluster: { bootstrap }, connectTimeoutMs: 1_000 }), 'BROKER_UNAVAILABLE', 5_000);
      assert.equal(nobody.retriable, true);
    },
  }),

  define({
    row: 'Close under load',
    name: 'ends every record that was appended before its producer was closed, and tells of each what the log holds',
    quick: true,
    run: (bench) => closeUnderLoad(bench, async (_link, producer) => producer[Symbol.asyncDispose]()),
  }),

  define({
    row: 'Close under load',
    name: 'ends every record that was appended before its link was closed, and tells of each what the log holds',
    run: (bench) => closeUnderLoad(bench, async (link) => link[Symbol.asyncDispose]()),
  }),

  define({
    row: 'Close under load',
    name: 'delivers nothing, assigns nothing and charges nothing after the close of a consumer that was reading, and its member has left',
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 2 });
      let charges = 0;
      const link = await bench.link({ fetchGate: { permit: () => 0, charge: () => void charges++ } });
      const flow = Flow.start(await bench.link(), topic, 2);
      const consumer = await link.consumer();
      await consumer.join([topic], 2);
      await consumer.untilCount(50);
      await bench.within(CLOSE_MS, consumer[Symbol.asyncDispose](), 'close');
      const before = { charges, changes: consumer.changes.filter((c) => c.kind === 'assigned').length };
      await flow.more(50);
      assert.deepEqual(await consumer.port.poll(QUIET_MS), []);
      assert.deepEqual({ charges, changes: consumer.changes.filter((c) => c.kind === 'assigned').length }, before);
      assert.equal(consumer.failure, undefined, 'a close is no failure');
      await flow.stop();
      await bench.eventually(
        5_000,
        async () => (await bench.admin.describeGroups([consumer.group]))[0]?.members.length ?? 0,
        (members) => members === 0,
        'the member has left',
      );
    },
  }),

  define({
    row: 'Close',
    name: 'may be closed twice, at the same time or later, in any order; the close of a link is that of all it has opened',
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await bench.link();
      const [producer, idle, consumer, unused] = [await link.producer(), await link.producer(), await link.consumer(), await link.consumer()];
      await producer.send({ topic, value: 'v' });
      await consumer.join([topic], 1);
      await consumer.untilCount(1);
      const close = (what: AsyncDisposable) => bench.within(CLOSE_MS, Promise.resolve(what[Symbol.asyncDispose]()), 'close');
      await Promise.all([close(idle), close(idle)]);
      await close(idle);
      await Promise.all([close(link), close(link), close(consumer), close(producer)]);
      for (const closed of [link, consumer, producer, unused, idle]) await close(closed);
      await assertRefusal((async () => producer.send({ topic, value: 'late' }))(), 'CLOSED', 5_000);
      assert.deepEqual(await consumer.port.poll(0), []);
    },
  }),

  define({
    row: 'Close while the broker is gone',
    name: 'closes producer, consumer and link within 10 s of the death of the broker, with records in flight that end with an error',
    needs: 'broker',
    alone: true, // It stops the broker that the others of its kind use.
    run: (bench) => closeWithoutBroker(bench, 'kill'),
  }),

  define({
    row: 'Close while the broker is gone',
    name: 'closes them within 10 s though the broker is there and says nothing',
    needs: 'broker',
    alone: true, // It stops the broker that the others of its kind use.
    run: (bench) => closeWithoutBroker(bench, 'pause'),
  }),

  define({
    row: 'Broker restart',
    name: 'loses nothing and writes nothing twice while a broker restarts, producing and consuming',
    needs: 'broker',
    alone: true, // It stops the broker that the others of its kind use.
    run: async (bench) => {
      const { platform, node } = await fragile(bench);
      const topic = await bench.topic('t', { partitions: 2, platform });
      const group = await bench.group('g', { platform });
      const link = await bench.link({ platform });
      const flow = Flow.start(link, topic, 2, { deliveryTimeoutMs: 50_000 });
      const ledger = new Ledger();
      const member = await Member.start(await bench.link({ platform }), topic, { group, ledger, name: 'member', sessionTimeoutMs: 6_000 });
      await untilShared([member], [2]);
      await flow.more(100);
      await node.stop();
      await node.start();
      await flow.more(100);
      await flow.stop();
      await bench.eventually(
        20_000,
        () => flow.sent.filter((value) => !ledger.handled.has(value)),
        (missing) => missing.length === 0,
        'every record that was acknowledged is handled',
      );
      assert.equal(member.failure, undefined);
      await member.close();
      const reader = await link.consumer({ group: await bench.group('again', { platform }) });
      await reader.join([topic], 2);
      await reader.untilCount(flow.sent.length);
      await reader.pollFor(QUIET_MS);
      assert.deepEqual([...reader.values].sort(), [...flow.sent].sort(), 'the log holds each of them once');
      for (const partition of [0, 1]) {
        const numbers = reader.records.filter((r) => r.partition === partition).map((r) => Number(r.value?.toString().split('.')[1]));
        assert.deepEqual(numbers, numbered(numbers.length), 'in the order in which they were sent');
      }
    },
  }),

  define({
    row: 'Back to the start',
    alone: true,
    name: 'gives back memory, handles, threads and files after 100 producers and consumers on one link, and 20 links',
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await bench.link();
      const groups = await Promise.all(numbered(10).map(() => bench.group()));
      const cycle = async (on: LinkBench, group: string): Promise<void> => {
        const [producer, consumer] = [await on.producer(), await on.consumer({ group, fetchWaitMs: 20 })];
        await producer.send({ topic, value: 'v' });
        await consumer.join([topic], 1);
        await consumer.untilCount(1);
        await consumer.commit();
        await Promise.all([producer[Symbol.asyncDispose](), consumer[Symbol.asyncDispose]()]);
      };
      const links = () =>
        Promise.all(
          groups.map(async (group) => {
            const own = await bench.link({ identity: link.identity });
            await cycle(own, group);
            await own[Symbol.asyncDispose]();
          }),
        );
      const cycles = async (times: number): Promise<void> => {
        for (let n = 0; n < times; n++) await Promise.all(groups.map((group) => cycle(link, group)));
      };
      // What is made once, and kept, is made by now.
      await cycles(2);
      await links();
      const [before, bytesBefore] = [resources(), await liveBytes()];
      await cycles(8);
      await links();
      await bench.eventually(
        10_000,
        () => grown(before, resources()),
        (more) => more.length === 0,
        'handles, threads and files are back to the start',
      );
      const grownBytes = (await liveBytes()) - bytesBefore;
      assert.ok(grownBytes < 4_000_000, `${(grownBytes / 1e6).toFixed(1)} MB are held more than before`);
    },
  }),
];
