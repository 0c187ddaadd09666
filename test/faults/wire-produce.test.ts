import { compileProducerOptions, type ProducerOptions } from '@turnpike/core';
import type { Link, ProducerPort, SettledBatch } from '@turnpike/core/spi';
import { type CertificateAuthority, certificateAuthority } from '@turnpike/testing';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { sendValue } from '../support/records.ts';
import { FakeBroker } from './fake-broker.ts';
import { linkTo } from './link.ts';

// Kafka's error codes (protocol guide, "Error codes").
const UNKNOWN_SERVER_ERROR = -1;
const NOT_LEADER = 6;
const NOT_ENOUGH_REPLICAS = 19;
const OUT_OF_ORDER_SEQUENCE = 45;
const DUPLICATE_SEQUENCE = 46;
const UNKNOWN_PRODUCER_ID = 59;
const INVALID_RECORD = 87;

let ca: CertificateAuthority;
let broker: FakeBroker;
let link: Link;
let port: ProducerPort;
const settled: SettledBatch[] = [];

beforeAll(async () => {
  ca = await certificateAuthority();
});
beforeEach(async () => {
  settled.length = 0;
  broker = await FakeBroker.open(ca, { nodes: 2, topics: { t: 3, other: 1 } });
  link = await linkTo(broker, ca, (batches) => settled.push(...batches));
});
afterEach(async () => {
  await link[Symbol.asyncDispose]();
  await broker[Symbol.asyncDispose]();
});

async function open(options: ProducerOptions = {}): Promise<void> {
  port = await link.producer(compileProducerOptions({ requestTimeoutMs: 1_000, ...options }));
  await port.warm(['t', 'other']);
}

/** The offset, or the error. */
const send = (value: string, partition = 0, { topic = 't', withinMs = 3_000, ...more }: { topic?: string; timestampMs?: number; withinMs?: number } = {}) =>
  sendValue(port, { topic, partition, value: Buffer.from(value), withinMs, ...more });

const sequences = (partition = 0) =>
  broker.produced.filter((b) => b.topic === 't' && b.partition === partition).map((b) => `${b.epoch}:${b.sequence}+${b.count}`);

describe('wire produce: sequences and epochs', () => {
  it('sends a retry as the same bytes, so that an answer that was lost makes no duplicate', async () => {
    await open();
    let cuts = 2;
    broker.onProduce = (batch) => {
      const answer = broker.write(batch);
      return cuts-- > 0 ? 'cut' : answer;
    };
    expect(await send('a')).toBe(0n);
    expect(await send('b')).toBe(1n);
    expect(sequences()).toEqual(['0:0+1', '0:0+1', '0:0+1', '0:1+1']);
    expect(new Set(broker.produced.slice(0, 3).map((b) => b.bytes.toString('hex'))).size).toBe(1);
    expect(broker.end('t', 0)).toBe(2n);
  });

  it('takes DUPLICATE_SEQUENCE_NUMBER for what it is: written before, offset unknown', async () => {
    await open();
    broker.onProduce = () => ({ code: DUPLICATE_SEQUENCE });
    expect(await send('a')).toBe(-1n);
    broker.onProduce = (batch) => ({ baseOffset: BigInt(batch.sequence) });
    expect(await send('b')).toBe(1n);
  });

  it.each([
    ['OUT_OF_ORDER_SEQUENCE_NUMBER', OUT_OF_ORDER_SEQUENCE],
    ['UNKNOWN_PRODUCER_ID', UNKNOWN_PRODUCER_ID],
    ['INVALID_PRODUCER_EPOCH', 47],
  ])('begins anew with a higher epoch after %s, and loses no record over it (KIP-360)', async (_name, code) => {
    await open();
    expect(await send('a')).toBe(0n);
    let refusals = 1;
    broker.onProduce = (batch) => (refusals-- > 0 ? { code } : broker.write(batch));
    expect(await send('b')).toBe(1n);
    expect(await send('c')).toBe(2n);
    expect(sequences()).toEqual(['0:0+1', '0:1+1', '1:0+1', '1:1+1']);
  });

  // A leader that steps down while it waits for its followers answers NOT_LEADER for a batch that is in its log, and may be in the next leader's. Taken for unwritten, the sequence was
  // used again for other records, and the broker took those for the duplicate: acknowledged, never written.
  it.each([
    ['NOT_LEADER_OR_FOLLOWER', NOT_LEADER],
    ['UNKNOWN_SERVER_ERROR', UNKNOWN_SERVER_ERROR],
  ])('never gives one sequence to two batches: after %s the batch may be written', async (_name, code) => {
    await open();
    broker.onProduce = (batch) => {
      broker.write(batch);
      return { code };
    };
    expect(await send('a', 0, { withinMs: 400 })).toMatchObject({ written: 'unknown' });
    broker.onProduce = (batch) => broker.write(batch);
    expect(await send('b')).toBe(1n);
    expect(broker.end('t', 0)).toBe(2n);
  });

  it('says "no" where it is certain, and uses the sequence again', async () => {
    await open();
    broker.onProduce = () => ({ code: NOT_ENOUGH_REPLICAS });
    expect(await send('a', 0, { withinMs: 300 })).toMatchObject({ code: 'DELIVERY_TIMEOUT', written: 'no' });
    broker.onProduce = (batch) => broker.write(batch);
    expect(await send('b')).toBe(0n);
    expect(sequences().at(-1)).toBe('0:0+1');
  });

  it('counts a batch that is sent in smaller ones by what was written', async () => {
    await open();
    broker.onProduce = (batch) => (batch.count > 2 ? { code: 10 } : broker.write(batch));
    const sends = ['a', 'b', 'c', 'd', 'e', 'f', 'g'].map((v) => send(v));
    expect(await Promise.all(sends)).toEqual([0n, 1n, 2n, 3n, 4n, 5n, 6n]);
    const written = broker.log.get('t/0')?.map(({ batch }) => batch) ?? [];
    expect(written.length).toBeGreaterThan(3);
    for (const [i, { sequence }] of written.entries()) expect(sequence).toBe(written.slice(0, i).reduce((sum, b) => sum + b.count, 0));
  });

  it('refuses only the records that the broker names, and writes the others in order', async () => {
    await open();
    broker.onProduce = (batch) => (batch.count === 4 ? { code: INVALID_RECORD, rejected: [1, 2] } : broker.write(batch));
    const [a, b, c, d] = await Promise.all(['a', 'b', 'c', 'd'].map((v) => send(v)));
    expect([a, d]).toEqual([0n, 1n]);
    for (const refused of [b, c]) expect(refused).toMatchObject({ code: 'BROKER_REJECTED', written: 'no', facts: { kafkaError: 'INVALID_RECORD' } });
    expect(sequences()).toEqual(['0:0+4', '0:0+2']);
  });
});

describe('wire produce: partitions in trouble', () => {
  it('a partition without enough replicas holds up no other of its leader', async () => {
    await open();
    broker.onProduce = (batch) => (batch.partition === 0 ? { code: NOT_ENOUGH_REPLICAS } : broker.write(batch));
    const stuck = send('stuck', 0, { withinMs: 8_000 });
    const started = performance.now();
    for (let i = 0; i < 5; i++) {
      send('behind', 0);
      expect(await send(`${i}`, 1)).toBe(BigInt(i));
    }
    expect(performance.now() - started).toBeLessThan(5_000);
    broker.onProduce = (batch) => broker.write(batch);
    expect(await stuck).toBe(0n);
  });

  it('follows a partition to its new leader, in order, and leaves the others where they are', async () => {
    await open();
    await Promise.all([send('a', 0), send('b', 1)]);
    broker.topics.set('t', [1, 0, 0]);
    broker.onProduce = (batch) => (broker.topics.get(batch.topic)?.[batch.partition] === batch.node ? broker.write(batch) : { code: NOT_LEADER });
    expect(await Promise.all([send('c', 0), send('d', 0), send('e', 1)])).toEqual([1n, 2n, 1n]);
    expect(broker.produced.filter((b) => b.partition === 0).at(-1)?.node).toBe(1);
    expect(broker.produced.filter((b) => b.partition === 1).every((b) => b.node === 0)).toBe(true);
  });

  it('waits for a partition that has no leader at the moment', async () => {
    await open();
    broker.topics.set('t', [-1, 0, 0]);
    broker.onProduce = (batch) => (broker.topics.get('t')?.[batch.partition] === batch.node ? broker.write(batch) : { code: NOT_LEADER });
    const sending = send('a', 0);
    setTimeout(() => broker.topics.set('t', [1, 0, 0]), 500);
    expect(await sending).toBe(0n);
  });

  it('a topic that was deleted ends its records as TOPIC_UNKNOWN, and no others', async () => {
    await open();
    broker.topics.delete('other');
    const started = performance.now();
    const gone = send('a', 0, { topic: 'other', withinMs: 20_000 });
    expect(await send('b', 0)).toBe(0n);
    expect(await gone).toMatchObject({ code: 'TOPIC_UNKNOWN', written: 'no', retriable: false, facts: { topic: 'other', partition: 0 } });
    expect(performance.now() - started).toBeLessThan(10_000);
    await expect.poll(() => port.partitions('other')).toBeUndefined();
  });

  it('a record that can’t be encoded is refused alone, and those around it go', async () => {
    await open();
    const first = send('a', 0);
    await expect(send('b', 0, { timestampMs: Number.NaN })).rejects.toThrow();
    await expect(send('c', 1, { timestampMs: Number.NaN })).rejects.toThrow();
    expect(await Promise.all([first, send('d', 0), send('e', 1)])).toEqual([0n, 1n, 0n]);
  });

  it('heeds the broker’s throttle time, and expires as unwritten what can’t go before its deadline', async () => {
    await open();
    broker.onProduce = (batch) => ({ ...broker.write(batch), throttleMs: 3_000 });
    expect(await send('a', 0)).toBe(0n);
    const started = performance.now();
    expect(await send('b', 0, { withinMs: 500 })).toMatchObject({ code: 'DELIVERY_TIMEOUT', written: 'no' });
    expect(performance.now() - started).toBeLessThan(2_500);
    expect(await send('c', 0, { withinMs: 10_000 })).toBe(1n);
    expect(performance.now() - started).toBeGreaterThan(2_500);
  });
});

describe('wire produce: silence', () => {
  it('ends in time when no answer comes, as "unknown", and what comes after has an epoch that fences the late one', async () => {
    await open();
    broker.onProduce = () => 'silence';
    const started = performance.now();
    expect(await send('a', 0, { withinMs: 700 })).toMatchObject({ code: 'DELIVERY_TIMEOUT', written: 'unknown', retriable: true });
    expect(performance.now() - started).toBeLessThan(3_000);
    broker.onProduce = (batch) => broker.write(batch);
    expect(await send('b')).toBe(0n);
    expect(sequences().at(-1)).toBe('1:0+1');
  });

  it('closes in bounded time although the broker takes nothing in any more', async () => {
    await open({ maxBufferBytes: 64 * 1024 * 1024 });
    broker.onProduce = () => 'silence';
    broker.deaf = true;
    const sends = Array.from({ length: 20 }, (_, i) => send('x'.repeat(900_000), i % 3, { withinMs: 800 }));
    await Promise.all(sends);
    const started = performance.now();
    await link[Symbol.asyncDispose]();
    expect(performance.now() - started).toBeLessThan(3_000);
  });
});
