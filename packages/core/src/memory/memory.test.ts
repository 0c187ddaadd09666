import { describe, expect, it } from 'vitest';
import { compileConsumerOptions } from '../consumer/options.ts';
import { TurnpikeError } from '../errors.ts';
import { compileProducerOptions } from '../pipeline/options.ts';
import type { AclBinding } from '../spi/admin.ts';
import type { Identity } from '../spi/identity.ts';
import { silentLogger } from '../spi/logger.ts';
import { openGate } from '../spi/policy.ts';
import type { AssignmentListener, ConsumerPort, FetchedBatch, Link, Pending, SettledBatch, TopicPartition } from '../spi/transport.ts';
import { MemoryCluster } from './cluster.ts';
import { ManualClock } from './manual-clock.ts';
import { memoryTransport } from './transport.ts';

async function setUp(cluster: MemoryCluster) {
  const clock = new ManualClock();
  const settled: SettledBatch[] = [];
  const link: Link = await memoryTransport({ cluster }).connect({
    cluster: { name: 'c', bootstrap: [] },
    identity: { kind: 'none', principal: 'svc' } as Identity,
    clientId: 'svc',
    connectTimeoutMs: 1000,
    clock,
    logger: silentLogger,
    gate: openGate,
    fetchGate: openGate,
    events: { settled: (batches) => void settled.push(...batches), retried: () => {}, wrote: () => {}, throttled: () => {} },
  });
  return { link, clock, settled };
}

async function send(link: Link, clock: ManualClock, values: readonly string[], options: object = {}): Promise<void> {
  const port = await link.producer(compileProducerOptions(options));
  for (const value of values) {
    const buf = Buffer.from(value);
    const pending: Pending = { deadlineMs: clock.monotonic() + 5_000, attempts: 0, span: undefined, acknowledge: () => {}, fail: () => {} };
    port.append({ topic: 't', partition: 0, timestampMs: 1, headers: undefined, buf, keyStart: -1, keyEnd: -1, valueStart: 0, valueEnd: buf.length }, pending);
  }
  const flushed = port.flush();
  await clock.advance(6_000);
  await flushed;
}

const record = (value: string) => ({ key: null, value: Buffer.from(value), headers: undefined, timestampMs: 1 });
const valuesOf = (batches: readonly FetchedBatch[]) => batches.flatMap((b) => [...b.records].map((r) => String(r.value)));

function listener(told: string[] = []): AssignmentListener {
  const names = (tps: readonly TopicPartition[]) => tps.map((tp) => `${tp.topic}/${tp.partition}`).join();
  return {
    assigned: (tps) => void told.push(`assigned ${names(tps)}`),
    revoking: async (tps) => void told.push(`revoking ${names(tps)}`),
    lost: (tps) => void told.push(`lost ${names(tps)}`),
    failed: (error) => void told.push(`failed ${error.code}`),
  };
}

async function member(link: Link, told: string[] = [], options: object = {}, topics = ['t']): Promise<ConsumerPort> {
  const port = link.consumer(compileConsumerOptions('g', options));
  await port.subscribe(topics, listener(told));
  return port;
}

describe('memory transport: produce', () => {
  it('an answer that is lost after the write is retried without a duplicate, as with a broker that knows the sequence', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    let lost = 2;
    cluster.fault = ({ operation }) => {
      if (operation === 'acknowledge' && lost-- > 0) throw new TurnpikeError('BROKER_UNAVAILABLE', 'cut', { retriable: true });
    };
    const { link, clock, settled } = await setUp(cluster);
    await send(link, clock, ['a', 'b']);
    expect(cluster.records('t').map((r) => String(r.value))).toEqual(['a', 'b']);
    expect(settled).toMatchObject([{ baseOffset: 0n, pendings: [{ attempts: 3 }, { attempts: 3 }] }]);
  });

  it('without idempotence that retry is a duplicate', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    let lost = 1;
    cluster.fault = ({ operation }) => {
      if (operation === 'acknowledge' && lost-- > 0) throw new TurnpikeError('BROKER_UNAVAILABLE', 'cut', { retriable: true });
    };
    const { link, clock } = await setUp(cluster);
    await send(link, clock, ['a'], { idempotent: false, acks: 1 });
    expect(cluster.records('t').map((r) => String(r.value))).toEqual(['a', 'a']);
  });

  it('counts its tries in the error of a delivery timeout', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    const { link, clock, settled } = await setUp(cluster);
    let takesMs = 5_000;
    cluster.fault = async () => {
      if (takesMs > 0) await new Promise<void>((resolve) => clock.after(takesMs, resolve));
      throw new TurnpikeError('BROKER_UNAVAILABLE', 'cut', { retriable: true });
    };
    await send(link, clock, ['a']);
    takesMs = 0;
    await send(link, clock, ['b']);
    expect(settled.map((s) => s.error?.message)).toEqual([
      expect.stringContaining(' after 1 try; the last'),
      expect.stringMatching(/ after \d+ tries; the last/),
    ]);
  });

  it('says "unknown" when the answer stays away, "no" when the request never arrived', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    let broken: string = 'acknowledge';
    cluster.fault = ({ operation }) => {
      if (operation === broken) throw new TurnpikeError('BROKER_UNAVAILABLE', 'cut', { retriable: true });
    };
    const { link, clock, settled } = await setUp(cluster);
    await send(link, clock, ['a']);
    broken = 'produce';
    await send(link, clock, ['b']);
    expect(settled.map((s) => [s.error?.code, s.error?.written])).toEqual([
      ['DELIVERY_TIMEOUT', 'unknown'],
      ['DELIVERY_TIMEOUT', 'no'],
    ]);
  });

  it('keeps to the topic’s max.message.bytes, as a broker does', async () => {
    const cluster = new MemoryCluster();
    cluster.createTopic('t', 1, { 'max.message.bytes': '1000' });
    const { link, clock, settled } = await setUp(cluster);
    await send(link, clock, ['a', 'b'.repeat(2000), 'c']);
    expect(settled.flatMap((s) => (s.error ? [[s.error.code, s.error.written]] : []))).toEqual([['RECORD_TOO_LARGE', 'no']]);
    expect(cluster.records('t').map((r) => String(r.value))).toEqual(['a', 'c']);
  });

  it('refuses what comes for a topic that was deleted meanwhile', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    const { link, clock, settled } = await setUp(cluster);
    await link.admin?.deleteTopics(['t']);
    await send(link, clock, ['a']);
    expect(settled).toMatchObject([{ error: { code: 'TOPIC_UNKNOWN', written: 'no', retriable: false } }]);
  });
});

describe('memory transport: consume', () => {
  // A poll that had read one partition and failed at the next threw the first one's records away, with their position already moved on.
  it('loses nothing of one partition when the fetch of another fails', async () => {
    const cluster = new MemoryCluster({ topics: { t: 2 } });
    cluster.append('t', 0, [record('a')]);
    cluster.append('t', 1, [record('b')]);
    let failures = 1;
    cluster.fault = ({ operation, partition }) => {
      if (operation === 'fetch' && partition === 1 && failures-- > 0) throw new TurnpikeError('BROKER_UNAVAILABLE', 'gone', { retriable: true });
    };
    const { link } = await setUp(cluster);
    const port = await member(link);
    const got: string[] = [];
    for (let i = 0; i < 2; i++) got.push(...valuesOf(await port.poll(0).catch(() => [])));
    expect(got.sort()).toEqual(['a', 'b']);
  });

  // What was read before a partition was given up, and handed over after it had come back, put the new assignment ahead of where the group was: the records between were passed over.
  it('delivers nothing under an assignment that was read under the one before', async () => {
    const cluster = new MemoryCluster({ topics: { t: 2 } });
    cluster.append('t', 0, [record('a'), record('b')]);
    cluster.append('t', 1, [record('c')]);
    const slow = Promise.withResolvers<void>();
    cluster.fault = ({ operation, partition }) => (operation === 'fetch' && partition === 1 ? slow.promise : undefined);
    const { link } = await setUp(cluster);
    const port = await member(link);
    const polling = port.poll(0); // Has read partition 0, and waits for 1.
    const group = cluster.group('g');
    const [zombie] = group.members.values();
    if (zombie) await group.expire(zombie);
    slow.resolve();
    expect(await polling).toEqual([]);
    expect(valuesOf(await port.poll(0))).toEqual(['a', 'b', 'c']);
  });

  it('begins anew where startAt says when the position is past the log’s end (the topic was made again)', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    cluster.append('t', 0, [record('old'), record('old'), record('old')]);
    const { link } = await setUp(cluster);
    const port = await member(link);
    await port.poll(0);
    await port.commit([{ topic: 't', partition: 0, offset: 3n }]);
    await link.admin?.deleteTopics(['t']);
    cluster.createTopic('t', 1);
    cluster.append('t', 0, [record('new')]);
    await expect.poll(async () => valuesOf(await port.poll(0))).toEqual(['new']);
  });

  it('fails with OFFSET_OUT_OF_RANGE there when startAt is "fail"', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    const { link } = await setUp(cluster);
    const port = await member(link, [], { startAt: 'earliest' });
    await port.commit([{ topic: 't', partition: 0, offset: 7n }]);
    await port[Symbol.asyncDispose]();
    const strict = await member(link, [], { startAt: 'fail' });
    await expect(strict.poll(0)).rejects.toMatchObject({ code: 'OFFSET_OUT_OF_RANGE', facts: { topic: 't', partition: 0, offset: 7n, group: 'g' } });
  });

  it('a deleted topic’s partitions leave the group, and the other topics are read on', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1, u: 1 } });
    const { link } = await setUp(cluster);
    const told: string[] = [];
    const port = await member(link, told, {}, ['t', 'u']);
    await link.admin?.deleteTopics(['t']);
    cluster.append('u', 0, [record('x')]);
    expect(valuesOf(await port.poll(0))).toEqual(['x']);
    await expect.poll(() => told).toEqual(['assigned t/0,u/0', 'revoking t/0']);
  });

  it('a member whose session has expired loses its partitions, then joins again', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    const { link } = await setUp(cluster);
    const told: string[] = [];
    const port = await member(link, told);
    const group = cluster.group('g');
    const [zombie] = group.members.values();
    if (zombie) await group.expire(zombie);
    expect(told).toEqual(['assigned t/0', 'lost t/0', 'assigned t/0']);
    cluster.append('t', 0, [record('x')]);
    expect(valuesOf(await port.poll(0))).toEqual(['x']);
  });

  it('closing while others still give up their partitions leaves no member behind', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    const { link } = await setUp(cluster);
    const first = link.consumer(compileConsumerOptions('g'));
    const draining = Promise.withResolvers<void>();
    await first.subscribe(['t'], { ...listener(), revoking: () => draining.promise });
    cluster.addPartitions('t', 2);
    const second = link.consumer(compileConsumerOptions('g'));
    const joining = second.subscribe(['t'], listener());
    await expect.poll(() => cluster.group('g').members.size).toBe(2);
    const closed = second[Symbol.asyncDispose]();
    expect(cluster.group('g').members.size).toBe(1);
    draining.resolve();
    await Promise.all([joining, closed]);
    expect(cluster.group('g').members.size).toBe(1);
  });

  // A consumer that had joined read on for ever after its right was withdrawn, where a broker refuses the next fetch.
  it('refuses the next poll, and the next commit, when the right to the topic or the group is withdrawn', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 }, authorizer: { superUsers: [] } });
    const allow = (resourceType: 'topic' | 'group', resourceName: string): AclBinding => ({
      resourceType,
      resourceName,
      pattern: 'literal',
      principal: 'User:svc',
      host: '*',
      operation: 'read',
      permission: 'allow',
    });
    const [topic, group] = [allow('topic', 't'), allow('group', 'g')];
    const { link } = await setUp(cluster);
    await link.admin?.createAcls([topic, group]);
    const port = await member(link);
    expect(await port.poll(0)).toEqual([]);
    await link.admin?.deleteAcls([topic]);
    await expect(port.poll(0)).rejects.toMatchObject({ code: 'AUTHORIZATION_FAILED', facts: { topic: 't' } });
    await link.admin?.createAcls([topic]);
    await link.admin?.deleteAcls([group]);
    await expect(port.poll(0)).rejects.toMatchObject({ code: 'AUTHORIZATION_FAILED', facts: { group: 'g' } });
    await expect(port.commit([{ topic: 't', partition: 0, offset: 1n }])).rejects.toMatchObject({ code: 'AUTHORIZATION_FAILED', facts: { group: 'g' } });
  });

  // A closed consumer went on delivering what came into the partitions that it had had.
  it('delivers nothing after the close, and the poll that waits ends with it', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    const { link } = await setUp(cluster);
    const port = await member(link);
    const polling = port.poll(60_000);
    await port[Symbol.asyncDispose]();
    expect(await polling).toEqual([]);
    cluster.append('t', 0, [record('late')]);
    expect(await port.poll(0)).toEqual([]);
  });

  // It waited for ever for a member that hung in a handler, where a broker goes on without it.
  it('a member that has not drained within its rebalance timeout loses the partition all the same, and its commits are refused', async () => {
    const cluster = new MemoryCluster({ topics: { t: 2 } });
    const { link, clock } = await setUp(cluster);
    const late = link.consumer(compileConsumerOptions('g', { rebalanceTimeoutMs: 30_000 }));
    const asked = Promise.withResolvers<void>();
    const revoking = () => {
      asked.resolve();
      return new Promise<void>(() => {});
    };
    await late.subscribe(['t'], { ...listener(), revoking });
    const told: string[] = [];
    const joining = member(link, told);
    await asked.promise;
    await clock.advance(30_000);
    await joining;
    expect(told).toEqual(['assigned t/1']);
    await expect(late.commit([{ topic: 't', partition: 1, offset: 1n }])).rejects.toMatchObject({ code: 'MEMBERSHIP_LOST' });
  });

  it('closing before the join has begun means that it never does', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    const asked = Promise.withResolvers<void>();
    cluster.fault = () => asked.promise;
    const { link } = await setUp(cluster);
    const port = link.consumer(compileConsumerOptions('g'));
    const joining = port.subscribe(['t'], listener());
    await port[Symbol.asyncDispose]();
    asked.resolve();
    await expect(joining).rejects.toMatchObject({ code: 'CLOSED' });
    expect(cluster.group('g').members.size).toBe(0);
  });

  it('a listener that throws does not end the group’s rebalancing', async () => {
    const cluster = new MemoryCluster({ topics: { t: 2 } });
    const { link } = await setUp(cluster);
    const first = link.consumer(compileConsumerOptions('g'));
    await first.subscribe(['t'], { ...listener(), revoking: () => Promise.reject(new Error('boom')) });
    const told: string[] = [];
    await member(link, told);
    expect(told).toEqual(['assigned t/1']);
  });
});
