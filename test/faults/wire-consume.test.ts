import type { ConsumerOptions } from '@turnpike/core';
import type { AssignmentListener, Link } from '@turnpike/core/spi';
import { type CertificateAuthority, certificateAuthority } from '@turnpike/testing';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { FakeBroker } from './fake-broker.ts';
import { linkTo } from './link.ts';
import { fill as fillAt, memberOf, readValues } from './member.ts';

// Kafka's error codes (protocol guide, "Error codes").
const UNKNOWN_TOPIC = 3;
const NOT_LEADER = 6;
const TOPIC_AUTHORIZATION_FAILED = 29;
const ILLEGAL_GENERATION = 22;
const UNKNOWN_MEMBER_ID = 25;
const REBALANCE_IN_PROGRESS = 27;
const FETCH = 1;
const HEARTBEAT = 12;

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
const member = (raw: ConsumerOptions = {}, listener?: Partial<AssignmentListener>, topics?: string[]) => memberOf(link, raw, listener, topics);

describe('wire consume: partitions in trouble', () => {
  it('reads on soon after a partition has got a leader again, without waiting for the metadata to grow old', async () => {
    const { port, joined } = member({}, {}, ['other']);
    await joined;
    await fill('other', 0, ['a']);
    expect(await readValues(port, 1)).toEqual(['a']);
    broker.onFetch = () => NOT_LEADER;
    await fill('other', 0, ['b']);
    broker.topics.set('other', [-1]);
    const fetches = () => broker.asked.filter((a) => a.api === FETCH).length;
    await expect
      .poll(() => {
        const before = fetches();
        return new Promise((resolve) => setTimeout(() => resolve(fetches() - before), 250));
      })
      .toBe(0); // Nobody asks for it any more.
    broker.topics.set('other', [1]);
    broker.onFetch = () => 0;
    const started = performance.now();
    expect(await readValues(port, 1)).toEqual(['b']);
    expect(performance.now() - started).toBeLessThan(2_500);
  });

  it('a partition whose leader refuses it slows down no other', async () => {
    await fill('t', 1, ['0']);
    broker.onFetch = ({ partition, topic }) => (topic === 't' && partition === 0 ? NOT_LEADER : 0);
    const { port, joined } = member();
    await joined;
    expect(await readValues(port, 1)).toEqual(['0']);
    const fetches = () => broker.asked.filter((a) => a.api === FETCH).length;
    const before = fetches();
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    // One every fetchWaitMs or so for the healthy ones, though the other is asked again only now and then.
    expect(fetches() - before).toBeGreaterThan(10);
    broker.onFetch = () => 0;
    await fill('t', 0, ['late']);
    expect(await readValues(port, 1)).toEqual(['late']);
  });

  it('gives up the partitions of a topic that was deleted, and reads the others on', async () => {
    const { port, told, joined } = member();
    await joined;
    broker.topics.delete('t');
    broker.onFetch = ({ topic }) => (topic === 't' ? UNKNOWN_TOPIC : 0);
    await expect.poll(() => told, { timeout: 5_000 }).toEqual(['assigned other/0,t/0,t/1', 'revoking t/0,t/1']);
    await fill('other', 0, ['x']);
    expect(await readValues(port, 1)).toEqual(['x']);
    broker.topics.set('t', [0, 0]);
    broker.onFetch = () => 0;
    await fill('t', 0, ['again']);
    expect(await readValues(port, 1)).toEqual(['again']);
  });

  it('a seek that fails skips nothing, one that succeeds drops what was read ahead, and of two the later wins', async () => {
    await fill('t', 0, ['a', 'b', 'c']);
    const { port, joined } = member();
    await joined;
    expect(await readValues(port, 3)).toEqual(['a', 'b', 'c']);
    await fill('t', 0, ['d']);
    broker.onListOffsets = () => TOPIC_AUTHORIZATION_FAILED;
    await expect(port.seek({ topic: 't', partition: 0 }, 'beginning')).rejects.toMatchObject({ code: 'AUTHORIZATION_FAILED' });
    expect(await readValues(port, 1)).toEqual(['d']);
    broker.onListOffsets = () => 0;
    await Promise.all([port.seek({ topic: 't', partition: 0 }, 'beginning'), port.seek({ topic: 't', partition: 0 }, 2n)]);
    expect(await readValues(port, 2)).toEqual(['c', 'd']);
    await expect(port.seek({ topic: 't', partition: 9 }, 'end')).rejects.toMatchObject({ code: 'MEMBERSHIP_LOST' });
  });

  it('gives every partition its turn, though not all fit into an answer', async () => {
    const { port, joined } = member({ maxFetchBytes: 1024, maxPartitionFetchBytes: 1024 });
    await joined;
    for (const p of [0, 1]) await fill('t', p, ['x'.repeat(100)]);
    await readValues(port, 2);
    const first = new Set(broker.fetched.filter((f) => f.length > 1).map((f) => f[0]));
    expect(first.size).toBeGreaterThan(1);
  });

  it('begins anew where startAt says when its offset is out of range', async () => {
    await fill('t', 0, ['a', 'b']);
    broker.committed.set('t/0', 500n);
    const { port, joined } = member();
    await joined;
    expect(await readValues(port, 2)).toEqual(['a', 'b']);
  });
});

describe('wire consume: membership', () => {
  it('goes on with its heartbeats while partitions are drained, though the group asks for another round', async () => {
    const drained = Promise.withResolvers<void>();
    const { told, joined } = member({}, { revoking: () => drained.promise });
    await joined;
    broker.topics.set('t', [0]); // One partition fewer: what is gone has to be given up. (Kafka can't; a deleted and smaller topic can.)
    await link.admin?.describeTopics(['t']);
    broker.topics.delete('t');
    broker.onFetch = ({ topic }) => (topic === 't' ? UNKNOWN_TOPIC : 0);
    await expect.poll(() => told.length, { timeout: 5_000 }).toBe(2);
    broker.onHeartbeat = () => REBALANCE_IN_PROGRESS;
    const beats = () => broker.asked.filter((a) => a.api === HEARTBEAT).length;
    const before = beats();
    await expect.poll(() => beats() - before, { timeout: 3_000 }).toBeGreaterThan(4);
    broker.onHeartbeat = () => 0;
    drained.resolve();
  });

  it('tells at once what is lost, though other partitions are still being drained', async () => {
    const drained = Promise.withResolvers<void>();
    const { told, joined } = member({}, { revoking: () => drained.promise, lost: () => drained.resolve() });
    await joined;
    broker.topics.delete('t');
    broker.onFetch = ({ topic }) => (topic === 't' ? UNKNOWN_TOPIC : 0);
    await expect.poll(() => told.length, { timeout: 5_000 }).toBe(2);
    let expelled = true;
    broker.onHeartbeat = () => (expelled ? UNKNOWN_MEMBER_ID : 0);
    broker.onJoin = () => {
      expelled = false;
      return 0;
    };
    await expect.poll(() => told, { timeout: 3_000 }).toEqual(['assigned other/0,t/0,t/1', 'revoking t/0,t/1', 'lost other/0,t/0,t/1', 'assigned other/0']);
  });

  it('never commits with a new membership what was handled under one that was lost', async () => {
    const { port, told, joined } = member();
    await joined;
    let refusals = 1;
    const seen: string[] = [];
    broker.onCommit = (generation, id) => {
      seen.push(`${id}:${generation}`);
      return refusals-- > 0 ? 'cut' : 0;
    };
    let expelled = true;
    broker.onHeartbeat = () => (expelled ? UNKNOWN_MEMBER_ID : 0);
    broker.onJoin = () => {
      expelled = false;
      return 0;
    };
    refusals = 1_000; // The coordinator can't be reached until the member is another.
    const commit = port.commit([{ topic: 't', partition: 0, offset: 5n }]);
    commit.catch(() => {});
    await expect.poll(() => told, { timeout: 5_000 }).toContain('lost other/0,t/0,t/1');
    refusals = 0;
    await expect(commit).rejects.toMatchObject({ code: 'MEMBERSHIP_LOST' });
    expect(broker.committed.has('t/0')).toBe(false);
  });

  it('commits what it keeps although the group is between two generations', async () => {
    const { port, joined } = member();
    await joined;
    const current = broker.generation;
    let moved = false;
    // A new generation that this member hears of with its next heartbeat.
    broker.onHeartbeat = () => (moved ? 0 : REBALANCE_IN_PROGRESS);
    broker.onJoin = () => {
      moved = true;
      return 0;
    };
    broker.onCommit = (generation) => (generation === broker.generation && generation > current ? 0 : ILLEGAL_GENERATION);
    await expect
      .poll(
        () =>
          port.commit([{ topic: 't', partition: 0, offset: 3n }]).then(
            () => 'done',
            (e: { code: string }) => e.code,
          ),
        { timeout: 5_000, interval: 20 },
      )
      .toBe('done');
    expect(broker.committed.get('t/0')).toBe(3n);
  });

  it('closes in bounded time while the coordinator is silent', async () => {
    broker.onJoin = (id) => (id === '' ? 0 : 'silence');
    const { port } = member();
    await expect.poll(() => broker.asked.filter((a) => a.api === 11).length).toBe(2);
    const started = performance.now();
    await port[Symbol.asyncDispose]();
    expect(performance.now() - started).toBeLessThan(8_000);
  });
});
