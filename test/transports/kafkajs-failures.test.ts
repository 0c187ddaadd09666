import { Duplex, Writable } from 'node:stream';
import { TLSSocket } from 'node:tls';
import { compileConsumerOptions, compileProducerOptions, TurnpikeError } from '@turnpike/core';
import {
  type ConsumerPort,
  type Identity,
  type InboundRecord,
  type Link,
  type Pending,
  type ProducerPort,
  systemClock,
  type TopicPartition,
} from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { type Platform, startPlatform } from '@turnpike/testing';
import { kafkajsTransport } from '@turnpike/transports/kafkajs';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { Desk, openLink } from '../support/service.ts';

let platform: Platform;
let desk: Desk;
let admin: Identity & AsyncDisposable;

beforeAll(async () => {
  platform = await startPlatform();
  desk = await Desk.open(platform);
  admin = await mtlsIdentity(platform.admin.mtls);
});
afterAll(async () => {
  await admin?.[Symbol.asyncDispose]();
  await desk?.[Symbol.asyncDispose]();
  await platform?.[Symbol.asyncDispose]();
});

const open = (of: Platform = platform, identity: Identity = admin): Promise<Link> =>
  openLink(of, identity, { transport: kafkajsTransport({ metadataMaxAgeMs: 1_000 }) });

/** A record through the seam; resolves with its offset. */
function send(
  port: ProducerPort,
  topic: string,
  value: string,
  { partition = 0, key = '', forMs = 10_000 }: { partition?: number; key?: string | Buffer; forMs?: number } = {},
): Promise<bigint> {
  const done = Promise.withResolvers<bigint>();
  const pending: Pending = {
    deadlineMs: systemClock.monotonic() + forMs,
    attempts: 0,
    span: undefined,
    acknowledge: ({ baseOffset }, index) => done.resolve(baseOffset < 0n ? -1n : baseOffset + BigInt(index)),
    fail: done.reject,
  };
  const keyBytes = Buffer.from(key as string);
  const buf = Buffer.concat([keyBytes, Buffer.from(value)]);
  port.append(
    {
      topic,
      partition,
      timestampMs: Date.now(),
      headers: undefined,
      buf,
      keyStart: 0,
      keyEnd: keyBytes.length,
      valueStart: keyBytes.length,
      valueEnd: buf.length,
    },
    pending,
  );
  return done.promise;
}

const refused = (attempt: Promise<unknown>): Promise<TurnpikeError> =>
  attempt.then(
    () => expect.unreachable('it was not refused'),
    (e: TurnpikeError) => e,
  );

const PRODUCE = 0;
const END_TXN = 26;

/** The first request of this kind reaches its broker, and its answer nobody: the connection is cut. */
function cutAfter(api: number): Disposable & { readonly times: number } {
  const write = vi.spyOn(Duplex.prototype, 'write');
  const original = Writable.prototype.write as (this: Writable, chunk: unknown, ...rest: unknown[]) => boolean;
  let times = 0;
  write.mockImplementation(function (this: Writable, chunk: unknown, ...rest: unknown[]) {
    const written = original.call(this, chunk, ...rest);
    if (times > 0 || !(this instanceof TLSSocket) || !Buffer.isBuffer(chunk) || chunk.length < 6 || chunk.readInt16BE(4) !== api) return written;
    times++;
    this.pause();
    setTimeout(() => this.destroy(new Error('cut off')), 200);
    return written;
  } as Duplex['write']);
  return {
    get times() {
      return times;
    },
    [Symbol.dispose]: () => write.mockRestore(),
  };
}

/** A member, with what it was given and what it read. */
class Reader {
  readonly port: ConsumerPort;
  readonly owned = new Map<string, TopicPartition>();
  readonly records: InboundRecord[] = [];
  readonly positions = new Map<string, bigint>();
  error: TurnpikeError | undefined;

  constructor(link: Link, group: string, init: Parameters<typeof compileConsumerOptions>[1] = {}) {
    this.port = link.consumer(compileConsumerOptions(group, { heartbeatIntervalMs: 200, ...init }));
  }

  subscribe(...topics: string[]): Promise<void> {
    return this.port.subscribe(topics, {
      assigned: (tps) => {
        for (const tp of tps) this.owned.set(`${tp.topic}/${tp.partition}`, tp);
      },
      revoking: async (tps) => {
        await this.commit();
        for (const tp of tps) this.owned.delete(`${tp.topic}/${tp.partition}`);
      },
      lost: (tps) => {
        for (const tp of tps) this.owned.delete(`${tp.topic}/${tp.partition}`);
      },
      failed: (e) => {
        this.error = e;
      },
    });
  }

  async poll(ms = 200): Promise<void> {
    for (const batch of await this.port.poll(ms)) {
      this.records.push(...batch.records);
      this.positions.set(`${batch.topic}/${batch.partition}`, batch.nextOffset);
    }
  }

  async readTo(topic: string, partition = 0): Promise<string[]> {
    const [end] = await this.port.endOffsets([{ topic, partition }]);
    await expect
      .poll(() => this.poll().then(() => this.positions.get(`${topic}/${partition}`) ?? 0n), { timeout: 20_000, interval: 1 })
      .toBeGreaterThanOrEqual(end?.offset ?? 0n);
    return this.values;
  }

  get values(): string[] {
    return this.records.map((r) => String(r.value));
  }

  async commit(): Promise<void> {
    const offsets = [...this.owned.values()].flatMap((tp) => {
      const offset = this.positions.get(`${tp.topic}/${tp.partition}`);
      return offset === undefined ? [] : [{ ...tp, offset }];
    });
    if (offsets.length > 0) await this.port.commit(offsets);
  }
}

describe('kafkajs: one batch of a flush in trouble', () => {
  it('tells the too large and the denied from the others, which are written once, and goes on', async () => {
    await desk.topic('f.good', { partitions: 3 });
    await desk.topic('f.small', { partitions: 1, configs: { 'max.message.bytes': '2000' } });
    await desk.topic('f.denied', { partitions: 1 });
    await desk.allow('f', { write: ['f.good', 'f.small'], read: ['f.denied', 'f.good'], groups: ['f.group'] });
    await using identity = await mtlsIdentity((await platform.principal('f')).mtls);
    await using link = await open(platform, identity);
    await using port = await link.producer(compileProducerOptions({}));
    await port.warm(['f.good', 'f.small', 'f.denied']);
    for (let round = 0; round < 3; round++) {
      const good = [0, 1, 2].flatMap((partition) => [`a${round}`, `b${round}`].map((v) => send(port, 'f.good', v, { partition })));
      const large = send(port, 'f.small', 'x'.repeat(3_000));
      const denied = refused(send(port, 'f.denied', 'no'));
      expect(await refused(large)).toMatchObject({ code: 'RECORD_TOO_LARGE', written: 'no', facts: { topic: 'f.small' } });
      expect(await denied).toMatchObject({ code: 'AUTHORIZATION_FAILED', written: 'no', facts: { topic: 'f.denied', principal: 'f' } });
      const offset = BigInt(round * 2);
      expect(await Promise.all(good)).toEqual([offset, offset + 1n, offset, offset + 1n, offset, offset + 1n]);
      expect(await send(port, 'f.small', 'fits')).toBe(BigInt(round));
    }
  });

  it('writes a record once though a request was cut off, and loses none that has the same number of records as it (a sequence that was taken back would make the broker take it for that)', async () => {
    await using own = await startPlatform();
    await using its = await Desk.open(own);
    await its.topic('q.t', { partitions: 2 });
    await using identity = await mtlsIdentity(own.admin.mtls);
    await using link = await open(own, identity);
    await using port = await link.producer(compileProducerOptions({ requestTimeoutMs: 1_000 }));
    await port.warm(['q.t']);
    await send(port, 'q.t', 'first');
    const [node] = own.nodes;
    node?.pause(); // alive, but silent: the request arrives, no answer comes
    const silent = await refused(send(port, 'q.t', 'silent', { forMs: 1_500 }));
    expect(silent).toMatchObject({ code: 'DELIVERY_TIMEOUT', written: 'unknown', retriable: true });
    const patient = send(port, 'q.t', 'patient', { partition: 1, forMs: 30_000 });
    node?.resume();
    await patient;
    const after = ['one', 'two', 'three'];
    for (const value of after) await send(port, 'q.t', value, { forMs: 20_000 });
    const other = new Reader(link, 'q.other');
    await other.subscribe('q.t');
    const values = await other.readTo('q.t');
    await other.port[Symbol.asyncDispose]();
    expect(values.filter((v) => v !== 'silent' && v !== 'patient')).toEqual(['first', ...after]);
  });

  it('writes a flush once though its answer was lost, each partition with the offsets it has got', async () => {
    await desk.topic('q.lost', { partitions: 2 });
    using cut = cutAfter(PRODUCE);
    await using link = await open();
    await using port = await link.producer(compileProducerOptions({}));
    await port.warm(['q.lost']);
    const both = (value: string) => Promise.all([0, 1].map((partition) => send(port, 'q.lost', value, { partition })));
    expect(await both('a')).toEqual([0n, 0n]);
    expect(cut.times).toBe(1);
    expect(await both('b')).toEqual([1n, 1n]);
    const reader = new Reader(link, 'q.lost.group');
    await reader.subscribe('q.lost');
    await reader.readTo('q.lost', 1);
    expect((await reader.readTo('q.lost', 0)).sort()).toEqual(['a', 'a', 'b', 'b']);
    await reader.port[Symbol.asyncDispose]();
  });
});

describe('kafkajs: transactions', () => {
  it('are read committed only, with their offsets, through aborted ranges one after another, side by side and with keys that look like markers', async () => {
    await desk.topic('t.tx', { partitions: 1 });
    await using link = await open();
    const transact = async (port: ProducerPort, end: 'commit' | 'abort', records: readonly [key: string | Buffer, value: string][]) => {
      await port.transaction?.begin();
      for (const [key, value] of records) await send(port, 't.tx', value, { key });
      await port.transaction?.[end]();
    };
    await using one = await link.producer({ ...compileProducerOptions({}), transactionalId: 't-1' });
    await using two = await link.producer({ ...compileProducerOptions({}), transactionalId: 't-2' });
    await one.warm(['t.tx']);
    await two.warm(['t.tx']);
    await transact(one, 'abort', [['a', 'A1']]);
    await transact(one, 'commit', [['c', 'C1']]);
    await transact(one, 'abort', [
      ['a', 'A2'],
      [Buffer.alloc(4), 'A3'],
      ['a', 'A4'],
    ]);
    await transact(two, 'commit', [[Buffer.alloc(4), 'C2']]);
    await one.transaction?.begin();
    await two.transaction?.begin();
    const from = await send(one, 't.tx', 'A5');
    await send(two, 't.tx', 'A6');
    await send(two, 't.tx', 'A7');
    await send(one, 't.tx', 'A8');
    await one.transaction?.abort();
    await two.transaction?.abort();
    await one.transaction?.begin();
    await send(one, 't.tx', 'C3');
    await one.transaction?.sendOffsets('t.offsets', [{ topic: 't.tx', partition: 0, offset: 7n }]);
    await one.transaction?.commit();
    const reader = new Reader(link, 't.committed', { isolation: 'read_committed' });
    await reader.subscribe('t.tx');
    expect(await reader.readTo('t.tx')).toEqual(['C1', 'C2', 'C3']);
    expect(await reader.port.committed([{ topic: 't.tx', partition: 0 }])).toEqual([]);
    // In the midst of two aborted transactions: both begin before what is read first.
    reader.records.length = 0;
    reader.positions.clear();
    await reader.port.seek({ topic: 't.tx', partition: 0 }, from + 2n);
    expect(await reader.readTo('t.tx')).toEqual(['C3']);
    await reader.port[Symbol.asyncDispose]();
    const all = new Reader(link, 't.uncommitted');
    await all.subscribe('t.tx');
    expect(await all.readTo('t.tx')).toEqual(['A1', 'C1', 'A2', 'A3', 'A4', 'C2', 'A5', 'A6', 'A7', 'A8', 'C3']);
    await all.port[Symbol.asyncDispose]();
    const offsets = new Reader(link, 't.offsets');
    expect(await offsets.port.committed([{ topic: 't.tx', partition: 0 }])).toMatchObject([{ offset: 7n }]);
    await offsets.port[Symbol.asyncDispose]();
  });

  it('commit nothing of a transaction of which a record has failed, and begin anew', async () => {
    await desk.topic('t.part', { partitions: 1, configs: { 'max.message.bytes': '2000' } });
    await using link = await open();
    await using port = await link.producer({ ...compileProducerOptions({}), transactionalId: 't-part' });
    await port.warm(['t.part']);
    await port.transaction?.begin();
    await send(port, 't.part', 'kept back');
    expect(await refused(send(port, 't.part', 'x'.repeat(3_000)))).toMatchObject({ code: 'RECORD_TOO_LARGE', written: 'no' });
    expect(await refused(port.transaction?.commit() ?? Promise.resolve())).toMatchObject({ code: 'TRANSACTION_ABORTED' });
    await port.transaction?.abort();
    await port.transaction?.begin();
    await send(port, 't.part', 'committed');
    await port.transaction?.commit();
    const reader = new Reader(link, 't.part.group', { isolation: 'read_committed' });
    await reader.subscribe('t.part');
    expect(await reader.readTo('t.part')).toEqual(['committed']);
    await reader.port[Symbol.asyncDispose]();
  });

  it('are fenced when another producer takes the transactional id, and stay so', async () => {
    await desk.topic('t.fence', { partitions: 1 });
    await using link = await open();
    await using old = await link.producer({ ...compileProducerOptions({}), transactionalId: 't-fence' });
    await using young = await link.producer({ ...compileProducerOptions({}), transactionalId: 't-fence' });
    await old.warm(['t.fence']);
    await old.transaction?.begin();
    await send(old, 't.fence', 'of the old');
    await young.transaction?.begin();
    await young.warm(['t.fence']);
    await send(young, 't.fence', 'of the young');
    expect(await refused(old.transaction?.commit() ?? Promise.resolve())).toMatchObject({ code: 'PRODUCER_FENCED' });
    expect(await refused(old.transaction?.begin() ?? Promise.resolve())).toMatchObject({ code: 'PRODUCER_FENCED' });
    await young.transaction?.commit();
    const reader = new Reader(link, 't.fence.group', { isolation: 'read_committed' });
    await reader.subscribe('t.fence');
    expect(await reader.readTo('t.fence')).toEqual(['of the young']);
    await reader.port[Symbol.asyncDispose]();
  });

  it('know that they are committed though the answer was lost, and go on', async () => {
    await desk.topic('t.lost', { partitions: 1 });
    using cut = cutAfter(END_TXN);
    await using link = await open();
    await using port = await link.producer({ ...compileProducerOptions({}), transactionalId: 't-lost' });
    await port.warm(['t.lost']);
    await port.transaction?.begin();
    await send(port, 't.lost', 'one');
    await port.transaction?.commit();
    expect(cut.times).toBe(1);
    await port.transaction?.begin();
    await send(port, 't.lost', 'two');
    await port.transaction?.commit();
    const reader = new Reader(link, 't.lost.group', { isolation: 'read_committed' });
    await reader.subscribe('t.lost');
    expect(await reader.readTo('t.lost')).toEqual(['one', 'two']);
    await reader.port[Symbol.asyncDispose]();
  });

  it('are aborted where the coordinator could not even be asked to commit, and the next one goes on', async () => {
    await using own = await startPlatform();
    await using its = await Desk.open(own);
    await its.topic('t.silent', { partitions: 1 });
    await using identity = await mtlsIdentity(own.admin.mtls);
    await using link = await open(own, identity);
    await using port = await link.producer({ ...compileProducerOptions({ requestTimeoutMs: 2_000 }), transactionalId: 't-silent' });
    await port.warm(['t.silent']);
    await port.transaction?.begin();
    await send(port, 't.silent', 'one');
    own.nodes[0]?.pause(); // alive, but silent
    expect(await refused(port.transaction?.commit() ?? Promise.resolve())).toMatchObject({ code: 'TRANSACTION_ABORTED', written: 'no' });
    own.nodes[0]?.resume();
    await port.transaction?.abort();
    await port.transaction?.begin();
    await send(port, 't.silent', 'two');
    await port.transaction?.commit();
    const reader = new Reader(link, 't.silent.group', { isolation: 'read_committed' });
    await reader.subscribe('t.silent');
    expect(await reader.readTo('t.silent')).toEqual(['two']);
    await reader.port[Symbol.asyncDispose]();
  });

  it('are refused within 5 s where no ACL allows the transactional id, or the group of the offsets', async () => {
    await desk.topic('t.denied', { partitions: 1 });
    await desk.allow('td', { write: ['t.denied'] });
    await using identity = await mtlsIdentity((await platform.principal('td')).mtls);
    await using link = await open(platform, identity);
    const started = performance.now();
    const error = await refused(link.producer({ ...compileProducerOptions({}), transactionalId: 'not-mine' }));
    expect(error).toMatchObject({ code: 'AUTHORIZATION_FAILED', facts: { transactionalId: 'not-mine', principal: 'td' } });
    const binding = {
      resourceType: 'transactionalId',
      resourceName: 'mine',
      pattern: 'literal',
      principal: 'User:td',
      host: '*',
      permission: 'allow',
    } as const;
    await desk.admin.createAcls([{ ...binding, operation: 'write' }]);
    await using port = await link.producer({ ...compileProducerOptions({}), transactionalId: 'mine' });
    await port.transaction?.begin();
    const offsets = refused(port.transaction?.sendOffsets('not-mine', [{ topic: 't.denied', partition: 0, offset: 1n }]) ?? Promise.resolve());
    expect(await offsets).toMatchObject({ code: 'AUTHORIZATION_FAILED', facts: { group: 'not-mine', principal: 'td' } });
    await port.transaction?.abort();
    expect(performance.now() - started).toBeLessThan(5_000);
  });
});

describe('kafkajs: groups', () => {
  it('drains before it gives partitions up: what is in hand is committed first, and another member reads on after it', async () => {
    await desk.topic('g.t', { partitions: 4 });
    await using link = await open();
    await using port = await link.producer(compileProducerOptions({}));
    await port.warm(['g.t']);
    for (let n = 0; n < 40; n++) await send(port, 'g.t', `v${n}`, { partition: n % 4 });
    const one = new Reader(link, 'g.group');
    await one.subscribe('g.t');
    await expect.poll(() => one.poll().then(() => one.records.length), { timeout: 10_000, interval: 1 }).toBe(40);
    // Nothing is committed yet: only the drain does.
    const two = new Reader(link, 'g.group');
    await two.subscribe('g.t');
    await expect.poll(() => [one.owned.size, two.owned.size], { timeout: 20_000 }).toEqual([2, 2]);
    for (let n = 40; n < 80; n++) await send(port, 'g.t', `v${n}`, { partition: n % 4 });
    const all = () => [...one.values, ...two.values];
    await expect.poll(() => Promise.all([one.poll(50), two.poll(50)]).then(() => all().length), { timeout: 20_000, interval: 1 }).toBeGreaterThanOrEqual(80);
    expect(all().sort()).toEqual(Array.from({ length: 80 }, (_, n) => `v${n}`).sort());
    await one.commit();
    await one.port[Symbol.asyncDispose]();
    await expect.poll(() => two.owned.size, { timeout: 10_000 }).toBe(4);
    for (let n = 80; n < 100; n++) await send(port, 'g.t', `v${n}`, { partition: n % 4 });
    await expect.poll(() => two.poll(50).then(() => new Set(all()).size), { timeout: 20_000, interval: 1 }).toBe(100);
    expect(all().length).toBe(100);
    await two.port[Symbol.asyncDispose]();
  });

  it('stores nothing in the group where an offset is out of range (kafkajs would commit the end), and goes on as it is told', async () => {
    await desk.topic('r.t', { partitions: 1 });
    await using link = await open();
    await using port = await link.producer(compileProducerOptions({}));
    await port.warm(['r.t']);
    await send(port, 'r.t', 'a');
    const tp = { topic: 'r.t', partition: 0 };
    const first = new Reader(link, 'r.group');
    await first.subscribe('r.t');
    await first.port.commit([{ ...tp, offset: 1_000n }]);
    await first.port[Symbol.asyncDispose]();
    const strict = new Reader(link, 'r.group', { startAt: 'fail' });
    await strict.subscribe('r.t');
    await expect
      .poll(() => strict.error, { timeout: 10_000 })
      .toMatchObject({ code: 'OFFSET_OUT_OF_RANGE', facts: { topic: 'r.t', partition: 0, group: 'r.group' } });
    await strict.port[Symbol.asyncDispose]();
    const second = new Reader(link, 'r.group');
    await second.subscribe('r.t');
    expect(await second.readTo('r.t')).toEqual(['a']);
    expect(await second.port.committed([tp])).toMatchObject([{ offset: 1_000n }]);
    await second.port[Symbol.asyncDispose]();
  });

  it('fails when the right to read is withdrawn, and names who may not do what', async () => {
    await desk.topic('w.t', { partitions: 1 });
    await desk.allow('w', { read: ['w.t'], groups: ['w.group'] });
    await using identity = await mtlsIdentity((await platform.principal('w')).mtls);
    await using link = await open(platform, identity);
    const reader = new Reader(link, 'w.group');
    await reader.subscribe('w.t');
    await expect.poll(() => reader.owned.size, { timeout: 10_000 }).toBe(1);
    await desk.admin.deleteAcls((await desk.admin.acls()).filter((a) => a.principal === 'User:w' && a.resourceType === 'topic'));
    await expect.poll(() => reader.error, { timeout: 10_000 }).toMatchObject({ code: 'AUTHORIZATION_FAILED', facts: { principal: 'w', topic: 'w.t' } });
    await reader.port[Symbol.asyncDispose]();
  });
});

describe('kafkajs: a broker that goes away', () => {
  it('brings every record once when the broker is killed under load and comes back; commits go on', async () => {
    await using own = await startPlatform();
    await using its = await Desk.open(own);
    await its.topic('k.t', { partitions: 2 });
    await using identity = await mtlsIdentity(own.admin.mtls);
    await using link = await open(own, identity);
    await using port = await link.producer(compileProducerOptions({}));
    await port.warm(['k.t']);
    const reader = new Reader(link, 'k.group');
    await reader.subscribe('k.t');
    const [node] = own.nodes;
    const sends: Promise<unknown>[] = [];
    for (let n = 0; n < 600; n++) {
      sends.push(send(port, 'k.t', `v${n}`, { partition: n % 2, forMs: 30_000 }));
      if (n === 200) await node?.kill();
      if (n === 400) void node?.start();
      await new Promise((r) => setTimeout(r, 2));
    }
    await Promise.all(sends);
    await expect.poll(() => reader.poll().then(() => new Set(reader.values).size), { timeout: 40_000, interval: 1 }).toBe(600);
    expect(reader.error).toBeUndefined();
    await reader.commit();
    await reader.port[Symbol.asyncDispose]();
  });

  it('goes on with what other brokers lead while partitions have no leader (for kafkajs one of them makes all metadata fail), and with those when they have one again', async () => {
    await using own = await startPlatform({ nodes: 3 });
    await using its = await Desk.open(own);
    await its.topic('n.single', { partitions: 3, replicationFactor: 1 });
    await its.topic('n.three', { partitions: 3, replicationFactor: 3 });
    await using identity = await mtlsIdentity(own.admin.mtls);
    await using link = await open(own, identity);
    await using port = await link.producer(compileProducerOptions({ requestTimeoutMs: 2_000 }));
    await port.warm(['n.single', 'n.three']);
    const reader = new Reader(link, 'n.group');
    await reader.subscribe('n.single', 'n.three');
    await Promise.all([0, 1, 2].map((partition) => send(port, 'n.single', `before${partition}`, { partition })));
    const [described] = await its.admin.describeTopics(['n.single']);
    const lost = described?.partitions.find((p) => p.partition === 2)?.leader;
    const node = own.nodes.find((n) => n.id === lost);
    await node?.kill();
    const waiting = send(port, 'n.single', 'late', { partition: 2, forMs: 50_000 });
    const sent = [...[0, 1].map((partition) => ['n.single', partition] as const), ...[0, 1, 2].map((partition) => ['n.three', partition] as const)];
    await Promise.all(sent.map(([topic, partition]) => send(port, topic, `${topic}${partition}`, { partition, forMs: 20_000 })));
    const expected = sent.map(([topic, partition]) => `${topic}${partition}`);
    await expect.poll(() => reader.poll().then(() => expected.filter((v) => !reader.values.includes(v))), { timeout: 30_000, interval: 1 }).toEqual([]);
    await node?.start();
    await waiting;
    await expect.poll(() => reader.poll().then(() => reader.values), { timeout: 30_000, interval: 1 }).toContain('late');
    expect(reader.error).toBeUndefined();
    await reader.port[Symbol.asyncDispose]();
  }, 120_000);

  it('closes in bounded time while it is gone', async () => {
    await using own = await startPlatform();
    await using its = await Desk.open(own);
    await its.topic('l.t', { partitions: 1 });
    await using identity = await mtlsIdentity(own.admin.mtls);
    const link = await open(own, identity);
    const port = await link.producer(compileProducerOptions({}));
    await port.warm(['l.t']);
    await send(port, 'l.t', 'a');
    const reader = new Reader(link, 'l.group');
    await reader.subscribe('l.t');
    await own.nodes[0]?.kill();
    const late = refused(send(port, 'l.t', 'b', { forMs: 1_500 }));
    const started = performance.now();
    await link[Symbol.asyncDispose]();
    expect(performance.now() - started).toBeLessThan(6_000);
    expect(await late).toBeInstanceOf(TurnpikeError);
  });

  it('leaves no socket and no timer behind after 30 links were opened and closed', async () => {
    await desk.topic('z.t', { partitions: 1 });
    const handles = () => process.getActiveResourcesInfo().filter((r) => /TCP|TLS|Timeout/.test(r)).length;
    const round = async (n: number) => {
      await using link = await open();
      await using port = await link.producer(compileProducerOptions({}));
      await port.warm(['z.t']);
      await send(port, 'z.t', 'a');
      const reader = new Reader(link, `z.${n % 3}`);
      await reader.subscribe('z.t');
      await reader.port[Symbol.asyncDispose]();
    };
    await round(0);
    await expect.poll(handles, { timeout: 10_000 }).toBeLessThan(20);
    const before = handles();
    for (let n = 0; n < 30; n++) await round(n);
    await expect.poll(handles, { timeout: 10_000 }).toBeLessThanOrEqual(before);
  });
});
