import type { ConsumerOptions } from '@turnpike/core';
import type { AssignmentListener, ConsumerPort, Link } from '@turnpike/core/spi';
import { type CertificateAuthority, certificateAuthority } from '@turnpike/testing';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { FakeBroker } from './fake-broker.ts';
import { linkTo } from './link.ts';
import { fill as fillAt, type Member, memberOf } from './member.ts';

// Kafka's error codes (protocol guide, "Error codes").
const COORDINATOR_LOAD_IN_PROGRESS = 14;
const UNKNOWN_MEMBER_ID = 25;
const GROUP_AUTHORIZATION_FAILED = 30;
const UNSUPPORTED_VERSION = 35;
const FENCED_INSTANCE_ID = 82;
const FENCED_MEMBER_EPOCH = 110;
const STALE_MEMBER_EPOCH = 113;
const FIND_COORDINATOR = 10;

let ca: CertificateAuthority;
let broker: FakeBroker;
let link: Link;

beforeAll(async () => {
  ca = await certificateAuthority();
});
beforeEach(async () => {
  broker = await FakeBroker.open(ca, { nodes: 2, topics: { t: 2, other: 1 } });
  link = await linkTo(broker, ca);
});
afterEach(async () => {
  await link[Symbol.asyncDispose]();
  await broker[Symbol.asyncDispose]();
});

const fill = (topic: string, partition: number, values: readonly string[]) => fillAt(link, topic, partition, values);
const member = (raw: ConsumerOptions = {}, listener?: Partial<AssignmentListener>, topics?: string[]): Member =>
  memberOf(link, { groupProtocol: 'consumer', ...raw }, listener, topics);

/** Reads until `count` have come, within 5 s. */
async function read(port: ConsumerPort, count: number): Promise<string[]> {
  const got: string[] = [];
  const until = performance.now() + 5_000;
  while (got.length < count && performance.now() < until) for (const b of await port.poll(100)) got.push(...[...b.records].map((r) => String(r.value)));
  return got;
}

const heartbeats = () => broker.group.heartbeats;
const last = () => heartbeats().at(-1);
const partition = (topic: string, p: number) => `${broker.topicId(topic)}/${p}`;
const ofT = (offset: bigint) => [{ topic: 't', partition: 0, offset }];

describe('wire, a KIP-848 member: joining and leaving', () => {
  it('names itself, says all once and then only what is new, as often as the broker asks', async () => {
    const { port, told, joined } = member();
    await joined;
    await expect.poll(() => heartbeats().length).toBeGreaterThan(5);
    const [join, acknowledgement, ...others] = heartbeats();
    expect(join).toMatchObject({ epoch: 0, topics: ['t', 'other'], owned: [], instanceId: null });
    expect(join?.member).toMatch(/^[\w-]{20,}$/);
    expect(join?.rebalanceTimeoutMs).toBeGreaterThan(60_000);
    expect(acknowledgement).toMatchObject({ epoch: 1, topics: null, rebalanceTimeoutMs: -1 });
    expect([...(acknowledgement?.owned ?? [])].sort()).toEqual([partition('t', 0), partition('t', 1), partition('other', 0)].sort());
    for (const other of others) expect(other).toMatchObject({ member: join?.member, epoch: 1, topics: null, owned: null });
    expect(told).toEqual(['assigned other/0,t/0,t/1']);
    await port[Symbol.asyncDispose]();
    expect(last()).toMatchObject({ member: join?.member, epoch: -1 });
  });

  it('waits as long as the broker says between two heartbeats', async () => {
    broker.group.intervalMs = 400;
    await member().joined;
    await expect.poll(() => heartbeats().length).toBe(2); // It joined, and said what it has.
    const before = performance.now();
    await expect.poll(() => heartbeats().length, { timeout: 3_000 }).toBe(4);
    expect(performance.now() - before).toBeGreaterThan(600);
  });

  it('leaves the group although its coordinator is another by then', async () => {
    broker.group.intervalMs = 10_000;
    const { port, joined } = member();
    await joined;
    await expect.poll(() => heartbeats().length).toBe(2);
    broker.coordinator = 1;
    await port[Symbol.asyncDispose]();
    expect(broker.group.members.size).toBe(0);
  });

  it('with an instance id it says that it comes back', async () => {
    const { port, joined } = member({ instanceId: 'pod-0' });
    await joined;
    await port[Symbol.asyncDispose]();
    expect(last()).toMatchObject({ epoch: -2, instanceId: 'pod-0' });
  });

  it.each([
    ['a broker without the API', { hasApi: false }],
    ['a broker whose groups are classic', { hasApi: true }],
  ])('says what is missing at %s', async (_, { hasApi }) => {
    broker.hasConsumerGroups = hasApi;
    broker.group.onHeartbeat = () => UNSUPPORTED_VERSION;
    const { joined, told } = member();
    await expect(joined).rejects.toMatchObject({ code: 'CAPABILITY_MISSING', message: expect.stringMatching(/Kafka 4\.0/), facts: { group: 'g' } });
    expect(told).toEqual(['failed CAPABILITY_MISSING']);
  });

  it('is told that it may not use the group, at once and later', async () => {
    broker.group.onHeartbeat = () => GROUP_AUTHORIZATION_FAILED;
    const denied = member();
    await expect(denied.joined).rejects.toMatchObject({ code: 'AUTHORIZATION_FAILED', facts: { group: 'g' } });
    broker.group.onHeartbeat = () => 0;
    const { told, joined } = member();
    await joined;
    broker.group.onHeartbeat = () => GROUP_AUTHORIZATION_FAILED;
    await expect.poll(() => told).toContain('failed AUTHORIZATION_FAILED');
  });

  it('follows the group to another coordinator, and waits for one that loads it', async () => {
    const { port, told, joined } = member();
    await joined;
    broker.coordinator = 1;
    broker.group.onHeartbeat = () => (heartbeats().length % 2 === 0 ? COORDINATOR_LOAD_IN_PROGRESS : 0);
    const before = heartbeats().length;
    await expect.poll(() => heartbeats().length, { timeout: 5_000 }).toBeGreaterThan(before + 6);
    await port.commit(ofT(3n));
    expect(broker.committed.get('t/0')).toBe(3n);
    expect(told).toEqual(['assigned other/0,t/0,t/1']);
  });

  // It asked the dead one for ever whether it has the API: only a request that fails made it look for another.
  it('joins again at the next coordinator when the one before it was gone for longer than a session', async () => {
    const { told, joined } = member({ sessionTimeoutMs: 1_000, requestTimeoutMs: 300 }, {}, ['t']);
    await joined;
    broker.topics.set('t', [1, 1]);
    broker.kill(0);
    await expect.poll(() => told, { timeout: 5_000 }).toEqual(['assigned t/0,t/1', 'lost t/0,t/1']);
    const asked = () => broker.asked.filter((a) => a.api === FIND_COORDINATOR).length;
    const before = asked();
    await expect.poll(() => asked() - before, { timeout: 5_000 }).toBeGreaterThan(1); // It finds the dead one, until the group has another.
    broker.coordinator = 1;
    await expect.poll(() => told, { timeout: 5_000 }).toEqual(['assigned t/0,t/1', 'lost t/0,t/1', 'assigned t/0,t/1']);
  });

  it('closes in bounded time while the coordinator is silent', async () => {
    broker.group.onHeartbeat = () => 'silence';
    const { port } = member();
    await expect.poll(() => heartbeats().length).toBe(1);
    const started = performance.now();
    await port[Symbol.asyncDispose]();
    expect(performance.now() - started).toBeLessThan(8_000);
  });
});

describe('wire, a KIP-848 member: its partitions', () => {
  it('keeps saying that it has what it drains, commits it meanwhile, and gives it up when it has drained', async () => {
    const drained = Promise.withResolvers<void>();
    const { port, told, joined } = member({}, { revoking: () => drained.promise }, ['t']);
    await joined;
    const second = member({}, {}, ['t']);
    await second.joined;
    await expect.poll(() => told.length).toBe(2);
    const [, given] = told[1]?.split(' ') ?? [];
    const moving = { topic: 't', partition: Number(given?.split('/')[1]) };
    const [first] = heartbeats();
    const before = heartbeats().length;
    await expect.poll(() => heartbeats().length).toBeGreaterThan(before + 10);
    expect(second.told).toEqual([]);
    await port.commit([{ ...moving, offset: 7n }]);
    drained.resolve();
    await expect.poll(() => second.told).toEqual([`assigned ${given}`]);
    const said = heartbeats().filter((h) => h.member === first?.member && h.owned !== null);
    expect(said.at(-1)?.owned).toEqual([partition('t', 1 - moving.partition)]);
    expect(broker.committed.get(`t/${moving.partition}`)).toBe(7n);
    await expect(port.commit([{ ...moving, offset: 8n }])).rejects.toMatchObject({ code: 'MEMBERSHIP_LOST' });
  });

  it('commits with the epoch that the next heartbeat brings when its own has become stale', async () => {
    const { port, joined } = member();
    await joined;
    broker.group.intervalMs = 300;
    await expect.poll(() => heartbeats().length).toBe(3);
    broker.group.rebalance();
    const seen: number[] = [];
    broker.onCommit = (epoch) => {
      seen.push(epoch);
      return epoch === broker.group.epoch ? 0 : STALE_MEMBER_EPOCH;
    };
    await port.commit(ofT(3n));
    expect(broker.committed.get('t/0')).toBe(3n);
    expect(seen.slice(0, -1)).not.toEqual([]);
    expect(new Set(seen.slice(0, -1))).toEqual(new Set([1]));
    expect(seen.at(-1)).toBe(2);
  });

  it('never commits with a new membership what was handled under one that was lost', async () => {
    const { port, told, joined } = member();
    await joined;
    broker.onCommit = () => STALE_MEMBER_EPOCH;
    const commit = port.commit(ofT(5n));
    commit.catch(() => {});
    const [id] = broker.group.members.keys();
    broker.group.expel(id ?? '');
    await expect.poll(() => told, { timeout: 5_000 }).toEqual(['assigned other/0,t/0,t/1', 'lost other/0,t/0,t/1', 'assigned other/0,t/0,t/1']);
    broker.onCommit = () => 0;
    await expect(commit).rejects.toMatchObject({ code: 'MEMBERSHIP_LOST' });
    expect(broker.committed.has('t/0')).toBe(false);
  });

  it.each([
    ['UNKNOWN_MEMBER_ID', UNKNOWN_MEMBER_ID],
    ['FENCED_MEMBER_EPOCH', FENCED_MEMBER_EPOCH],
  ])('tells what is lost with %s, joins again under the same id, and reads on', async (_, code) => {
    await fill('t', 0, ['a', 'b']);
    const { port, told, joined } = member({}, {}, ['t']);
    await joined;
    expect(await read(port, 2)).toEqual(['a', 'b']);
    await port.commit(ofT(1n));
    let refusals = 1;
    broker.group.onHeartbeat = () => (refusals-- > 0 ? code : 0);
    await expect.poll(() => told, { timeout: 5_000 }).toEqual(['assigned t/0,t/1', 'lost t/0,t/1', 'assigned t/0,t/1']);
    expect(await read(port, 1)).toEqual(['b']);
    expect(new Set(heartbeats().map((h) => h.member)).size).toBe(1);
  });

  it('says all again after a heartbeat that had no answer, and loses nothing by it', async () => {
    const { told, joined } = member({}, {}, ['t']);
    await joined;
    await expect.poll(() => heartbeats().length).toBeGreaterThan(3);
    broker.group.rebalance(); // The answer that is lost has a new epoch.
    let losses = 1;
    broker.group.onHeartbeat = () => (losses-- > 0 ? 'lost' : 0);
    const before = heartbeats().length;
    await expect.poll(() => heartbeats().length).toBeGreaterThan(before + 3);
    expect(heartbeats()[before + 1]).toMatchObject({ epoch: 1, topics: ['t'], owned: [partition('t', 0), partition('t', 1)] });
    expect(last()).toMatchObject({ epoch: 2 });
    expect(told).toEqual(['assigned t/0,t/1']);
  });

  it('takes its partitions for lost when the broker has not heard from it for a session', async () => {
    const { told, joined } = member({ sessionTimeoutMs: 1_000, requestTimeoutMs: 300 }, {}, ['t']);
    await joined;
    broker.group.onHeartbeat = () => 'cut';
    await expect.poll(() => told, { timeout: 5_000 }).toEqual(['assigned t/0,t/1', 'lost t/0,t/1']);
    broker.group.onHeartbeat = () => 0;
    await expect.poll(() => told, { timeout: 5_000 }).toEqual(['assigned t/0,t/1', 'lost t/0,t/1', 'assigned t/0,t/1']);
  });

  it('asks for the names of topics that metadata does not know yet', async () => {
    const { port, told, joined } = member({}, {}, ['t']);
    await joined;
    await expect.poll(() => heartbeats().length).toBeGreaterThan(2);
    await fill('t', 0, ['old']);
    expect(await read(port, 1)).toEqual(['old']);
    // Deleted and made anew: another topic of the same name.
    broker.renew('t');
    broker.log.clear();
    broker.group.rebalance();
    await expect.poll(() => told, { timeout: 5_000 }).toEqual(['assigned t/0,t/1', 'revoking t/0,t/1', 'assigned t/0,t/1']);
    await expect.poll(() => [...(heartbeats().findLast((h) => h.owned !== null)?.owned ?? [])].sort()).toEqual([partition('t', 0), partition('t', 1)].sort());
    await fill('t', 0, ['new']);
    expect(await read(port, 1)).toEqual(['new']);
  });

  it('reads a partition again that it did not give up in time and that came back before its drain had ended', async () => {
    const drained = Promise.withResolvers<void>();
    const { port, told, joined } = member({ rebalanceTimeoutMs: 500, drainTimeoutMs: 100 }, { revoking: () => drained.promise }, ['t']);
    await joined;
    const second = member({}, {}, ['t']);
    await second.joined;
    await expect.poll(() => second.told.length, { timeout: 3_000 }).toBe(1); // Though the first one never drained.
    await second.port[Symbol.asyncDispose]();
    await expect.poll(() => told.length, { timeout: 3_000 }).toBe(3);
    drained.resolve();
    const moved = Number(told[2]?.split('/')[1]);
    await fill('t', moved, ['again']);
    expect(await read(port, 1)).toEqual(['again']);
  });
});

describe('wire, static members', () => {
  it('waits for the session of a predecessor that was killed, and has its partitions then', async () => {
    broker.group.members.set('killed', {
      id: 'killed',
      instanceId: 'pod-0',
      epoch: 1,
      previousEpoch: 0,
      topics: ['t'],
      assigned: new Set(),
      target: new Set(),
      away: false,
      heardAtMs: 0,
    });
    const { told, joined } = member({ instanceId: 'pod-0' }, {}, ['t']);
    await expect.poll(() => heartbeats().length, { timeout: 3_000 }).toBeGreaterThan(3);
    expect(told).toEqual([]);
    broker.group.expel('killed');
    await joined;
    expect(told).toEqual(['assigned t/0,t/1']);
  });

  it('gives way, with a name, to a member that has its instance id when the session is long over', async () => {
    const { joined } = member({ instanceId: 'pod-0' }, {}, ['t']);
    await joined;
    const second = member({ instanceId: 'pod-0', sessionTimeoutMs: 1_000 }, {}, ['t']);
    await expect(second.joined).rejects.toMatchObject({ code: 'MEMBERSHIP_LOST', message: expect.stringMatching(/pod-0.*sessionTimeoutMs/) });
    expect(second.told).toEqual(['failed MEMBERSHIP_LOST']);
  });

  it.each(['consumer', 'classic'] as const)('ends with its partitions lost when another one takes its instance id (%s)', async (groupProtocol) => {
    const { told, joined, port } = member({ groupProtocol, instanceId: 'pod-0' }, {}, ['t']);
    await joined;
    broker.group.onHeartbeat = () => FENCED_INSTANCE_ID;
    broker.onHeartbeat = () => FENCED_INSTANCE_ID;
    await expect.poll(() => told).toEqual(['assigned t/0,t/1', 'lost t/0,t/1', 'failed MEMBERSHIP_LOST']);
    await expect(port.commit(ofT(1n))).rejects.toMatchObject({ code: 'MEMBERSHIP_LOST' });
  });

  it('a classic one does not leave its group at close', async () => {
    const LEAVE_GROUP = 13;
    const leaves = () => broker.asked.filter((a) => a.api === LEAVE_GROUP).length;
    const dynamic = member({ groupProtocol: 'classic' });
    await dynamic.joined;
    await dynamic.port[Symbol.asyncDispose]();
    expect(leaves()).toBe(1);
    const fixed = member({ groupProtocol: 'classic', instanceId: 'pod-0' });
    await fixed.joined;
    await fixed.port[Symbol.asyncDispose]();
    expect(leaves()).toBe(1);
  });
});
