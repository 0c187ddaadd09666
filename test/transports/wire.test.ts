import { type ConnectOptions, type ConsumedEvent, connect } from '@turnpike/client';
import type { Identity } from '@turnpike/core/spi';
import { oauthIdentity } from '@turnpike/identity';
import { type Platform, startPlatform } from '@turnpike/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Desk, type Measured, type MeasuredKafka, measured, openService, readEvents } from '../support/service.ts';

let platform: Platform;
let desk: Desk;

beforeAll(async () => {
  platform = await startPlatform();
  desk = await Desk.open(platform);
});
afterAll(async () => {
  await desk?.[Symbol.asyncDispose]();
  await platform?.[Symbol.asyncDispose]();
});

const open = (init: Parameters<Desk['service']>[0], more: ConnectOptions = {}): Promise<MeasuredKafka> => openService(desk, init, more);

describe('wire: produce and consume', () => {
  it('brings 5,000 events through mTLS, each once and in the order of its key', async () => {
    await desk.topic('a.many');
    await using kafka = await open({ name: 'a', produces: ['a.many'], consumes: ['a.many'] });
    const sent = await Promise.all(measured(5000).map((e) => kafka.producer('a.many').send(e)));
    expect(new Set(sent.map((m) => `${m.partition}@${m.offset}`)).size).toBe(5000);
    const got = await readEvents(kafka, 'a.many', 5000);
    expect(got.map((e) => e.value?.n).sort((x, y) => (x ?? 0) - (y ?? 0))).toEqual(measured(5000).map((e) => e.n));
    const byKey = Map.groupBy(got, (e) => e.key);
    for (const [, of] of byKey) expect(of.map((e) => e.value?.n)).toEqual([...of.map((e) => e.value?.n)].sort((x, y) => (x ?? 0) - (y ?? 0)));
  });

  it('works over OAUTHBEARER, and goes on when the broker asks for a new proof', async () => {
    await using short = await startPlatform({ tokenTtlSeconds: 4, reauthMs: 2_000 });
    await using its = await Desk.open(short);
    await its.topic('o.t', { partitions: 1 });
    await its.allow('o', { write: ['o.t'], read: ['o.t'], groups: ['o.group'] });
    const { service, options } = await its.service({ name: 'o', kind: 'oauth', produces: ['o.t'], consumes: ['o.t'] });
    await using kafka = await connect(service, options);
    const until = Date.now() + 9_000; // more than two lives of a token
    let n = 0;
    while (Date.now() < until) {
      await Promise.all(measured(20).map((e) => kafka.producer('o.t').send({ ...e, n: n++ })));
      await new Promise((r) => setTimeout(r, 20));
    }
    const got = await readEvents(kafka, 'o.t', n);
    expect(got.map((e) => e.value?.n)).toEqual(Array.from({ length: n }, (_, i) => i));
  });

  it('goes on with tokens that are about to expire, though the broker takes no two proofs of one connection within a second', async () => {
    await using short = await startPlatform({ tokenTtlSeconds: 4 });
    await using its = await Desk.open(short);
    await its.topic('p.t', { partitions: 1 });
    await its.allow('p', { write: ['p.t'] });
    const { service, options } = await its.service({ name: 'p', kind: 'oauth', produces: ['p.t'] });
    const { oauth } = await short.principal('p');
    await using fresh = await oauthIdentity(oauth);
    let token = await fresh.token();
    const stingy: Identity = {
      kind: 'oauth',
      principal: fresh.principal,
      tls: () => fresh.tls(),
      // Used to its last 300 ms: of the sessions that such tokens open, some last no longer.
      token: async () => {
        if (token.expiresAtMs - Date.now() > 300) return token;
        await using next = await oauthIdentity(oauth);
        token = await next.token();
        return token;
      },
      onChange: (f) => fresh.onChange(f),
      http: fresh.http,
    };
    await using kafka = await connect(service, { ...options, identity: stingy });
    const until = Date.now() + 9_000;
    // One in flight at any time, so that one meets each proof.
    for (let n = 0; Date.now() < until; n++) await kafka.producer('p.t').send({ id: 'x', n });
  });

  it('carries headers with repeated names, bytes and null, and tombstones', async () => {
    await desk.topic('b.odd', { partitions: 1 });
    await using kafka = await open({ name: 'b', produces: ['b.odd'], consumes: ['b.odd'] });
    const headers: [string, string | Uint8Array | null][] = [
      ['x', 'one'],
      ['x', new Uint8Array([0, 255])],
      ['né', null],
    ];
    await kafka.producer('b.odd').send({ id: 'Zürich', n: 1 }, { headers, timestampMs: 1_000_000_000_000 });
    await kafka.producer('b.odd').tombstone('Zürich');
    const [first, second] = await readEvents(kafka, 'b.odd', 2);
    expect([...(first?.headers ?? [])].map(([k, v]) => [k, v && [...v]])).toEqual([
      ['x', [...Buffer.from('one')]],
      ['x', [0, 255]],
      ['né', null],
    ]);
    expect(first).toMatchObject({ key: 'Zürich', value: { id: 'Zürich', n: 1 }, timestampMs: 1_000_000_000_000 });
    expect(second).toMatchObject({ key: 'Zürich', value: null });
  });

  it.each(['gzip', 'snappy', 'lz4', 'zstd'] as const)('compresses with %s so that the broker takes it and it reads back', async (compression) => {
    const topic = `c.${compression}`;
    await desk.topic(topic, { partitions: 1 });
    await using kafka = await open({ name: `c-${compression}`, produces: [topic], consumes: [topic] }, { producer: { compression } });
    await kafka.producer(topic).sendBatch(measured(1000));
    const got = await readEvents(kafka, topic, 1000);
    expect(got.map((e) => e.value)).toEqual(measured(1000));
  });

  it('splits a batch that the topic finds too large, and tells only the one whose event is', async () => {
    await desk.topic('d.small', { partitions: 1, configs: { 'max.message.bytes': '20000' } });
    await using kafka = await open({ name: 'd', produces: ['d.small'], consumes: ['d.small'] });
    const long = (length: number, n: number) => ({ id: 'x'.repeat(length), n });
    const results = await Promise.allSettled([
      ...Array.from({ length: 30 }, (_, n) => kafka.producer('d.small').send(long(2000, n))),
      kafka.producer('d.small').send(long(40_000, 99)),
    ]);
    expect(results.slice(0, 30).map((r) => r.status)).toEqual(Array(30).fill('fulfilled'));
    expect((results[30] as PromiseRejectedResult).reason).toMatchObject({ code: 'RECORD_TOO_LARGE', written: 'no', facts: { topic: 'd.small' } });
    const got = await readEvents(kafka, 'd.small', 30);
    expect(got.map((e) => e.value?.n)).toEqual(Array.from({ length: 30 }, (_, n) => n));
  });
});

describe('wire: groups', () => {
  it('shares partitions among members, and moves them without losing or repeating a record', async () => {
    await desk.topic('g.t', { partitions: 6 });
    const init = { name: 'g', produces: ['g.t'], consumes: ['g.t'] };
    await using one = await open(init);
    await using two = await open(init);
    const seen = new Map<number, number>();
    const by: number[][] = [[], []];
    const handler = (who: number) => (event: ConsumedEvent<string, Measured>) => {
      const n = event.value?.n ?? -1;
      seen.set(n, (seen.get(n) ?? 0) + 1);
      by[who]?.push(n);
    };
    const first = one.consumer(['g.t'], { commitIntervalMs: 100, heartbeatIntervalMs: 200 });
    const firstRun = first.run(handler(0));
    const send = async (from: number, to: number) => {
      for (let n = from; n < to; n++) await one.producer('g.t').send({ id: `k${n}`, n });
    };
    await send(0, 100);
    const second = two.consumer(['g.t'], { commitIntervalMs: 100, heartbeatIntervalMs: 200 });
    const secondRun = second.run(handler(1));
    await expect
      .poll(
        async () => {
          const [group] = await desk.admin.describeGroups(['g.group']);
          return group?.members.map((m) => m.partitions.length).sort();
        },
        { timeout: 20_000, interval: 200 },
      )
      .toEqual([3, 3]);
    await send(100, 300);
    await expect.poll(() => seen.size, { timeout: 20_000 }).toBe(300);
    expect(by[1]?.length).toBeGreaterThan(0);
    await second.close();
    await send(300, 400);
    await expect.poll(() => seen.size, { timeout: 20_000 }).toBe(400);
    await first.close();
    await Promise.all([firstRun, secondRun]);
    expect([...seen.values()].filter((times) => times !== 1)).toEqual([]);
  });

  it('goes on after the last commit, and starts where it is told', async () => {
    await desk.topic('h.t', { partitions: 1 });
    await using kafka = await open({ name: 'h', produces: ['h.t'], consumes: ['h.t'], groups: ['h.group', 'h.late'] });
    await kafka.producer('h.t').sendBatch(measured(10));
    expect((await readEvents(kafka, 'h.t', 4, { group: 'h.group' })).map((e) => e.value?.n)).toEqual([0, 1, 2, 3]);
    const resumed = await readEvents(kafka, 'h.t', 6, { group: 'h.group' });
    // The record on which the loop was left isn't known to be handled.
    expect(resumed[0]?.value?.n).toBeLessThanOrEqual(4);
    expect(resumed[0]?.value?.n).toBeGreaterThanOrEqual(3);
    const late = kafka.consumer(['h.t'], { group: 'h.late', startAt: 'latest' });
    const got: number[] = [];
    const run = late.run((e) => void got.push(e.value?.n ?? -1));
    await expect.poll(async () => (await desk.admin.describeGroups(['h.late']))[0]?.members[0]?.partitions.length, { timeout: 10_000 }).toBe(1);
    await expect
      .poll(
        async () => {
          await kafka.producer('h.t').send({ id: 'k', n: 1000 });
          return got.length;
        },
        { timeout: 10_000 },
      )
      .toBeGreaterThan(0);
    await late.close();
    await run;
    expect(new Set(got)).toEqual(new Set([1000]));
  });

  it('finds partitions that were added', async () => {
    await desk.topic('i.t', { partitions: 1 });
    const { service, options } = await desk.service({ name: 'i', produces: ['i.t'], consumes: ['i.t'] });
    await desk.allow('i', { write: ['i.t'], read: ['i.t'], groups: ['i.group'] });
    const { wireTransport } = await import('@turnpike/transports/wire');
    await using kafka = await connect(service, { ...options, transport: wireTransport({ metadataMaxAgeMs: 1000 }) });
    const partitions = new Set<number>();
    const consumer = kafka.consumer(['i.t'], { heartbeatIntervalMs: 200 });
    const run = consumer.run((e) => void partitions.add(e.partition));
    await desk.admin.createPartitions([{ topic: 'i.t', partitions: 3 }]);
    await expect
      .poll(
        async () => {
          await kafka.producer('i.t').sendBatch(Array.from({ length: 20 }, (_, n) => ({ id: `p${n}`, n })));
          return [...partitions].sort();
        },
        { timeout: 20_000, interval: 300 },
      )
      .toEqual([0, 1, 2]);
    await consumer.close();
    await run;
  });
});
