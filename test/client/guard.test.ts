// kafkajs under guard(), against the real broker: what the service team had before, with two lines more.
import { copyFileSync, readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { inspect } from 'node:util';
import { type Guard, type GuardOptions, type KafkajsOptions, openGuard, type TurnpikeError } from '@turnpike/client';
import { type EnforcementMode, type GrantQuota, type Logger, silentLogger } from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { type Platform, startPlatform } from '@turnpike/testing';
import kafkajs, { type Consumer, type KafkaConfig, type Producer } from 'kafkajs';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Desk } from '../support/service.ts';
import { tracing } from '../telemetry/sdk.ts';

const { Kafka, logLevel, Partitioners } = kafkajs;

let platform: Platform;
let desk: Desk;
const open: { disconnect(): Promise<void> }[] = [];
const guards: Guard[] = [];

beforeAll(async () => {
  platform = await startPlatform({ tokenTtlSeconds: 12, reauthMs: 3_000 });
  desk = await Desk.open(platform);
});
afterEach(async () => {
  await Promise.allSettled(open.splice(0).map((client) => client.disconnect()));
  await Promise.all(guards.splice(0).map((guard) => guard.close()));
});
afterAll(async () => {
  await desk?.[Symbol.asyncDispose]();
  await platform?.[Symbol.asyncDispose]();
});

type Service = Parameters<Desk['service']>[0];

async function guardOf(init: Service, more: GuardOptions = {}): Promise<Guard> {
  const { service, options } = await desk.service(init);
  const { env = {}, clusters = [] } = options;
  const guard = await openGuard(service, { env, clusters, telemetry: 'off', logger: silentLogger, ...more });
  guards.push(guard);
  return guard;
}

const quiet: Partial<KafkaConfig> = { logLevel: logLevel.NOTHING, retry: { retries: 2, initialRetryTime: 50 } };
const kafkaOf = (guard: Guard, options: KafkajsOptions = guard.options(guard.identity)) => new Kafka({ ...options, ...quiet });

async function connected<T extends Producer | Consumer>(client: T): Promise<T> {
  open.push(client);
  await client.connect();
  return client;
}

/** Consumes until there are so many; what came, in order. */
async function consume(consumer: Consumer, topics: (string | RegExp)[], count: number): Promise<{ topic: string; value: string; atMs: number }[]> {
  const came: { topic: string; value: string; atMs: number }[] = [];
  await consumer.subscribe({ topics, fromBeginning: true });
  await consumer.run({
    eachMessage: async ({ topic, message }) => {
      came.push({ topic, value: String(message.value), atMs: performance.now() });
    },
  });
  await expect.poll(() => came.length, { timeout: 30_000 }).toBe(count);
  return came;
}

const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => 'none',
    (error: TurnpikeError) => error.code,
  );
async function stored(topic: string, partitions = 3): Promise<number> {
  const all = Array.from({ length: partitions }, (_, partition) => ({ topic, partition }));
  return (await desk.admin.offsets(all, 'end')).reduce((sum, { offset }) => sum + Number(offset), 0);
}
/** A fetch waits a moment only, so that leaving is quick. */
const member = (groupId: string) => ({ groupId, maxWaitTimeInMs: 100 });
const partitioner = { createPartitioner: Partitioners.DefaultPartitioner };

describe('guard.options(identity)', () => {
  it('is all that kafkajs needs to come in by certificate, and tells nobody the key', async () => {
    await desk.topic('o.mtls');
    await desk.allow('o-mtls', { write: ['o.mtls'] });
    const guard = await guardOf({ name: 'o-mtls', produces: ['o.mtls'] });
    const options = guard.options(guard.identity);
    expect(options.clientId).toBe('o-mtls');
    const producer = await connected(new Kafka(options).producer(partitioner));
    expect(await producer.send({ topic: 'o.mtls', messages: [{ value: 'a' }] })).toMatchObject([{ topicName: 'o.mtls', errorCode: 0 }]);
    for (const shown of [inspect(options, { depth: 9 }), JSON.stringify(options), inspect(guard, { depth: 9, showHidden: true })])
      expect(shown).not.toContain('PRIVATE KEY');
  });

  it('gives the certificate of the moment to each connection', async () => {
    await desk.topic('o.renewed');
    await desk.allow('o-renewed', { write: ['o.renewed'] });
    const files = await platform.certificateFiles('o-renewed-1', { commonName: 'o-renewed', usage: 'client' });
    const next = await platform.certificateFiles('o-renewed-2', { commonName: 'o-renewed', usage: 'client' });
    await using identity = await mtlsIdentity({ ...files, pollMs: 50 });
    const guard = await guardOf({ name: 'o-renewed', produces: ['o.renewed'] }, { identity });
    const options = guard.options(identity);
    const kafka = kafkaOf(guard, options);
    const first = options.ssl.cert;
    copyFileSync(next.certFile, files.certFile);
    copyFileSync(next.keyFile, files.keyFile);
    await expect.poll(() => options.ssl.cert, { timeout: 10_000 }).not.toBe(first);
    expect(options.ssl.cert).toBe(readFileSync(next.certFile, 'utf8'));
    const producer = await connected(kafka.producer(partitioner));
    await producer.send({ topic: 'o.renewed', messages: [{ value: 'a' }] });
  });

  it('comes in by token, and goes on when the token has been renewed', async () => {
    await desk.topic('o.oauth');
    await desk.allow('o-oauth', { write: ['o.oauth'] });
    const guard = await guardOf({ name: 'o-oauth', kind: 'oauth', produces: ['o.oauth'] });
    const options = guard.options(guard.identity);
    const tokens = new Set<string>();
    const ask = options.sasl?.oauthBearerProvider;
    if (!options.sasl || !ask) throw new Error('no sasl options');
    options.sasl.oauthBearerProvider = async () => {
      const token = await ask();
      tokens.add(token.value);
      return token;
    };
    const producer = await connected(new Kafka({ ...options, ...quiet }).producer(partitioner));
    let sent = 0;
    for (const until = performance.now() + 30_000; tokens.size < 2 && performance.now() < until; await pause(50)) {
      await producer.send({ topic: 'o.oauth', messages: [{ value: String(sent++) }] });
    }
    expect(tokens.size).toBe(2);
    expect(await stored('o.oauth')).toBe(sent);
    for (const token of tokens) expect(inspect(options, { depth: 9, showHidden: true }) + JSON.stringify(options)).not.toContain(token);
  });

  it('refuses an identity that the grant is not for, a library and a cluster that it does not know', async () => {
    const guard = await guardOf({ name: 'o-mine', produces: ['o.mine'] });
    await using other = await mtlsIdentity(platform.admin.mtls);
    expect(() => guard.options(other)).toThrow(/PRINCIPAL_MISMATCH.*o-mine.*platform-admin/);
    expect(() => guard.options(undefined, { library: 'nkafka' as 'kafkajs' })).toThrow(/CONFIG_INVALID.*nkafka.*kafkajs, confluent, rdkafka/);
    expect(() => guard.options(undefined, { cluster: 'moon' })).toThrow(/CONFIG_INVALID.*moon.*local/);
    expect(() => guard({ send: () => {} })).toThrow(/CONFIG_INVALID.*takes a Kafka, a producer or a consumer/);
    expect(() => guard(new (class Mailer {})())).toThrow(/class Mailer/);
  });
});

describe('the grant, in its mode', () => {
  /** A service that does more than its grant says; its ACLs, from before, let it. */
  async function careless(name: string, mode: EnforcementMode, logger: Logger = silentLogger) {
    const [told, untold] = [`${name}.told`, `${name}.untold`] as const;
    await Promise.all([told, untold].map((topic) => desk.topic(topic)));
    await desk.allow(name, { write: [told, untold], read: [told, untold], groups: [`${name}.group`, `${name}.other`] });
    const guard = await guardOf({ name, mode, produces: [told], consumes: [told] }, { logger });
    const kafka = kafkaOf(guard);
    const guarded = guard(kafka);
    expect(guarded.instance).toBe(kafka);
    return { told, untold, guard, kafka, guarded };
  }

  it('in shadow lets everything through, and reports what enforcement would have refused', async () => {
    const { told, untold, guard, kafka, guarded } = await careless('g-shadow', 'shadow');
    const before = Date.now();
    const producer = await connected(kafka.producer(partitioner));
    await producer.send({ topic: told, messages: [{ value: '1' }, { value: '2' }] });
    await producer.send({ topic: untold, messages: [{ value: '3' }] });
    await producer.sendBatch({ topicMessages: [told, untold].map((topic) => ({ topic, messages: [{ value: '4' }, { value: '5' }] })) });
    const came = await consume(await connected(kafka.consumer(member('g-shadow.other'))), [told, untold], 7);
    expect(came).toHaveLength(7);
    const { refusals, ...counts } = guarded.report();
    expect(counts).toEqual({ sent: 7, consumed: 7, refused: 3 + 7, quotas: [] });
    expect(refusals.map(({ operation, name, mode, calls, records }) => [operation, name, mode, calls, records])).toEqual([
      ['produce', untold, 'shadow', 2, 3],
      ['consume', untold, 'shadow', 1, 3],
      ['join', 'g-shadow.other', 'shadow', 1, 7],
    ]);
    for (const { cluster, firstAtMs, lastAtMs, remedy } of refusals) {
      expect(cluster).toBe('local');
      expect(firstAtMs).toBeGreaterThanOrEqual(before);
      expect(lastAtMs).toBeGreaterThanOrEqual(firstAtMs);
      expect(remedy).toMatch(/turnpike\.yaml, and have a new grant issued\.$/);
    }
    expect(guard.report()).toEqual(guarded.report());
  });

  it('in warn lets it through too, and says so', async () => {
    const warned: unknown[] = [];
    const { untold, kafka } = await careless('g-warn', 'warn', {
      ...silentLogger,
      warn: (event, facts) => void warned.push([event, facts?.action, facts?.name]),
    });
    const producer = await connected(kafka.producer(partitioner));
    for (const value of ['1', '2']) await producer.send({ topic: untold, messages: [{ value }] });
    expect(warned).toEqual([['grant.would_refuse', 'produce', untold]]);
    expect(await stored(untold)).toBe(2);
  });

  it('in enforce refuses before a record leaves or a group is joined', async () => {
    const { told, untold, kafka, guarded } = await careless('g-enforce', 'enforce');
    const producer = await connected(kafka.producer(partitioner));
    const refused = await producer.send({ topic: untold, messages: [{ value: '1' }] }).catch((error: TurnpikeError) => error);
    expect(refused).toMatchObject({ code: 'GRANT_DENIED', written: 'no', facts: { topic: untold, principal: 'g-enforce', cluster: 'local' } });
    expect(await codeOf(producer.sendBatch({ topicMessages: [told, untold].map((topic) => ({ topic, messages: [{ value: '2' }] })) }))).toBe('GRANT_DENIED');
    expect(await stored(told)).toBe(0);
    expect(await stored(untold)).toBe(0);
    await producer.send({ topic: told, messages: [{ value: '3' }] });
    expect(await stored(told)).toBe(1);

    const consumer = await connected(kafka.consumer(member('g-enforce.group')));
    expect(await codeOf(consumer.subscribe({ topics: [told, untold] }))).toBe('GRANT_DENIED');
    const stranger = await connected(kafka.consumer(member('g-enforce.other')));
    expect(await codeOf(stranger.subscribe({ topic: told }))).toBe('GRANT_DENIED');
    expect((await consume(consumer, [told], 1)).map((c) => c.value)).toEqual(['3']);
    expect(guarded.report()).toMatchObject({ sent: 1, consumed: 1, refused: 3 });
  });

  it('asks about what a pattern brings when it comes: shadow counts it, enforce keeps it from the handler', async () => {
    const watched = await careless('g-watch', 'shadow');
    const producer = await connected(watched.kafka.producer(partitioner));
    await producer.sendBatch({ topicMessages: [watched.told, watched.untold].map((topic) => ({ topic, messages: [{ value: '1' }] })) });
    await consume(await connected(watched.kafka.consumer(member('g-watch.group'))), [/^g-watch\..*told$/], 2);
    expect(watched.guarded.report().refusals.find((r) => r.operation === 'consume')).toMatchObject({ name: watched.untold, calls: 0, records: 1 });

    const held = await careless('g-held', 'enforce');
    await desk.allow('g-watch', { write: [held.untold] });
    await producer.send({ topic: held.untold, messages: [{ value: 'not to be seen' }] });
    const consumer = await connected(held.kafka.consumer(member('g-held.group')));
    const crashed = new Promise<Error>((resolve) => consumer.on('consumer.crash', ({ payload }) => resolve(payload.error)));
    const seen: unknown[] = [];
    await consumer.subscribe({ topics: [/^g-held\..*told$/], fromBeginning: true });
    await consumer.run({ eachBatch: async ({ batch }) => void seen.push(batch.topic) });
    const { cause } = await crashed;
    expect(cause).toMatchObject({ code: 'GRANT_DENIED', facts: { topic: held.untold } });
    expect(seen).toEqual([]);
  });

  it('leaves the library its own results, errors and form, and guards nothing twice', async () => {
    const { told, untold, guard, kafka, guarded } = await careless('g-same', 'shadow');
    const producer = await connected(kafka.producer({ ...partitioner, allowAutoTopicCreation: false }));
    expect(guard(kafka)).toBe(guarded);
    expect(guard(producer).instance).toBe(producer);
    const { send } = producer; // kafkajs' methods need no `this`.
    const [metadata] = await send({ topic: untold, messages: [{ key: 'k', value: 'v', headers: { h: ['1', Buffer.from('2')] } }] });
    expect(Object.keys(metadata ?? {})).toEqual(expect.arrayContaining(['topicName', 'partition', 'errorCode', 'baseOffset']));
    expect(guarded.report().refusals).toMatchObject([{ calls: 1, records: 1 }]);
    await expect(producer.send({ topic: '', messages: [] })).rejects.toMatchObject({ name: 'KafkaJSNonRetriableError', message: 'Invalid topic' });
    await expect(producer.send({ topic: told, messages: [{ value: undefined as unknown as string }] })).rejects.toThrow(/without value/);
    const consumer = await connected(kafka.consumer(member('g-same.group')));
    const headers = Promise.withResolvers<unknown>();
    await consumer.subscribe({ topic: untold, fromBeginning: true });
    await consumer.run({ eachMessage: async ({ message }) => headers.resolve(message.headers) });
    expect(await headers.promise).toEqual({ h: [Buffer.from('1'), Buffer.from('2')] });
    const another = await guardOf({ name: 'g-another', produces: [told] });
    expect(() => another(kafka)).toThrow(/another guard has already/);
  });

  it('guards a consumer by itself, with the group that is told, or once it has joined', async () => {
    const { told, guard } = await careless('g-bare', 'shadow');
    const plain = kafkaOf(guard);
    const producer = await connected(plain.producer(partitioner));
    const sent = guard(producer);
    await producer.send({ topic: told, messages: [{ value: '1' }] });
    expect(sent.notEnforced.map((n) => n.what)).toContain('the transactional id');
    const consumer = await connected(plain.consumer(member('g-bare.other')));
    const bare = guard(consumer);
    expect(bare.notEnforced.map((n) => n.what)).toContain('the group at subscribe()');
    await consume(consumer, [told], 1);
    expect(bare.report().refusals).toMatchObject([{ operation: 'join', name: 'g-bare.other', calls: 0, records: 1 }]);
    const named = guard(plain.consumer(member('g-bare.other')), { group: 'g-bare.other' });
    expect(named.notEnforced.map((n) => n.what)).not.toContain('the group at subscribe()');
    expect(guard.report()).toMatchObject({ sent: 1, consumed: 1, refused: 1 });
    expect(guard(plain.admin())).toMatchObject({ enforced: [], notEnforced: [{ what: "the cluster's id" }, { what: 'administration (admin())' }] });
  });
});

describe('transactions', () => {
  it("go by the grant's prefixes, and count what they carry", async () => {
    await desk.topic('t.moves');
    await desk.allow('t-granted', { write: ['t.moves'], transactionalIds: ['t-granted.mover', 'elsewhere'], groups: ['t-granted.group', 't-granted.other'] });
    const mode = { mode: 'enforce', produces: ['t.moves'], transactionalIdPrefixes: ['t-granted.'] } as const;
    const guard = await guardOf({ name: 't-granted', ...mode });
    const kafka = kafkaOf(guard);
    const guarded = guard(kafka);
    const producer = await connected(kafka.producer({ ...partitioner, transactionalId: 't-granted.mover', idempotent: true, maxInFlightRequests: 1 }));
    const transaction = await producer.transaction();
    await transaction.send({ topic: 't.moves', messages: [{ value: '1' }] });
    expect(await codeOf(transaction.send({ topic: 't.else', messages: [{ value: '2' }] }))).toBe('GRANT_DENIED');
    expect(await codeOf(transaction.sendOffsets({ consumerGroupId: 't-granted.other', topics: [] }))).toBe('GRANT_DENIED');
    await transaction.commit();
    expect(transaction.isActive()).toBe(false);
    const stranger = await connected(kafka.producer({ ...partitioner, transactionalId: 'elsewhere', idempotent: true, maxInFlightRequests: 1 }));
    expect(await codeOf(stranger.transaction())).toBe('GRANT_DENIED');
    expect(guarded.report()).toMatchObject({
      sent: 1,
      refused: 1,
      refusals: [
        { operation: 'produce', name: 't.else' },
        { operation: 'join', name: 't-granted.other' },
        { operation: 'transact', name: 'elsewhere', calls: 1 },
      ],
    });

    const shadow = await guardOf({ name: 't-granted', ...mode, mode: 'shadow', transactionalIdPrefixes: [] });
    const watched = kafkaOf(shadow);
    shadow(watched);
    const mover = await connected(watched.producer({ ...partitioner, transactionalId: 't-granted.mover', idempotent: true, maxInFlightRequests: 1 }));
    const moving = await mover.transaction();
    await moving.sendBatch({ topicMessages: [{ topic: 't.moves', messages: [{ value: '3' }, { value: '4' }] }] });
    await moving.abort();
    expect(shadow.report()).toMatchObject({ refused: 2, refusals: [{ operation: 'transact', name: 't-granted.mover', calls: 1, records: 2 }] });
  });
});

describe('quotas', () => {
  const quota = (topic: string, more: Partial<GrantQuota>): GrantQuota => ({
    ...{ id: `${topic}/${more.unit}`, cluster: 'local', topic, unit: 'recordsOut', rate: 10, burst: 10, weight: 1, safeShare: 10, maxInstances: 1 },
    ...more,
  });

  it('make a send wait, in order, and one that would wait too long end in QUOTA_EXCEEDED', async () => {
    await desk.topic('q.out', { partitions: 1 });
    await desk.allow('q-out', { write: ['q.out'], read: ['q.out'], groups: ['q-out.group'] });
    const service = { name: 'q-out', produces: ['q.out'], consumes: ['q.out'], quotas: [quota('q.out', {})] };
    const guard = await guardOf(service, { quotaTimeoutMs: 2_000 });
    const kafka = kafkaOf(guard);
    guard(kafka);
    const producer = await connected(kafka.producer(partitioner));
    await producer.send({ topic: 'q.out', messages: Array.from({ length: 10 }, (_, n) => ({ value: String(n) })) });
    const began = performance.now();
    const sends = [10, 11, 12, 13, 14].map((n) => producer.send({ topic: 'q.out', messages: [{ value: String(n) }] }));
    await Promise.all(sends);
    const tookMs = performance.now() - began;
    expect(tookMs).toBeGreaterThan(300); // 5 records at 10 a second, less what came in while the first were sent.
    const came = await consume(await connected(kafka.consumer(member('q-out.group'))), ['q.out'], 15);
    expect(came.map((c) => Number(c.value))).toEqual(Array.from({ length: 15 }, (_, n) => n));
    const [delay] = guard.report().quotas;
    expect(delay).toMatchObject({ operation: 'produce', topic: 'q.out', refused: 0 });
    expect(delay?.times).toBeGreaterThanOrEqual(3);
    expect(delay?.waitedMs).toBeGreaterThan(300);

    const hasty = await guardOf({ ...service, quotas: [quota('q.out', { rate: 0.1, burst: 1 })] }, { quotaTimeoutMs: 200 });
    const other = kafkaOf(hasty);
    hasty(other);
    const late = await connected(other.producer(partitioner));
    await late.send({ topic: 'q.out', messages: [{ value: '15' }] });
    await expect(late.send({ topic: 'q.out', messages: [{ value: '16' }] })).rejects.toMatchObject({ code: 'QUOTA_EXCEEDED', retriable: true, written: 'no' });
    expect(await stored('q.out', 1)).toBe(16);
  });

  it('refuse at once where that is asked for', async () => {
    await desk.topic('q.now');
    await desk.allow('q-now', { write: ['q.now'] });
    const bytes = quota('q.now', { unit: 'bytesOut', rate: 100, burst: 100 });
    const guard = await guardOf({ name: 'q-now', produces: ['q.now'], quotas: [bytes] }, { onQuota: 'refuse' });
    const kafka = kafkaOf(guard);
    guard(kafka);
    const producer = await connected(kafka.producer(partitioner));
    const messages = [{ key: 'k'.repeat(10), value: 'v'.repeat(90) }];
    await producer.send({ topic: 'q.now', messages });
    await expect(producer.send({ topic: 'q.now', messages })).rejects.toMatchObject({ code: 'QUOTA_EXCEEDED', facts: { retryAfterMs: expect.any(Number) } });
    expect(await stored('q.now')).toBe(1);
    expect(guard.report().quotas).toMatchObject([{ operation: 'produce', topic: 'q.now', times: 1, refused: 1 }]);
  });

  it('make a handler wait until what came before is paid for; a stop ends the wait', async () => {
    await desk.topic('q.in', { partitions: 1 });
    await desk.allow('q-in', { write: ['q.in'], read: ['q.in'], groups: ['q-in.group'] });
    const bytesIn = quota('q.in', { unit: 'bytesIn', rate: 2_000, burst: 1_000 });
    const guard = await guardOf({ name: 'q-in', produces: ['q.in'], consumes: ['q.in'], quotas: [bytesIn] });
    const kafka = kafkaOf(guard);
    guard(kafka);
    const producer = await connected(kafka.producer(partitioner));
    await producer.send({ topic: 'q.in', messages: Array.from({ length: 5 }, () => ({ value: 'x'.repeat(1_000) })) });
    const consumer = await connected(kafka.consumer(member('q-in.group')));
    const came = await consume(consumer, ['q.in'], 5);
    // The first takes the burst, the second goes into debt; then each waits half a second.
    expect((came[4]?.atMs ?? 0) - (came[0]?.atMs ?? 0)).toBeGreaterThan(1_200);
    expect(guard.report().quotas).toMatchObject([{ operation: 'consume', topic: 'q.in', refused: 0 }]);

    await producer.send({ topic: 'q.in', messages: Array.from({ length: 9 }, () => ({ value: 'x'.repeat(100_000) })) });
    await expect.poll(() => came.length, { timeout: 10_000 }).toBe(6);
    const began = performance.now();
    await consumer.disconnect();
    expect(performance.now() - began).toBeLessThan(5_000); // Its quota would have held it for 50 s.
  });
});

describe('tracing', () => {
  it('leads from a guarded producer to a guarded consumer, and leaves the caller its messages', async () => {
    await using sdk = tracing();
    await desk.topic('s.seen');
    await desk.allow('s-seen', { write: ['s.seen'], read: ['s.seen'], groups: ['s-seen.group'] });
    const guard = await guardOf({ name: 's-seen', produces: ['s.seen'], consumes: ['s.seen'] }, { telemetry: { tracer: sdk.tracer } });
    const kafka = kafkaOf(guard);
    guard(kafka);
    const producer = await connected(kafka.producer(partitioner));
    const mine = { key: 'a', value: 'mine', headers: { tenant: 'acme' } };
    const theirs = { key: 'a', value: 'theirs', headers: { traceparent: `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01` } };
    await sdk.recording(() => producer.send({ topic: 's.seen', messages: [mine, theirs] }));
    expect([mine, theirs]).toEqual([
      { key: 'a', value: 'mine', headers: { tenant: 'acme' } },
      { key: 'a', value: 'theirs', headers: { traceparent: `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01` } },
    ]);
    const came: Record<string, unknown>[] = [];
    const consumer = await connected(kafka.consumer(member('s-seen.group')));
    await consumer.subscribe({ topic: 's.seen', fromBeginning: true });
    await consumer.run({ eachMessage: async ({ message }) => void came.push(message.headers ?? {}) });
    await expect.poll(() => sdk.spans('process s.seen').length, { timeout: 20_000 }).toBe(2);
    const [created, ...more] = sdk.spans('create s.seen');
    const [sent] = sdk.spans('send s.seen');
    const spanId = created?.spanContext().spanId;
    expect(more).toEqual([]);
    expect(sent?.links.map((l) => l.context.spanId)).toEqual([spanId, 'b'.repeat(16)]);
    expect(sent?.attributes).toMatchObject({ 'messaging.batch.message_count': 2, 'messaging.client.id': 's-seen' });
    expect(sdk.spans('process s.seen').map((s) => s.links.map((l) => l.context.spanId))).toEqual([[spanId], ['b'.repeat(16)]]);
    expect(sdk.spans('process s.seen')[0]?.attributes).toMatchObject({ 'messaging.consumer.group.name': 's-seen.group' });
    expect(came.map((headers) => Object.keys(headers))).toEqual([['tenant', 'traceparent'], ['traceparent']]);
  });

  it('marks what the library could not send, without what its message says', async () => {
    await using sdk = tracing();
    const guard = await guardOf({ name: 's-failed', produces: ['s.failed'], mode: 'shadow' }, { telemetry: { tracer: sdk.tracer } });
    const kafka = kafkaOf(guard);
    guard(kafka);
    const producer = await connected(kafka.producer(partitioner));
    const refused = await sdk.recording(() => producer.send({ topic: 's.failed', messages: [{ value: 'v' }] }).catch((error: Error) => error));
    expect(refused).toMatchObject({ name: expect.stringMatching(/^KafkaJS/) });
    const [created] = sdk.spans('create s.failed');
    expect(created?.attributes['error.type']).toBe('BROKER_REJECTED');
    expect(created?.status.message).toMatch(/the client failed: KafkaJS\w+$/);
    expect(guard.report().sent).toBe(0);
  });
});
