import { type ConnectOptions, connect } from '@turnpike/client';
import { type Platform, startPlatform } from '@turnpike/testing';
import { kafkajsTransport } from '@turnpike/transports/kafkajs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Desk, type MeasuredKafka, measured, openService, readEvents } from '../support/service.ts';

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

const open = (init: Parameters<Desk['service']>[0], more: ConnectOptions = {}): Promise<MeasuredKafka> =>
  openService(desk, init, { transport: kafkajsTransport(), ...more });

describe('kafkajs: produce and consume', () => {
  it('brings 5,000 events through mTLS, each once and in the order of its key', async () => {
    await desk.topic('a.many');
    await using kafka = await open({ name: 'a', produces: ['a.many'], consumes: ['a.many'] });
    const sent = await Promise.all(measured(5000).map((e) => kafka.producer('a.many').send(e)));
    expect(new Set(sent.map((m) => `${m.partition}@${m.offset}`)).size).toBe(5000);
    const got = await readEvents(kafka, 'a.many', 5000);
    expect(got.map((e) => e.value?.n).sort((x, y) => (x ?? 0) - (y ?? 0))).toEqual(measured(5000).map((e) => e.n));
    for (const [, of] of Map.groupBy(got, (e) => e.key))
      expect(of.map((e) => e.value?.n)).toEqual([...of.map((e) => e.value?.n)].sort((x, y) => (x ?? 0) - (y ?? 0)));
  });

  it('works over OAUTHBEARER, and goes on when the broker asks for a new proof', async () => {
    await using short = await startPlatform({ tokenTtlSeconds: 4, reauthMs: 2_000 });
    await using its = await Desk.open(short);
    await its.topic('o.t', { partitions: 1 });
    await its.allow('o', { write: ['o.t'], read: ['o.t'], groups: ['o.group'] });
    const { service, options } = await its.service({ name: 'o', kind: 'oauth', produces: ['o.t'], consumes: ['o.t'] });
    await using kafka = await connect(service, { ...options, transport: kafkajsTransport() });
    const until = Date.now() + 9_000; // more than two lives of a token
    let n = 0;
    while (Date.now() < until) {
      await Promise.all(measured(20).map((e) => kafka.producer('o.t').send({ ...e, n: n++ })));
      await new Promise((r) => setTimeout(r, 20));
    }
    const got = await readEvents(kafka, 'o.t', n);
    expect(got.map((e) => e.value?.n)).toEqual(Array.from({ length: n }, (_, i) => i));
  });

  it.each(['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const)(
    'carries repeated header names, bytes, null and tombstones, compressed with %s, so that another client reads the same',
    async (compression) => {
      const topic = `b.${compression}`;
      await desk.topic(topic, { partitions: 1 });
      const init = { name: `b-${compression}`, produces: [topic], consumes: [topic], groups: [`b-${compression}`, `b-${compression}.wire`] };
      await using kafka = await open(init, { producer: { compression } });
      const headers: [string, string | Uint8Array | null][] = [
        ['x', 'one'],
        ['9', ''],
        ['x', new Uint8Array([0, 255])],
        ['né', null],
        ['constructor', 'c'],
        ['x', null],
      ];
      await kafka.producer(topic).send({ id: 'Zürich', n: 1 }, { headers, timestampMs: 0 });
      await kafka.producer(topic).tombstone('Zürich');
      await kafka.producer(topic).sendBatch(measured(500));
      const { service, options } = await desk.service(init);
      await using wire = await connect(service, options);
      const byWire = await readEvents(wire, topic, 502, { group: `b-${compression}.wire` });
      const bytes = headers.map(([k, v]) => [k, v === null ? null : [...Buffer.from(v as string)]]);
      expect([...(byWire[0]?.headers ?? [])].map(([k, v]) => [k, v && [...v]])).toEqual(bytes);
      expect(byWire[0]).toMatchObject({ key: 'Zürich', value: { id: 'Zürich', n: 1 }, timestampMs: 0 });
      expect(byWire[1]).toMatchObject({ key: 'Zürich', value: null });
      const byKafkajs = await readEvents(kafka, topic, 502, { group: `b-${compression}` });
      expect(byKafkajs.map((e) => [e.offset, e.key, e.value, e.timestampMs])).toEqual(byWire.map((e) => [e.offset, e.key, e.value, e.timestampMs]));
      expect([...(byKafkajs[0]?.headers ?? [])].map(([k, v]) => [k, v && [...v]])).toEqual(bytes);
    },
  );
});
