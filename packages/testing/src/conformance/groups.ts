import assert from 'node:assert/strict';
import { pause, systemClock } from '@turnpike/core/spi';
import { assertRefusal } from './assertions.ts';
import type { Bench, ConsumerBenchOptions } from './bench.ts';
import { eachSent, numbered } from './data.ts';
import { type CaseDefinition, define } from './frame.ts';
import { Flow, Ledger, Member, untilShared } from './groups-member.ts';

const PARTITIONS = 4;

/** A second member joins a first one and leaves again, while records flow. What the ledger must say in any protocol is asserted here. */
async function joinAndLeave(
  bench: Bench,
  { platform, draining, ...options }: ConsumerBenchOptions & { readonly platform?: Bench['platform']; readonly draining?: () => Promise<void> } = {},
): Promise<{ readonly topic: string; readonly ledger: Ledger }> {
  const at = platform ? { platform } : {};
  const topic = await bench.topic('t', { partitions: PARTITIONS, ...at });
  const group = await bench.group('g', at);
  const [link, other] = [await bench.link(at), await bench.link(at)];
  const ledger = new Ledger();
  const flow = Flow.start(link, topic, PARTITIONS);
  const init = { ...options, group, ledger, ...(draining ? { draining } : {}) };
  const first = await Member.start(link, topic, { ...init, name: 'first' });
  await untilShared([first], [PARTITIONS]);
  await flow.more(100);
  const second = await Member.start(other, topic, { ...init, name: 'second' });
  await untilShared([first, second], [2, 2]);
  await flow.more(100);
  const before = new Set(flow.sent);
  await bench.eventually(
    20_000,
    () => [...ledger.handled.values()].filter(([by]) => by === 'second').length,
    (n) => n > 0,
    'the second member handles records',
  );
  await second.close();
  await untilShared([first], [PARTITIONS]);
  await flow.more(100);
  await flow.stop();
  await bench.eventually(
    20_000,
    () => flow.sent.filter((value) => !ledger.handled.has(value)),
    (missing) => missing.length === 0,
    'every record is handled by one of the two',
  );
  await first.close();
  assert.ok(before.size > 100);
  assert.deepEqual(ledger.repeated, [], 'nothing is delivered again that was handled and committed before its partition moved');
  assert.deepEqual(ledger.doubleOwners, [], 'no partition comes to a member before the other one has given it up');
  assert.deepEqual([...ledger.of('first', 'lost'), ...ledger.of('second', 'lost')], [], 'nothing is lost without notice');
  return { topic, ledger };
}

export const groups: readonly CaseDefinition[] = [
  define({
    row: 'Rebalance',
    name: 'moves partitions to a member that joins and back when it leaves: no record is lost, none comes twice, while records flow',
    quick: true,
    run: async (bench) => {
      await joinAndLeave(bench);
    },
  }),

  define({
    row: 'Rebalance',
    name: 'waits for a member that still drains, and keeps it in the group meanwhile, before another one gets its partition',
    run: async (bench) => {
      let drained: Promise<void> | undefined;
      // Longer than a session: heartbeats must go on.
      const { ledger } = await joinAndLeave(bench, {
        sessionTimeoutMs: 6_000,
        heartbeatIntervalMs: 200,
        rebalanceTimeoutMs: 30_000,
        draining: () => (drained ??= pause(systemClock, 7_000)),
      });
      assert.ok(ledger.of('first', 'revoked').length >= 2, 'the first member gave up two partitions');
    },
  }),

  define({
    row: 'Cooperative rebalance',
    name: 'leaves a member the partitions that stay, and goes on delivering them while others are given up',
    capability: (c) => c.cooperativeRebalance,
    run: async (bench) => {
      const { ledger } = await joinAndLeave(bench);
      assert.equal(ledger.of('first', 'revoking').length, 2, 'only what moved was revoked from the first member');

      const topic = await bench.topic('held', { partitions: 2 });
      const group = await bench.group();
      const held = Promise.withResolvers<void>();
      const slow = new Ledger();
      const link = await bench.link();
      const producer = await link.producer();
      const first = await Member.start(link, topic, { group, ledger: slow, name: 'first', draining: () => held.promise });
      await untilShared([first], [2]);
      const second = await Member.start(await bench.link(), topic, { group, ledger: slow, name: 'second' });
      const leaving = () => slow.of('first', 'revoking');
      await bench.eventually(20_000, leaving, ({ length }) => length === 1, 'one partition is asked back');
      const staying = [0, 1].find((partition) => !leaving().includes(`${topic}/${partition}`));
      eachSent(await producer.sendAll(numbered(20).map((n) => ({ topic, partition: staying ?? -1, value: `${n}` }))));
      await bench.eventually(
        10_000,
        () => slow.handled.size,
        (n) => n === 20,
        'the partition that stays is delivered while the other one drains',
      );
      held.resolve();
      await untilShared([first, second], [1, 1]);
      await second.close();
      await untilShared([first], [2]);
      await first.close();
      assert.deepEqual(leaving().length, 1);
      assert.deepEqual(slow.repeated, []);
    },
  }),

  define({
    row: 'KIP-848 groups',
    name: 'shares partitions by the new protocol, and moves them without losing or repeating a record',
    needs: 'broker',
    capability: (c) => c.groupProtocols.includes('consumer'),
    asks: { consumer: { groupProtocol: 'consumer' } },
    run: async (bench) => {
      const platform = await bench.platformWith({
        // The broker rules how often members are heard (KIP-848); its 5 s would make this a slow case.
        properties: { 'group.consumer.heartbeat.interval.ms': '500', 'group.consumer.min.heartbeat.interval.ms': '100' },
      });
      const { ledger } = await joinAndLeave(bench, { platform, groupProtocol: 'consumer' });
      assert.equal(ledger.of('first', 'revoking').length, 2, 'only what moved was revoked');
    },
  }),

  define({
    row: 'KIP-848 groups',
    name: 'begins where the group has committed, and refuses the commit of a partition that has moved',
    needs: 'broker',
    capability: (c) => c.groupProtocols.includes('consumer'),
    asks: { consumer: { groupProtocol: 'consumer' } },
    run: async (bench) => {
      const topic = await bench.topic();
      const group = await bench.group();
      const link = await bench.link();
      const producer = await link.producer();
      eachSent(await producer.sendAll(numbered(10).map((n) => ({ topic, value: `${n}` }))));
      const first = await link.consumer({ group, groupProtocol: 'consumer' });
      await first.join([topic], 1);
      await first.untilCount(10);
      await first.port.commit([{ topic, partition: 0, offset: 4n }]);
      await first[Symbol.asyncDispose]();
      const second = await link.consumer({ group, groupProtocol: 'consumer' });
      await second.join([topic], 1);
      await second.untilCount(6);
      assert.deepEqual(second.values, ['4', '5', '6', '7', '8', '9']);
      await assertRefusal(second.port.commit([{ topic, partition: 1, offset: 1n }]), 'MEMBERSHIP_LOST', 10_000);
    },
  }),

  define({
    row: 'Static membership',
    name: 'moves no partition of anybody when a member restarts within its session',
    needs: 'broker',
    capability: (c) => c.staticMembership,
    asks: { consumer: { instanceId: 'conformance-1' } },
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: PARTITIONS });
      const group = await bench.group();
      const [link, other] = [await bench.link(), await bench.link()];
      const ledger = new Ledger();
      const flow = Flow.start(link, topic, PARTITIONS);
      const stays = await Member.start(link, topic, { group, ledger, name: 'stays', instanceId: 'stays' });
      await untilShared([stays], [PARTITIONS]);
      const restarts = await Member.start(other, topic, { group, ledger, name: 'restarts', instanceId: 'restarts' });
      await untilShared([stays, restarts], [2, 2]);
      const [itsOwn, before] = [restarts.partitions, ledger.changes.filter((c) => c.member === 'stays').length];
      await restarts.close();
      await flow.more(100);
      const again = await Member.start(await bench.link(), topic, { group, ledger, name: 'again', instanceId: 'restarts' });
      await untilShared([stays, again], [2, 2]);
      assert.deepEqual(again.partitions, itsOwn, 'the member that restarted has its partitions again');
      await flow.more(100);
      await flow.stop();
      await bench.eventually(
        20_000,
        () => flow.sent.filter((value) => !ledger.handled.has(value)),
        (missing) => missing.length === 0,
        'every record is handled',
      );
      assert.equal(ledger.changes.filter((c) => c.member === 'stays').length, before, 'the member that stayed was told of nothing');
      assert.deepEqual(ledger.repeated, []);
      await Promise.all([stays.close(), again.close()]);
    },
  }),

  define({
    row: 'Membership lost',
    name: "never moves the group's offset by the commit of a member that did not give up its partition in time: it is MEMBERSHIP_LOST",
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 2 });
      const group = await bench.group();
      const link = await bench.link();
      const producer = await link.producer();
      eachSent(await producer.sendAll(numbered(100).map((n) => ({ topic, partition: n % 2, value: `${n}` }))));
      const held = Promise.withResolvers<void>();
      bench.defer(held.resolve); // Before the links close, also where the case fails.
      const options = { group, rebalanceTimeoutMs: 2_000, drainTimeoutMs: 1_000, sessionTimeoutMs: 6_000 };
      const late = await link.consumer({ ...options, onRevoking: () => held.promise });
      await late.join([topic], 2);
      await late.untilCount(100);
      const next = await (await bench.link()).consumer(options);
      const joining = next.join([topic], 1);
      joining.catch(() => {});
      // It polls, as a member does whose handler hangs in one partition.
      await late.until(() => next.assigned.size === 1, { what: 'the other member gets a partition although this one never drained' });
      await joining;
      const [moved] = [...next.assigned.values()];
      assert.ok(moved);
      await next.port.commit([{ ...moved, offset: 7n }]);
      await assertRefusal(late.port.commit([{ ...moved, offset: 50n }]), 'MEMBERSHIP_LOST', 10_000);
      assert.equal((await bench.admin.groupOffsets(group)).find((o) => o.partition === moved.partition)?.offset, 7n);
    },
  }),

  define({
    row: 'Change of the transport',
    name: 'goes on exactly where a member over another transport has committed, and leaves its own commits for such a one',
    needs: 'broker',
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 2 });
      const group = await bench.group();
      const [own, foreign] = [await bench.link(), await bench.foreign()];
      const producer = await own.producer();
      eachSent(await producer.sendAll(numbered(60).map((n) => ({ topic, partition: n % 2, value: `${n}` }))));
      for (const [turn, link] of [foreign, own, foreign].entries()) {
        const consumer = await link.consumer({ group });
        await consumer.join([topic], 2);
        const before = turn * 10;
        await consumer.untilCount(2 * (30 - before));
        for (const partition of [0, 1])
          assert.deepEqual(
            consumer.records.filter((r) => r.partition === partition).map((r) => r.offset),
            numbered(30 - before).map((n) => BigInt(n + before)),
          );
        await consumer.port.commit([0, 1].map((partition) => ({ topic, partition, offset: BigInt(before + 10) })));
        await consumer[Symbol.asyncDispose]();
      }
    },
  }),
];
