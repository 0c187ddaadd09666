import { type ConsumerOptions, compileConsumerOptions, type TurnpikeError } from '@turnpike/core';
import { type ConsumerPort, type Link, type Logger, openGate, silentLogger } from '@turnpike/core/spi';
import { type CertificateAuthority, certificateAuthority } from '@turnpike/testing';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { FakeBroker } from './fake-broker.ts';
import { linkTo } from './link.ts';
import { fill as fillAt, readValues } from './member.ts';

// Kafka's error codes (protocol guide, "Error codes").
const FETCH_SESSION_ID_NOT_FOUND = 70;
const NOT_LEADER = 6;
const REQUEST_TIMED_OUT = 7;

let ca: CertificateAuthority;
let broker: FakeBroker;
let link: Link;
const warned: [string, unknown][] = [];
const logger: Logger = { ...silentLogger, warn: (event, facts) => void warned.push([event, facts]) };

beforeAll(async () => {
  ca = await certificateAuthority();
});
beforeEach(async () => {
  warned.length = 0;
  broker = await FakeBroker.open(ca, { nodes: 2, topics: { t: 3 } });
  link = await linkTo(broker, ca, undefined, openGate, logger);
});
afterEach(async () => {
  await link[Symbol.asyncDispose]();
  await broker[Symbol.asyncDispose]();
});

/** A batch for each value. */
async function fill(partition: number, values: readonly string[]): Promise<void> {
  for (const value of values) await fillAt(link, 't', partition, [value]);
}

async function member(raw: ConsumerOptions = {}): Promise<{ readonly port: ConsumerPort; readonly failures: TurnpikeError[] }> {
  const failures: TurnpikeError[] = [];
  const port = link.consumer(compileConsumerOptions('g', { fetchWaitMs: 20, requestTimeoutMs: 2_000, ...raw }));
  await port.subscribe(['t'], { assigned: () => {}, revoking: async () => {}, lost: () => {}, failed: (e) => void failures.push(e) });
  return { port, failures };
}

/** Fetches as they came, from now on. */
function fetchesFrom(): () => FakeBroker['fetches'] {
  const { length } = broker.fetches;
  return () => broker.fetches.slice(length);
}

describe('wire fetch: sessions', () => {
  beforeEach(() => {
    broker.keepsSessions = true;
  });

  it('names every partition once, and then only what has changed', async () => {
    const { port } = await member();
    await expect.poll(() => broker.fetches.filter((f) => f.sessionEpoch > 0).length).toBeGreaterThan(2);
    expect(broker.fetches[0]).toMatchObject({ sessionId: 0, sessionEpoch: 0, asks: [{ partition: 0 }, { partition: 1 }, { partition: 2 }] });
    const quiet = fetchesFrom();
    await expect.poll(() => quiet().length).toBeGreaterThan(2);
    expect(quiet().flatMap((f) => [...f.asks, ...f.forgotten])).toEqual([]);
    const busy = fetchesFrom();
    await fill(1, ['a', 'b']);
    expect(await readValues(port, 2)).toEqual(['a', 'b']);
    await expect.poll(() => busy().flatMap((f) => f.asks.map((a) => `${a.partition}@${a.offset}`))).toContain('1@2');
    expect(new Set(busy().flatMap((f) => f.asks.map((a) => a.partition)))).toEqual(new Set([1]));
  });

  it('has a partition forgotten that is not to be read, and asks for it again when it is', async () => {
    const { port } = await member();
    await fill(0, ['a']);
    expect(await readValues(port, 1)).toEqual(['a']);
    port.pause([{ topic: 't', partition: 0 }]);
    await fill(0, ['b']); // Read ahead; and then no more.
    const paused = fetchesFrom();
    await expect.poll(() => paused().flatMap((f) => f.forgotten)).toEqual(['t/0']);
    await fill(0, ['c']);
    port.resume([{ topic: 't', partition: 0 }]);
    expect(await readValues(port, 2)).toEqual(['b', 'c']);
  });

  it('begins another where the broker has lost it, without a record lost or read twice', async () => {
    const { port } = await member();
    await fill(0, ['a']);
    expect(await readValues(port, 1)).toEqual(['a']);
    broker.sessions.clear(); // FETCH_SESSION_ID_NOT_FOUND
    await fill(0, ['b']);
    expect(await readValues(port, 1)).toEqual(['b']);
    for (const session of broker.sessions.values()) session.epoch += 7; // INVALID_FETCH_SESSION_EPOCH
    await fill(0, ['c']);
    await fill(2, ['d']);
    expect((await readValues(port, 2)).sort()).toEqual(['c', 'd']);
    expect(broker.fetches.filter((f) => f.sessionEpoch === 0).map((f) => f.sessionId)).toEqual([0, 0, expect.any(Number)]);
    expect(broker.sessions.size).toBe(1);
  });

  it('ends the one that there may be after a connection has ended in the middle', async () => {
    const { port } = await member();
    await fill(0, ['a']);
    expect(await readValues(port, 1)).toEqual(['a']);
    broker.cut();
    await fill(0, ['b']);
    expect(await readValues(port, 1)).toEqual(['b']);
    expect(broker.sessions.size).toBe(1);
  });

  it('is no error to anybody: a session that is gone pauses nothing', async () => {
    const { port, failures } = await member();
    await fill(0, ['a']);
    await readValues(port, 1);
    broker.sessions.clear();
    const started = performance.now();
    await fill(0, ['b']);
    expect(await readValues(port, 1)).toEqual(['b']);
    expect(performance.now() - started).toBeLessThan(1_000);
    expect(failures.map((e) => e.facts?.kafkaError)).not.toContain(FETCH_SESSION_ID_NOT_FOUND);
    expect([failures, warned]).toEqual([[], []]);
  });
});

describe('wire fetch: leader epochs', () => {
  it('tells the leader which epoch it believes in and of which the last record was', async () => {
    broker.epochs.set('t/0', 4);
    const { port } = await member();
    await fill(0, ['a']);
    await readValues(port, 1);
    await expect.poll(() => broker.fetches.at(-1)?.asks.find((a) => a.partition === 0)).toMatchObject({ offset: 1n, leaderEpoch: 4, lastEpoch: 4 });
  });

  it('learns of a newer leader from the one that refuses it, and reads on', async () => {
    const { port, failures } = await member();
    await fill(0, ['a']);
    expect(await readValues(port, 1)).toEqual(['a']);
    broker.epochs.set('t/0', 1); // FENCED_LEADER_EPOCH, until the metadata is fresh
    await fill(0, ['b']);
    expect(await readValues(port, 1)).toEqual(['b']);
    await expect.poll(() => broker.fetches.at(-1)?.asks.find((a) => a.partition === 0)).toMatchObject({ leaderEpoch: 1, lastEpoch: 1 });
    broker.epochs.set('t/0', 0); // UNKNOWN_LEADER_EPOCH: a leader that doesn't know yet that it is
    await fill(0, ['c']);
    expect(await readValues(port, 1)).toEqual(['c']);
    expect(failures).toEqual([]);
  });

  it('goes back to where the log of an unclean leader parts from what was read, and says so', async () => {
    const { port, failures } = await member();
    await fill(0, ['a', 'b', 'c']);
    expect(await readValues(port, 3)).toEqual(['a', 'b', 'c']);
    broker.log.get('t/0')?.splice(1);
    broker.epochs.set('t/0', 1);
    broker.onDiverging = ({ partition, offset }) => (partition === 0 && offset > 1n ? { epoch: 0, endOffset: 1n } : undefined);
    await expect.poll(() => warned.map(([event]) => event)).toEqual(['consumer.truncated']);
    expect(warned[0]?.[1]).toEqual({ topic: 't', partition: 0, group: 'g', from: '3', to: '1' });
    broker.onDiverging = () => undefined;
    await fill(0, ['x']);
    expect(await readValues(port, 1)).toEqual(['x']);
    expect(failures).toEqual([]);
  });

  it('ends with both offsets where startAt is "fail"', async () => {
    broker.committed.set('t/0', 0n).set('t/1', 0n).set('t/2', 0n);
    const { port, failures } = await member({ startAt: 'fail' });
    await fill(0, ['a', 'b', 'c']);
    expect(await readValues(port, 3)).toEqual(['a', 'b', 'c']);
    broker.onDiverging = ({ partition }) => (partition === 0 ? { epoch: 0, endOffset: 1n } : undefined);
    await expect.poll(() => failures).toHaveLength(1);
    expect(failures[0]).toMatchObject({ code: 'OFFSET_OUT_OF_RANGE', facts: { topic: 't', partition: 0, offset: 3n } });
    expect(failures[0]?.message).toMatch(/cut back to 1, and g has read up to 3/);
    await expect(port.poll(100)).rejects.toMatchObject({ code: 'OFFSET_OUT_OF_RANGE' });
  });
});

describe('wire fetch: what is read ahead', () => {
  const KIB = 1024;
  const BATCH = 10 * KIB;
  const values = (n: number) => Array.from({ length: n }, (_, i) => String(i).padEnd(BATCH, '.'));

  it('stays under maxPrefetchBytes, of several brokers together, until somebody polls', async () => {
    broker.topics.set('t', [0, 1, 0]);
    await link.admin?.describeTopics(['t']);
    for (const p of [0, 1, 2]) await fill(p, values(20));
    await member({ maxPrefetchBytes: 64 * KIB, maxPartitionFetchBytes: 32 * KIB });
    await expect.poll(() => broker.fetchedBytes).toBeGreaterThan(BATCH);
    await new Promise((resolve) => setTimeout(resolve, 200));
    // The first batch of an answer comes whatever its size: of each broker one may be too much.
    expect(broker.fetchedBytes).toBeLessThanOrEqual(64 * KIB + 2 * (BATCH + KIB));
  });

  // What a refused fetch might have brought was given back twice, and so much too much was read ahead from then on.
  it('stays under it after fetches that were refused as a whole', async () => {
    await fill(0, values(30));
    let refusals = 2;
    broker.onFetchRequest = () => (refusals-- > 0 ? REQUEST_TIMED_OUT : 0);
    await member({ maxPrefetchBytes: 64 * KIB, maxPartitionFetchBytes: 64 * KIB });
    await expect.poll(() => broker.fetchedBytes, { timeout: 5_000 }).toBeGreaterThan(BATCH);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(broker.fetchedBytes).toBeLessThanOrEqual(64 * KIB + BATCH + KIB);
  });

  it('counts what waits for handlers, and goes on when that is handled', async () => {
    await fill(0, values(30));
    const { port } = await member({ maxPrefetchBytes: 64 * KIB, maxPartitionFetchBytes: 32 * KIB });
    const first = await readValues(port, 1);
    port.waiting?.(64 * KIB);
    const rest = await port.poll(300);
    const before = broker.fetchedBytes;
    expect(await port.poll(300)).toEqual([]);
    expect(broker.fetchedBytes).toBe(before);
    port.waiting?.(0);
    const had = first.length + rest.reduce((sum, b) => sum + b.records.length, 0);
    expect(await readValues(port, 30 - had)).toHaveLength(30 - had);
  });

  it('does not wait long for partitions that have nothing new, while others only wait for room', async () => {
    await fill(0, values(40));
    const { port } = await member({ fetchWaitMs: 5_000, maxPartitionFetchBytes: 32 * KIB });
    const started = performance.now();
    expect(await readValues(port, 40)).toHaveLength(40);
    expect(performance.now() - started).toBeLessThan(4_000);
  });

  it('a partition without a leader holds up no other', async () => {
    broker.topics.set('t', [0, -1, 0]);
    broker.onFetch = ({ partition }) => (partition === 1 ? NOT_LEADER : 0);
    const { port } = await member();
    await fill(0, ['a']);
    expect(await readValues(port, 1)).toEqual(['a']);
  });
});
