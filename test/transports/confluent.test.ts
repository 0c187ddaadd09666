// What is special to this transport, at the seam; what all transports have in common, the conformance suite shows.
import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { compileConsumerOptions, compileProducerOptions, type HeadersInit, RecordHeaders, type TurnpikeError } from '@turnpike/core';
import {
  type AssignmentListener,
  type ConsumerPort,
  type FetchedBatch,
  type Identity,
  type InboundRecord,
  type Link,
  type ProducerPort,
  pause,
  systemClock,
  type TopicPartition,
  type Transport,
} from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { type Platform, startPlatform } from '@turnpike/testing';
import { confluentTransport } from '@turnpike/transports/confluent';
import { wireTransport } from '@turnpike/transports/wire';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Desk, openLink } from '../support/service.ts';

let platform: Platform;
let desk: Desk;
let identity: Identity & AsyncDisposable;

beforeAll(async () => {
  platform = await startPlatform();
  desk = await Desk.open(platform);
  identity = await mtlsIdentity(platform.admin.mtls);
});
afterAll(async () => {
  await identity?.[Symbol.asyncDispose]();
  await desk?.[Symbol.asyncDispose]();
  await platform?.[Symbol.asyncDispose]();
});

const open = (transport: Transport = confluentTransport({ metadataMaxAgeMs: 1_000 }), as: Identity = identity, at: Platform = platform): Promise<Link> =>
  openLink(at, as, { transport });

interface Outgoing {
  readonly topic: string;
  readonly partition?: number;
  readonly value: string;
  readonly headers?: HeadersInit;
}

/** Resolves with the offset that the producer was told. */
async function send(port: ProducerPort, { topic, partition = 0, value, headers }: Outgoing): Promise<bigint> {
  if (port.partitions(topic) === undefined) await port.warm([topic]);
  const buf = Buffer.from(value);
  return new Promise((resolve, reject) => {
    port.append(
      {
        topic,
        partition,
        timestampMs: Date.now(),
        headers: headers && new RecordHeaders(headers).entries(),
        buf,
        keyStart: -1,
        keyEnd: -1,
        valueStart: 0,
        valueEnd: buf.length,
      },
      {
        deadlineMs: systemClock.monotonic() + 15_000,
        attempts: 0,
        span: undefined,
        acknowledge: ({ baseOffset }, index) => resolve(baseOffset < 0n ? -1n : baseOffset + BigInt(index)),
        fail: reject,
      },
    );
  });
}

/** A group member that keeps what has come. */
class Reader implements AssignmentListener {
  readonly port: ConsumerPort;
  readonly records: InboundRecord[] = [];
  readonly assignments: (readonly TopicPartition[])[] = [];
  failure: TurnpikeError | undefined;

  constructor(link: Link, group: string, options: Parameters<typeof compileConsumerOptions>[1] = {}) {
    this.port = link.consumer(compileConsumerOptions(group, { heartbeatIntervalMs: 200, fetchWaitMs: 100, ...options }));
  }

  static async join(topic: string, ...init: ConstructorParameters<typeof Reader>): Promise<Reader> {
    const reader = new Reader(...init);
    await reader.port.subscribe([topic], reader);
    return reader;
  }

  get values(): readonly string[] {
    return this.records.map((r) => String(r.value));
  }

  assigned(partitions: readonly TopicPartition[]): void {
    this.assignments.push(partitions);
  }

  async revoking(): Promise<void> {}

  lost(): void {}

  failed(error: TurnpikeError): void {
    this.failure ??= error;
  }

  async poll(ms = 200): Promise<readonly FetchedBatch[]> {
    const batches = await this.port.poll(ms);
    for (const batch of batches) this.records.push(...batch.records);
    return batches;
  }

  async untilCount(count: number): Promise<void> {
    const until = performance.now() + 20_000;
    while (this.records.length < count) {
      if (this.failure) throw this.failure;
      if (performance.now() > until) throw new Error(`${this.records.length} of ${count} records have come`);
      await this.poll();
    }
  }
}

const numbered = (n: number): readonly string[] => Array.from({ length: n }, (_, i) => `${i}`);

describe('confluent: what is written', () => {
  it('keeps header names that mean something to JavaScript, and no value apart from an empty one', async () => {
    await desk.topic('w.headers', { partitions: 1 });
    await using link = await open();
    await using wire = await open(wireTransport());
    await using producer = await link.producer(compileProducerOptions());
    const headers: [string, string | Uint8Array | null][] = [
      ['__proto__', 'one'],
      ['toString', new Uint8Array([0, 255, 0])],
      ['10', 'ten'],
      ['9', null],
      ['9', ''],
      ['', 'no name'],
      ['né', null],
    ];
    await send(producer, { topic: 'w.headers', value: 'v', headers });
    const pairs = ([record]: readonly InboundRecord[]) =>
      [...(record?.headers ?? [])].map(([name, value]) => [name, value && Buffer.from(value).toString('latin1')]);
    const written = headers.map(([name, value]) => [name, value && Buffer.from(value as string).toString('latin1')]);
    const [ours, foreign] = [await Reader.join('w.headers', link, 'w.headers.1'), await Reader.join('w.headers', wire, 'w.headers.2')];
    await Promise.all([ours.untilCount(1), foreign.untilCount(1)]);
    expect(pairs(foreign.records)).toEqual(written);
    // What it reads of a header without a value is an empty one: capabilities.nullHeaders.
    expect(pairs(ours.records)).toEqual(written.map(([name, value]) => [name, value ?? '']));
  });

  it("refuses a header's name that the addon would cut off, alone", async () => {
    await desk.topic('w.cut', { partitions: 1 });
    await using link = await open();
    await using producer = await link.producer(compileProducerOptions());
    const sent = await Promise.allSettled([
      send(producer, { topic: 'w.cut', value: 'before' }),
      send(producer, { topic: 'w.cut', value: 'cut', headers: { 'a\0b': 'x' } }),
      send(producer, { topic: 'w.cut', value: 'after' }),
    ]);
    expect(sent).toMatchObject([{ status: 'fulfilled' }, { reason: { code: 'ENCODE_FAILED', written: 'no' } }, { status: 'fulfilled' }]);
  });

  it('tells each record its own offset, or none, though others write to the same partition at the same time', async () => {
    await desk.topic('w.offsets', { partitions: 1 });
    await using link = await open();
    const producers = await Promise.all([1, 2, 3].map(() => link.producer(compileProducerOptions())));
    const told = new Map<string, bigint>();
    for (let round = 0; round < 10; round++)
      await Promise.all(
        producers.flatMap((producer, p) =>
          numbered(300).map(async (n) => {
            const value = `${p}.${round}.${n}`;
            told.set(value, await send(producer, { topic: 'w.offsets', value }));
          }),
        ),
      );
    const reader = await Reader.join('w.offsets', link, 'w.offsets.group');
    await reader.untilCount(9_000);
    const known = reader.records.filter((r) => told.get(String(r.value)) !== -1n);
    expect(known.filter((r) => told.get(String(r.value)) !== r.offset)).toEqual([]);
    // Handed over in one turn, most go in one request.
    expect(known.length).toBeGreaterThan(4_500);
  });

  it('goes on with the next certificate, which its client takes only when it is made', async () => {
    await desk.topic('w.cert', { partitions: 1 });
    const listeners = new Set<() => void>();
    let asked = 0;
    const renewing: Identity = {
      kind: 'mtls',
      principal: identity.principal,
      tls: () => {
        asked++;
        return identity.tls();
      },
      token: () => identity.token(),
      onChange: (listener) => {
        listeners.add(listener);
        return { [Symbol.dispose]: () => listeners.delete(listener) };
      },
      http: identity.http,
    };
    {
      await using link = await open(undefined, renewing);
      await using producer = await link.producer(compileProducerOptions());
      await send(producer, { topic: 'w.cert', value: 'before' });
      const before = asked;
      for (const listener of listeners) listener();
      expect(await send(producer, { topic: 'w.cert', value: 'after' })).toBe(1n);
      expect(asked).toBeGreaterThan(before);
    }
    expect(listeners.size).toBe(0);
  });
});

describe('confluent: what is read', () => {
  it('loses nothing and repeats nothing when partitions are paused and resumed at any moment', async () => {
    await desk.topic('r.pause', { partitions: 2 });
    await using link = await open();
    await using producer = await link.producer(compileProducerOptions());
    // So small a read-ahead that the library is paused, too.
    const reader = await Reader.join('r.pause', link, 'r.pause.group', { maxPrefetchBytes: 40_000, maxPartitionFetchBytes: 4_000 });
    const sending = (async () => {
      for (let round = 0; round < 60; round++)
        await Promise.all(numbered(50).map((n) => send(producer, { topic: 'r.pause', partition: Number(n) % 2, value: `${round}.${n}`.padEnd(100) })));
    })();
    for (let turn = 0; reader.records.length < 3_000; turn++) {
      const tp = { topic: 'r.pause', partition: turn % 2 };
      reader.port.pause([tp]);
      await reader.poll(20);
      if (turn % 5 === 0) await pause(systemClock, 30);
      reader.port.resume([tp]);
      await reader.poll(20);
      if (reader.failure) throw reader.failure;
    }
    await sending;
    for (const partition of [0, 1]) {
      const offsets = reader.records.filter((r) => r.partition === partition).map((r) => r.offset);
      expect(offsets).toEqual(Array.from({ length: 1_500 }, (_, i) => BigInt(i)));
    }
  });

  it('reads with more members in one process than it has threads, and leaves the others of the process theirs', async () => {
    await desk.topic('r.many', { partitions: 1 });
    await using link = await open();
    await using producer = await link.producer(compileProducerOptions());
    const readers = await Promise.all(numbered(12).map((n) => Reader.join('r.many', link, `r.many.${n}`)));
    const started = performance.now();
    for (let n = 0; n < 20; n++) await readFile(import.meta.filename);
    expect(performance.now() - started).toBeLessThan(1_000);
    await send(producer, { topic: 'r.many', value: 'v' });
    await Promise.all(readers.map((reader) => reader.untilCount(1)));
  });

  it('costs next to nothing while nothing comes and goes', async () => {
    await desk.topic('r.idle', { partitions: 1 });
    await using link = await open();
    await using producer = await link.producer(compileProducerOptions());
    await send(producer, { topic: 'r.idle', value: 'v' });
    const reader = await Reader.join('r.idle', link, 'r.idle.group');
    await reader.untilCount(1);
    const before = process.cpuUsage();
    const polling = (async () => {
      for (let n = 0; n < 6; n++) await reader.poll(500);
    })();
    await polling;
    const { user, system } = process.cpuUsage(before);
    expect((user + system) / 1_000).toBeLessThan(300); // ms, of 3 s
  });

  it('names the partition whose commit the log does not have any more, where it is told not to guess', async () => {
    await desk.topic('r.gone', { partitions: 2 });
    await using link = await open();
    {
      await using producer = await link.producer(compileProducerOptions());
      for (const partition of [0, 1]) await send(producer, { topic: 'r.gone', partition, value: 'v' });
      const first = await Reader.join('r.gone', link, 'r.gone.group');
      await first.untilCount(2);
      await first.port.commit([
        { topic: 'r.gone', partition: 0, offset: 1n },
        { topic: 'r.gone', partition: 1, offset: 500n },
      ]);
      await first.port[Symbol.asyncDispose]();
    }
    const second = new Reader(link, 'r.gone.group', { startAt: 'fail' });
    await second.port.subscribe(['r.gone'], second).catch(() => {});
    await expect.poll(() => second.failure, { timeout: 10_000 }).toMatchObject({ code: 'OFFSET_OUT_OF_RANGE', facts: { topic: 'r.gone', partition: 1 } });
  });

  it('ends a static member whose instance id another one takes, and says so', async () => {
    await desk.topic('r.static', { partitions: 1 });
    await using link = await open();
    const first = await Reader.join('r.static', link, 'r.static.group', { instanceId: 'one' });
    const second = await Reader.join('r.static', link, 'r.static.group', { instanceId: 'one' });
    await expect.poll(() => first.failure, { timeout: 20_000 }).toMatchObject({ code: 'MEMBERSHIP_LOST', message: expect.stringContaining('one') });
    expect(second.failure).toBeUndefined();
  });
});

describe('confluent: certificates', () => {
  it('reads on with the next certificate where the broker takes the one of the beginning no more', async () => {
    await using own = await startPlatform();
    await using its = await Desk.open(own);
    await its.topic('m.t', { partitions: 1 });
    await its.allow('m', { write: ['m.t'], read: ['m.t'], groups: ['m.group'] });
    const issue = async (seconds: number) => {
      const { cert, key } = await own.certificates.issue({ commonName: 'm', notAfter: new Date(Date.now() + seconds * 1_000) });
      return { ca: own.certificates.ca, cert, key };
    };
    const listeners = new Set<() => void>();
    let tls = await issue(5);
    const expiresAtMs = Date.now() + 5_000;
    const short: Identity = {
      kind: 'mtls',
      principal: 'm',
      tls: () => tls,
      token: () => identity.token(),
      onChange: (listener) => {
        listeners.add(listener);
        return { [Symbol.dispose]: () => listeners.delete(listener) };
      },
      http: identity.http,
    };
    await using link = await open(undefined, short, own);
    await using producer = await link.producer(compileProducerOptions());
    await send(producer, { topic: 'm.t', value: 'before' });
    // The group waits for the session of the member that can't come back, nor leave.
    const reader = await Reader.join('m.t', link, 'm.group', { sessionTimeoutMs: 6_000 });
    await reader.untilCount(1);
    await reader.port.commit([{ topic: 'm.t', partition: 0, offset: 1n }]);
    tls = await issue(3_600);
    for (const listener of listeners) listener();
    await pause(systemClock, expiresAtMs + 1_000 - Date.now());
    const [node] = own.nodes;
    await node?.stop(); // Every connection has to be made anew.
    await node?.start();
    await send(producer, { topic: 'm.t', value: 'after' });
    await reader.untilCount(2);
    expect(reader.values).toEqual(['before', 'after']);
  });
});

describe('confluent: a transaction', () => {
  it('commits offsets with its records, as the member that reads on this link and for a group that has none here', async () => {
    await desk.topic('t.in', { partitions: 1 });
    await desk.topic('t.out', { partitions: 1 });
    await using link = await open();
    await using producer = await link.producer({ ...compileProducerOptions(), transactionalId: 't.both' });
    const { transaction } = producer;
    if (!transaction) throw new Error('no transactions');
    {
      await using plain = await link.producer(compileProducerOptions());
      for (const value of numbered(3)) await send(plain, { topic: 't.in', value });
    }
    const member = await Reader.join('t.in', link, 't.member');
    await member.untilCount(3);
    const offsets = [{ topic: 't.in', partition: 0, offset: 3n }];
    const commits = async (end: 'commit' | 'abort') => {
      await transaction.begin();
      await send(producer, { topic: 't.out', value: end });
      for (const group of ['t.member', 't.elsewhere']) await transaction.sendOffsets(group, offsets);
      await transaction[end]();
      return Promise.all(['t.member', 't.elsewhere'].map(async (group) => (await desk.admin.groupOffsets(group)).map((o) => o.offset)));
    };
    expect(await commits('abort')).toEqual([[], []]);
    expect(await commits('commit')).toEqual([[3n], [3n]]);
    const reader = await Reader.join('t.out', link, 't.reader', { isolation: 'read_committed' });
    await reader.untilCount(1);
    expect(reader.values).toEqual(['commit']);
  });
});

describe('confluent: close', () => {
  it('ends the threads of the library', async () => {
    const threads = () => readdirSync('/proc/self/task').length;
    await desk.topic('c.threads', { partitions: 1 });
    const once = async () => {
      await using link = await open();
      await using producer = await link.producer(compileProducerOptions());
      await send(producer, { topic: 'c.threads', value: 'v' });
      const reader = await Reader.join('c.threads', link, 'c.threads.group');
      await reader.untilCount(1);
    };
    await once();
    const before = threads();
    for (let n = 0; n < 3; n++) await once();
    await expect.poll(threads, { timeout: 5_000 }).toBeLessThanOrEqual(before);
  });
});
