import assert from 'node:assert/strict';
import { pause, systemClock } from '@turnpike/core/spi';
import { assertRefusal } from './assertions.ts';
import { eachSent, numbered } from './data.ts';
import { type CaseDefinition, define } from './frame.ts';
import { Ledger, Member, untilShared } from './groups-member.ts';
import { inEachProtocol, joinAndLeave, kip848, SESSION_MS } from './groups-protocols.ts';
import { staticGroups } from './groups-static.ts';

export const groups: readonly CaseDefinition[] = [
  ...inEachProtocol({
    row: 'Rebalance',
    name: 'moves partitions to a member that joins and back when it leaves: no record is lost, none comes twice, while records flow',
    quick: true,
    run: async (bench, ground) => {
      await joinAndLeave(bench, ground);
    },
  }),

  ...inEachProtocol({
    row: 'Rebalance',
    name: 'waits for a member that still drains, and keeps it in the group meanwhile, before another one gets its partition',
    run: async (bench, ground) => {
      let drained: Promise<void> | undefined;
      // Longer than a session: heartbeats must go on.
      const draining = () => (drained ??= pause(systemClock, SESSION_MS + 1_000));
      const options = { ...ground.options, heartbeatIntervalMs: 200, rebalanceTimeoutMs: 30_000 };
      const { ledger } = await joinAndLeave(bench, { ...ground, options }, { draining });
      assert.ok(ledger.of('first', 'revoked').length >= 2, 'the first member gave up two partitions');
    },
  }),

  ...inEachProtocol({
    row: 'Cooperative rebalance',
    name: 'leaves a member the partitions that stay, and goes on delivering them while others are given up',
    capability: (c) => c.cooperativeRebalance,
    run: async (bench, ground) => {
      const { at, options } = ground;
      const { ledger } = await joinAndLeave(bench, ground);
      assert.equal(ledger.of('first', 'revoking').length, 2, 'only what moved was revoked from the first member');

      const topic = await bench.topic('held', { partitions: 2, ...at });
      const group = await bench.group('g', at);
      const held = Promise.withResolvers<void>();
      const slow = new Ledger();
      const link = await bench.link(at);
      const producer = await link.producer();
      const first = await Member.start(link, topic, { ...options, group, ledger: slow, name: 'first', draining: () => held.promise });
      await untilShared([first], [2]);
      const second = await Member.start(await bench.link(at), topic, { ...options, group, ledger: slow, name: 'second' });
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
    name: 'asks a member back only for what moves',
    needs: 'broker',
    capability: (c) => c.groupProtocols.includes('consumer'),
    asks: { consumer: { groupProtocol: 'consumer' } },
    run: async (bench) => {
      const { ledger } = await joinAndLeave(bench, await kip848(bench));
      assert.equal(ledger.of('first', 'revoking').length, 2, 'only what moved was revoked');
    },
  }),

  define({
    row: 'KIP-848 groups',
    name: 'goes over from the classic protocol member by member: no record is lost, none comes twice',
    needs: 'broker',
    capability: (c) => c.cooperativeRebalance && c.groupProtocols.includes('consumer'),
    run: async (bench) => {
      const ground = await kip848(bench);
      await joinAndLeave(bench, ground, { first: { groupProtocol: 'classic' } });
      await joinAndLeave(bench, ground, { second: { groupProtocol: 'classic' } });
    },
  }),

  ...inEachProtocol({
    row: 'Membership lost',
    name: 'begins where the group has committed, and refuses the commit of a partition that is not its own',
    run: async (bench, { at, options }) => {
      const topic = await bench.topic('t', at);
      const group = await bench.group('g', at);
      const link = await bench.link(at);
      const producer = await link.producer();
      eachSent(await producer.sendAll(numbered(10).map((n) => ({ topic, value: `${n}` }))));
      const first = await link.consumer({ ...options, group });
      await first.join([topic], 1);
      await first.untilCount(10);
      await first.port.commit([{ topic, partition: 0, offset: 4n }]);
      await first[Symbol.asyncDispose]();
      const second = await link.consumer({ ...options, group });
      await second.join([topic], 1);
      await second.untilCount(6);
      assert.deepEqual(second.values, ['4', '5', '6', '7', '8', '9']);
      await assertRefusal(second.port.commit([{ topic, partition: 1, offset: 1n }]), 'MEMBERSHIP_LOST', 10_000);
    },
  }),

  ...inEachProtocol({
    row: 'Membership lost',
    name: "never moves the group's offset by the commit of a member that did not give up its partition in time: it is MEMBERSHIP_LOST",
    run: async (bench, { at, options: its }) => {
      const topic = await bench.topic('t', { partitions: 2, ...at });
      const group = await bench.group('g', at);
      const link = await bench.link(at);
      const producer = await link.producer();
      eachSent(await producer.sendAll(numbered(100).map((n) => ({ topic, partition: n % 2, value: `${n}` }))));
      const held = Promise.withResolvers<void>();
      bench.defer(held.resolve); // Before the links close, also where the case fails.
      const options = { ...its, group, rebalanceTimeoutMs: 2_000, drainTimeoutMs: 1_000 };
      const late = await link.consumer({ ...options, onRevoking: () => held.promise });
      await late.join([topic], 2);
      await late.untilCount(100);
      const next = await (await bench.link(at)).consumer(options);
      const joining = next.join([topic], 1);
      joining.catch(() => {});
      // It polls, as a member does whose handler hangs in one partition.
      await late.until(() => next.assigned.size === 1, { what: 'the other member gets a partition although this one never drained' });
      await joining;
      const [moved] = [...next.assigned.values()];
      assert.ok(moved);
      await next.port.commit([{ ...moved, offset: 7n }]);
      await assertRefusal(late.port.commit([{ ...moved, offset: 50n }]), 'MEMBERSHIP_LOST', 10_000);
      const admin = at.platform ? await bench.adminOf(at.platform) : bench.admin;
      assert.equal((await admin.groupOffsets(group)).find((o) => o.partition === moved.partition)?.offset, 7n);
    },
  }),

  ...inEachProtocol({
    row: 'Change of the transport',
    name: 'goes on exactly where a member over another transport has committed, and leaves its own commits for such a one',
    needs: 'broker',
    run: async (bench, { at, options }) => {
      const topic = await bench.topic('t', { partitions: 2, ...at });
      const group = await bench.group('g', at);
      const [own, foreign] = [await bench.link(at), await bench.foreign(at)];
      const producer = await own.producer();
      eachSent(await producer.sendAll(numbered(60).map((n) => ({ topic, partition: n % 2, value: `${n}` }))));
      for (const [turn, link] of [foreign, own, foreign].entries()) {
        const consumer = await link.consumer({ ...options, group });
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

  ...staticGroups,
];
