// @confluentinc/kafka-javascript under guard(): its promisified clients, and its raw ones.
import { inspect } from 'node:util';
import confluent from '@confluentinc/kafka-javascript';
import { type ConfluentOptions, type Guard, type GuardOptions, openGuard, type TurnpikeError } from '@turnpike/client';
import { type EnforcementMode, type GrantQuota, silentLogger } from '@turnpike/core/spi';
import { type Platform, startPlatform } from '@turnpike/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Desk } from '../support/service.ts';
import { tracing } from '../telemetry/sdk.ts';

const { KafkaJS, HighLevelProducer, KafkaConsumer, Producer } = confluent;

let platform: Platform;
let desk: Desk;
const ending: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  platform = await startPlatform();
  desk = await Desk.open(platform);
});
afterEach(async () => {
  for (const end of ending.splice(0).reverse()) await end();
});
afterAll(async () => {
  await desk?.[Symbol.asyncDispose]();
  await platform?.[Symbol.asyncDispose]();
});

async function guardOf(init: Parameters<Desk['service']>[0], more: GuardOptions = {}): Promise<Guard> {
  const { service, options } = await desk.service(init);
  const { env = {}, clusters = [] } = options;
  const guard = await openGuard(service, { env, clusters, telemetry: 'off', logger: silentLogger, ...more });
  ending.push(() => guard.close());
  return guard;
}

/** A service that does more than its grant says; its ACLs let it. */
async function careless(
  name: string,
  init: { readonly mode?: EnforcementMode; readonly kind?: 'mtls' | 'oauth'; readonly quotas?: readonly GrantQuota[] } = {},
  more: GuardOptions = {},
) {
  const [told, untold] = [`${name}.told`, `${name}.untold`] as const;
  for (const topic of [told, untold]) await desk.topic(topic, { partitions: 1 });
  const transactionalIds = [`${name}.mover`, `${name}-other`];
  await desk.allow(name, { write: [told, untold], read: [told, untold], groups: [`${name}.group`, `${name}.other`], transactionalIds });
  const guard = await guardOf({ name, produces: [told], consumes: [told], transactionalIdPrefixes: [`${name}.`], ...init }, more);
  return { told, untold, guard };
}

const silent = { setLogLevel: () => {}, debug: () => {}, info: () => {}, warn: () => {}, error: () => {}, namespace: () => silent };

/** Added to the options, not copied out of them: they ask the identity when a client is made. */
const confluentOf = (guard: Guard, options: ConfluentOptions = guard.options(guard.identity, { library: 'confluent' })) =>
  new KafkaJS.Kafka(Object.assign(options, { kafkaJS: { ...options.kafkaJS, logger: silent } }));

const consumerConfig = (group: string) => ({ kafkaJS: { groupId: group, fromBeginning: true } });

async function connected<T extends { connect(): Promise<void>; disconnect(): Promise<void> }>(client: T): Promise<T> {
  await client.connect();
  ending.push(() => client.disconnect());
  return client;
}

const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => 'none',
    (error: TurnpikeError) => error.code,
  );

describe('the promisified clients', () => {
  it.each(['mtls', 'oauth'] as const)('come in with nothing but guard.options() (%s), and tell nobody a secret', async (kind) => {
    const { told, guard } = await careless(`p-${kind}`, { kind });
    const options = guard.options(guard.identity, { library: 'confluent' });
    const producer = await connected(confluentOf(guard, options).producer());
    expect(await producer.send({ topic: told, messages: [{ value: 'a' }] })).toMatchObject([{ topicName: told, partition: 0, errorCode: 0 }]);
    for (const shown of [inspect(options, { depth: 9 }), JSON.stringify(options)]) expect(shown).not.toMatch(/PRIVATE KEY|eyJ/);
  });

  it('in shadow are let through, once each, and reported', async () => {
    const { told, untold, guard } = await careless('p-shadow', { mode: 'shadow' });
    const kafka = confluentOf(guard);
    const guarded = guard(kafka);
    expect(guarded.instance).toBe(kafka);
    const producer = await connected(kafka.producer());
    await producer.send({ topic: untold, messages: [{ value: '1' }] });
    await producer.sendBatch({ topicMessages: [told, untold].map((topic) => ({ topic, messages: [{ value: '2' }, { value: '3' }] })) });
    const consumer = await connected(kafka.consumer(consumerConfig('p-shadow.other')));
    const came: string[] = [];
    await consumer.subscribe({ topics: [told, untold] });
    await consumer.run({ eachMessage: async ({ topic }) => void came.push(topic) });
    await expect.poll(() => came.length, { timeout: 20_000 }).toBe(5);
    const { refusals, ...counts } = guarded.report();
    expect(counts).toEqual({ sent: 5, consumed: 5, refused: 3 + 5, quotas: [] });
    expect(refusals.map(({ operation, name, calls, records }) => [operation, name, calls, records])).toEqual([
      ['produce', untold, 2, 3],
      ['consume', untold, 1, 3],
      ['join', 'p-shadow.other', 1, 5],
    ]);
  });

  it('in enforce are refused before a record leaves, a group is joined or a transactional id is used', async () => {
    const { told, untold, guard } = await careless('p-enforce');
    const kafka = confluentOf(guard);
    guard(kafka);
    const producer = await connected(kafka.producer({ kafkaJS: { transactionalId: 'p-enforce.mover' } }));
    const transaction = await producer.transaction();
    await transaction.send({ topic: told, messages: [{ value: '1' }] });
    expect(await codeOf(transaction.send({ topic: untold, messages: [{ value: '2' }] }))).toBe('GRANT_DENIED');
    await transaction.commit();
    expect(await codeOf(kafka.producer({ 'transactional.id': 'p-enforce-other' }).connect())).toBe('GRANT_DENIED');
    const consumer = await connected(kafka.consumer(consumerConfig('p-enforce.group')));
    expect(await codeOf(consumer.subscribe({ topic: untold }))).toBe('GRANT_DENIED');
    const stranger = await connected(kafka.consumer({ 'group.id': 'p-enforce.other' }));
    expect(await codeOf(stranger.subscribe({ topic: told }))).toBe('GRANT_DENIED');
    const values: string[] = [];
    await consumer.subscribe({ topic: told });
    await consumer.run({ eachBatch: async ({ batch }) => void values.push(...batch.messages.map((m) => String(m.value))) });
    await expect.poll(() => values, { timeout: 20_000 }).toEqual(['1']);
    expect(guard.report()).toMatchObject({ sent: 1, consumed: 1, refused: 1 });
  });

  it('are told from others by what they have', async () => {
    const { guard } = await careless('p-known', { mode: 'shadow' });
    const kafka = confluentOf(guard);
    expect(guard(kafka.producer()).enforced.map((e) => e.what)).toContain('produce, by topic');
    const consumer = guard(kafka.consumer(consumerConfig('p-known.group')));
    expect(consumer.notEnforced.map((n) => n.what)).toContain('the group at subscribe()');
    expect(guard(kafka.admin())).toMatchObject({ enforced: [], notEnforced: [{ what: "the cluster's id" }, { what: 'administration (admin())' }] });
  });

  it('carry a trace from producer to consumer', async () => {
    await using sdk = tracing();
    const { told, guard } = await careless('p-trace', {}, { telemetry: { tracer: sdk.tracer } });
    const kafka = confluentOf(guard);
    guard(kafka);
    const producer = await connected(kafka.producer());
    await sdk.recording(() => producer.send({ topic: told, messages: [{ value: '1', headers: { tenant: 'acme' } }] }));
    const consumer = await connected(kafka.consumer(consumerConfig('p-trace.group')));
    await consumer.subscribe({ topic: told });
    await consumer.run({ eachMessage: async () => {} });
    await expect.poll(() => sdk.spans(`process ${told}`).length, { timeout: 20_000 }).toBe(1);
    const created = sdk.spans(`create ${told}`).map((s) => s.spanContext().spanId);
    expect(sdk.spans(`process ${told}`)[0]?.links.map((l) => l.context.spanId)).toEqual(created);
    expect(sdk.spans(`send ${told}`)[0]?.attributes).toMatchObject({ 'messaging.destination.partition.id': '0' });
  });
});

describe('the raw clients', () => {
  const rawOf = (guard: Guard) => guard.options(guard.identity, { library: 'rdkafka' });
  interface Raw {
    on(event: 'event.error', listener: () => void): unknown;
    connect(options: object, done: (error: unknown) => void): unknown;
    disconnect(done: () => void): unknown;
  }
  async function ready<T extends object>(made: T): Promise<T> {
    const client = made as unknown as Raw;
    client.on('event.error', () => {});
    await new Promise<void>((resolve, reject) => client.connect({}, (error) => (error ? reject(error) : resolve())));
    ending.push(() => new Promise((resolve) => client.disconnect(() => resolve(undefined))));
    return made;
  }

  it.each(['mtls', 'oauth'] as const)('come in with guard.options() (%s), are asked about topics, groups and ids, and trace', async (kind) => {
    await using sdk = tracing();
    const name = `r-${kind}`;
    const { told, untold, guard } = await careless(name, { kind }, { telemetry: { tracer: sdk.tracer } });
    const producer = await ready(new HighLevelProducer(Object.assign(rawOf(guard), { 'transactional.id': `${name}-other` })));
    const guarded = guard(producer);
    expect(guarded.enforced.map((e) => e.what)).toContain('transactional id');
    expect(() => producer.initTransactions(1_000, () => {})).toThrow(/GRANT_DENIED/);

    const plain = await ready(new HighLevelProducer(rawOf(guard)));
    guard(plain);
    const send = (topic: string, headers?: { tenant: string }[]) =>
      new Promise((resolve, reject) => {
        const done = (error: unknown, offset: unknown) => (error ? reject(error) : resolve(offset));
        if (headers) plain.produce(topic, null, Buffer.from('v'), 'k', Date.now(), headers, done);
        else plain.produce(topic, null, Buffer.from('v'), 'k', Date.now(), done);
      });
    await expect(send(untold)).rejects.toMatchObject({ code: 'GRANT_DENIED' });
    expect(await sdk.recording(() => send(told))).toBe(0);
    expect(await sdk.recording(() => send(told, [{ tenant: 'acme' }]))).toBe(1);

    const consumer = await ready(new KafkaConsumer(Object.assign(rawOf(guard), { 'group.id': `${name}.group` }), { 'auto.offset.reset': 'earliest' }));
    const watching = guard(consumer);
    expect(() => consumer.subscribe([told, untold])).toThrow(/GRANT_DENIED/);
    const names: string[][] = [];
    consumer.on('data', ({ headers }) => void names.push((headers ?? []).flatMap((h) => Object.keys(h))));
    consumer.subscribe([told]);
    consumer.consume();
    await expect.poll(() => names, { timeout: 20_000 }).toEqual([['traceparent'], ['tenant', 'traceparent']]);
    expect(watching.report()).toMatchObject({ consumed: 2, refused: 0, refusals: [{ operation: 'consume', name: untold, calls: 1 }] });
    expect(sdk.spans(`create ${told}`)).toHaveLength(2);
  });

  it('cannot wait for a quota: over it is counted, or refused where that is asked for', async () => {
    const quotaOf = (topic: string) => ({
      id: topic,
      cluster: 'local',
      topic,
      unit: 'recordsOut' as const,
      rate: 0.1,
      burst: 1,
      weight: 1,
      safeShare: 1,
      maxInstances: 1,
    });
    const counting = await careless('r-count', { quotas: [quotaOf('r-count.told')] });
    const first = await ready(new Producer(rawOf(counting.guard)));
    counting.guard(first);
    for (const value of ['1', '2']) first.produce(counting.told, 0, Buffer.from(value));
    expect(counting.guard.report()).toMatchObject({ sent: 2, quotas: [{ operation: 'produce', times: 1, refused: 0 }] });

    const refusing = await careless('r-refuse', { quotas: [quotaOf('r-refuse.told')] }, { onQuota: 'refuse' });
    const second = await ready(new Producer(rawOf(refusing.guard)));
    refusing.guard(second);
    second.produce(refusing.told, 0, Buffer.from('1'));
    expect(() => second.produce(refusing.told, 0, Buffer.from('2'))).toThrow(/QUOTA_EXCEEDED/);
    expect(refusing.guard.report()).toMatchObject({ sent: 1, quotas: [{ times: 1, refused: 1 }] });
  });
});
