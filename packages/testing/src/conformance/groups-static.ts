import assert from 'node:assert/strict';
import { assertRefusal } from './assertions.ts';
import { eachSent, numbered } from './data.ts';
import type { CaseDefinition } from './frame.ts';
import { Flow, Ledger, Member, untilShared } from './groups-member.ts';
import { inEachProtocol, PARTITIONS, SESSION_MS, untilHandled } from './groups-protocols.ts';

export const staticGroups: readonly CaseDefinition[] = [
  ...inEachProtocol({
    row: 'Static membership',
    name: 'moves no partition of anybody when a member restarts within its session',
    needs: 'broker',
    capability: (c) => c.staticMembership,
    asks: { consumer: { instanceId: 'conformance-1' } },
    run: async (bench, { at, options }) => {
      const topic = await bench.topic('t', { partitions: PARTITIONS, ...at });
      const group = await bench.group('g', at);
      const [link, other] = [await bench.link(at), await bench.link(at)];
      const ledger = new Ledger();
      const flow = Flow.start(link, topic, PARTITIONS);
      const init = { ...options, group, ledger };
      // The first to come leads a classic group: it restarts as well.
      const leads = await Member.start(link, topic, { ...init, name: 'leads', instanceId: 'leads' });
      await untilShared([leads], [PARTITIONS]);
      const follows = await Member.start(other, topic, { ...init, name: 'follows', instanceId: 'follows' });
      await untilShared([leads, follows], [2, 2]);
      const [ofLeads, ofFollows] = [leads.partitions, follows.partitions];
      const changesOf = (member: string) => ledger.changes.filter((c) => c.member === member).length;
      const told = { leads: changesOf('leads') };
      await follows.close();
      await flow.more(100);
      const followsAgain = await Member.start(await bench.link(at), topic, { ...init, name: 'follows again', instanceId: 'follows' });
      await untilShared([leads, followsAgain], [2, 2]);
      assert.deepEqual(followsAgain.partitions, ofFollows, 'the member that restarted has its partitions again');
      await flow.more(100);
      assert.equal(changesOf('leads'), told.leads, 'the member that stayed was told of nothing');
      await leads.close();
      await flow.more(100);
      const leadsAgain = await Member.start(await bench.link(at), topic, { ...init, name: 'leads again', instanceId: 'leads' });
      await untilShared([leadsAgain, followsAgain], [2, 2]);
      assert.deepEqual(leadsAgain.partitions, ofLeads);
      await flow.more(100);
      await flow.stop();
      await untilHandled(bench, flow, ledger);
      assert.equal(changesOf('follows again'), 1, 'its assignment, and nothing else');
      assert.deepEqual(ledger.repeated, []);
      await Promise.all([leadsAgain.close(), followsAgain.close()]);
    },
  }),

  ...inEachProtocol({
    row: 'Static membership',
    name: 'gives the partitions of a member that does not come back to the others when its session is over',
    needs: 'broker',
    capability: (c) => c.staticMembership,
    run: async (bench, { at, options }) => {
      const topic = await bench.topic('t', { partitions: 2, ...at });
      const group = await bench.group('g', at);
      const link = await bench.link(at);
      const ledger = new Ledger();
      const init = { ...options, group, ledger };
      const stays = await Member.start(link, topic, { ...init, name: 'stays', instanceId: 'stays' });
      await untilShared([stays], [2]);
      const goes = await Member.start(await bench.link(at), topic, { ...init, name: 'goes', instanceId: 'goes' });
      await untilShared([stays, goes], [1, 1]);
      const closedAt = performance.now();
      await goes.close();
      await untilShared([stays], [2]);
      assert.ok(performance.now() - closedAt > SESSION_MS / 2, 'not before');
      const producer = await link.producer();
      eachSent(await producer.sendAll(numbered(20).map((n) => ({ topic, partition: n % 2, value: `${n}` }))));
      await bench.eventually(
        10_000,
        () => ledger.handled.size,
        (n) => n === 20,
        'all is delivered to the one that stays',
      );
      await stays.close();
    },
  }),

  ...inEachProtocol({
    row: 'Static membership',
    name: 'keeps one of two members with the same instance id, and ends the other with MEMBERSHIP_LOST that names it: the older one, under KIP-848 the younger',
    needs: 'broker',
    capability: (c) => c.staticMembership,
    run: async (bench, { at, options, protocol }) => {
      const topic = await bench.topic('t', at);
      const group = await bench.group('g', at);
      const link = await bench.link(at);
      const init = { ...options, group, instanceId: 'one-of-two' };
      const older = await link.consumer(init);
      await older.join([topic], 1);
      const younger = await (await bench.link(at)).consumer(init);
      const joining = younger.join([topic], 1);
      joining.catch(() => {});
      const kept = protocol === 'classic' ? younger : older;
      const failed = protocol === 'classic' ? older.until(() => false) : joining;
      const error = await assertRefusal(failed, 'MEMBERSHIP_LOST', 20_000);
      assert.match(error.message, /one-of-two/);
      assert.equal(error.facts.group, group);
      if (protocol === 'classic') await joining;
      const producer = await link.producer();
      await producer.send({ topic, value: 'v' });
      await kept.untilCount(1);
      await kept.commit();
      assert.equal(kept.failure, undefined);
    },
  }),
];
