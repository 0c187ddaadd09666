import { compileConsumerOptions, compileProducerOptions, type ProducerOptions, type RecordMetadata, type TurnpikeError } from '@turnpike/core';
import type { InboundRecord, Link, Pending, ProducerPort } from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { type Platform, startPlatform } from '@turnpike/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Desk, openLink } from '../support/service.ts';

let platform: Platform;
let desk: Desk;
let identity: Awaited<ReturnType<typeof mtlsIdentity>>;
let link: Link;

beforeAll(async () => {
  platform = await startPlatform();
  desk = await Desk.open(platform);
  identity = await mtlsIdentity(platform.admin.mtls);
  link = await openLink(platform, identity);
});
afterAll(async () => {
  await link?.[Symbol.asyncDispose]();
  await identity?.[Symbol.asyncDispose]();
  await desk?.[Symbol.asyncDispose]();
  await platform?.[Symbol.asyncDispose]();
});

interface Init {
  readonly key?: Buffer | null;
  readonly value?: Buffer | null;
  readonly headers?: readonly (readonly [string, Uint8Array | null])[];
  readonly timestampMs?: number;
}

async function producer(topic: string, options: ProducerOptions = {}): Promise<ProducerPort> {
  const port = await link.producer(compileProducerOptions(options));
  await port.warm([topic]);
  return port;
}

function send(port: ProducerPort, topic: string, init: Init): Promise<Pick<RecordMetadata, 'offset' | 'timestampMs'> | TurnpikeError> {
  const { key = null, value = null, headers, timestampMs = Date.now() } = init;
  const buf = Buffer.concat([key ?? Buffer.alloc(0), value ?? Buffer.alloc(0)]);
  const keyEnd = key?.length ?? 0;
  return new Promise((resolve) => {
    const pending: Pending = {
      deadlineMs: performance.now() + 10_000,
      attempts: 0,
      span: undefined,
      acknowledge: (batch, i) => resolve({ offset: batch.baseOffset + BigInt(i), timestampMs: batch.logAppendTimeMs ?? timestampMs }),
      fail: resolve,
    };
    port.append(
      {
        topic,
        partition: 0,
        timestampMs,
        headers,
        buf,
        keyStart: key ? 0 : -1,
        keyEnd: key ? keyEnd : -1,
        valueStart: value ? keyEnd : -1,
        valueEnd: value ? buf.length : -1,
      },
      pending,
    );
  });
}

async function read(topic: string, count: number): Promise<InboundRecord[]> {
  await using port = link.consumer(compileConsumerOptions(`${topic}.${count}`, {}));
  await port.subscribe([topic], { assigned: () => {}, revoking: async () => {}, lost: () => {}, failed: (e) => expect.unreachable(e.message) });
  const got: InboundRecord[] = [];
  while (got.length < count) for (const batch of await port.poll(1_000)) got.push(...batch.records);
  return got;
}

const topic = (name: string, configs: Record<string, string> = {}) => desk.admin.createTopics([{ name, partitions: 1, replicationFactor: 1, configs }]);

describe('wire: what a broker makes of odd records', () => {
  it('empty and absent keys and values, many headers, large records and old ones come back as they were', async () => {
    await topic('odd.all', { 'retention.ms': '-1' }); // An old record must not be deleted as soon as the broker looks.

    await using port = await producer('odd.all');
    const many = Array.from({ length: 300 }, (_, i) => [`h${i % 7}`, i % 3 === 0 ? null : Buffer.from(`${i}`)] as const);
    const records: Init[] = [
      { key: Buffer.alloc(0), value: Buffer.alloc(0) },
      { key: null, value: Buffer.from('no key') },
      { key: Buffer.from('tombstone'), value: null },
      { key: Buffer.alloc(10_000, 1), value: Buffer.alloc(900_000, 2) },
      { key: Buffer.from('h'), value: Buffer.from('v'), headers: many },
      { key: Buffer.from('old'), value: Buffer.from('v'), timestampMs: 0 },
    ];
    const sent = await Promise.all(records.map((r) => send(port, 'odd.all', r)));
    expect(sent.map((s) => ('offset' in s ? s.offset : s))).toEqual([0n, 1n, 2n, 3n, 4n, 5n]);
    const got = await read('odd.all', 6);
    expect(got.map((r) => [r.key, r.value])).toEqual(records.map((r) => [r.key, r.value]));
    expect([...(got[4]?.headers ?? [])].map(([k, v]) => [k, v && String(v)])).toEqual(many.map(([k, v]) => [k, v && String(v)]));
    expect(got[5]?.timestampMs).toBe(0);
  });

  it('a compacted topic refuses the records that have no key, and takes the others of the same batch, in order (KIP-467)', async () => {
    await topic('odd.compact', { 'cleanup.policy': 'compact' });
    await using port = await producer('odd.compact');
    const outcomes = await Promise.all(
      Array.from({ length: 9 }, (_, i) => send(port, 'odd.compact', { key: i % 3 === 1 ? null : Buffer.from(`k${i}`), value: Buffer.from(`${i}`) })),
    );
    const refused = outcomes.filter((o) => 'code' in o);
    expect(refused).toHaveLength(3);
    for (const error of refused)
      expect(error).toMatchObject({ code: 'BROKER_REJECTED', written: 'no', facts: { topic: 'odd.compact', kafkaError: 'INVALID_RECORD' } });
    expect(String((refused[0] as TurnpikeError).message)).toMatch(/key/i);
    expect((await read('odd.compact', 6)).map((r) => String(r.value))).toEqual(['0', '2', '3', '5', '6', '8']);
  });

  it('a record from a future that the broker doesn’t believe in is refused alone', async () => {
    await topic('odd.future', { 'message.timestamp.after.max.ms': '3600000' });
    await using port = await producer('odd.future');
    const day = 86_400_000;
    const [now, future, later] = await Promise.all(
      [0, 2 * day, 1].map((ms) => send(port, 'odd.future', { key: Buffer.from('k'), value: Buffer.from('v'), timestampMs: Date.now() + ms })),
    );
    expect(future).toMatchObject({ code: 'BROKER_REJECTED', written: 'no', facts: { kafkaError: 'INVALID_TIMESTAMP' } });
    expect([now, later].map((s) => s && 'offset' in s && s.offset)).toEqual([0n, 1n]);
  });

  it('tells and reads the broker’s own time where the topic uses it', async () => {
    await topic('odd.append', { 'message.timestamp.type': 'LogAppendTime' });
    await using port = await producer('odd.append');
    const sent = await send(port, 'odd.append', { key: Buffer.from('k'), value: Buffer.from('v'), timestampMs: 1_000 });
    const [got] = await read('odd.append', 1);
    expect(got?.timestampMs).toBeGreaterThan(1_600_000_000_000);
    expect('timestampMs' in sent && sent.timestampMs).toBe(got?.timestampMs);
  });

  it('goes on producing and consuming when a topic is deleted and made again under both', async () => {
    await topic('odd.again');
    await using port = await producer('odd.again');
    await using consumer = link.consumer(compileConsumerOptions('odd.again', { heartbeatIntervalMs: 100 }));
    await consumer.subscribe(['odd.again'], { assigned: () => {}, revoking: async () => {}, lost: () => {}, failed: (e) => expect.unreachable(e.message) });
    const got: string[] = [];
    const poll = async () => {
      for (const batch of await consumer.poll(200)) got.push(...[...batch.records].map((r) => String(r.value)));
      return got;
    };
    for (const v of ['a', 'b', 'c']) await send(port, 'odd.again', { key: Buffer.from('k'), value: Buffer.from(v) });
    await expect.poll(poll, { timeout: 10_000 }).toEqual(['a', 'b', 'c']);
    await desk.admin.deleteTopics(['odd.again']);
    await expect.poll(async () => (await topic('odd.again'))[0]?.error?.code, { timeout: 10_000 }).toBeUndefined();
    const again = await send(port, 'odd.again', { key: Buffer.from('k'), value: Buffer.from('d') });
    expect(again).toMatchObject({ offset: 0n });
    await expect.poll(poll, { timeout: 15_000 }).toEqual(['a', 'b', 'c', 'd']);
  });
});
