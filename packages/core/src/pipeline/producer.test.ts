import { describe, expect, it, vi } from 'vitest';
import { TurnpikeError } from '../errors.ts';
import { MemoryCluster } from '../memory/cluster.ts';
import { ManualClock } from '../memory/manual-clock.ts';
import { memoryTransport } from '../memory/transport.ts';
import type { Serde } from '../spi/codec.ts';
import type { Identity } from '../spi/identity.ts';
import { silentLogger } from '../spi/logger.ts';
import { type AccessPolicy, type DrainGate, openGate } from '../spi/policy.ts';
import { noTelemetry, type Telemetry } from '../spi/telemetry.ts';
import type { Stage } from './draft.ts';
import { compileProducerOptions, type ProducerOptions } from './options.ts';
import { TopicProducer } from './producer.ts';
import { Scratch } from './scratch.ts';
import { settleRecords } from './sent-record.ts';
import { StickyPartition } from './sticky.ts';

const text: Serde<unknown> = {
  encodeInto(value, dst, pos) {
    if (typeof value !== 'string') throw new TurnpikeError('ENCODE_FAILED', `expected string, got ${JSON.stringify(value)}`);
    const length = Buffer.byteLength(value);
    if (pos + length > dst.length) return -1;
    dst.write(value, pos);
    return pos + length;
  },
  ready: async () => {},
  prepare: () => undefined,
  decode: (src) => src.toString(),
};
const json: Serde<unknown> = { ...text, encodeInto: (value, dst, pos) => text.encodeInto(JSON.stringify(value), dst, pos) };
const anybody: AccessPolicy = { produce: () => {}, consume: () => {} };
const identity = { kind: 'none', principal: 'svc' } as Identity;

interface SetUp {
  options?: ProducerOptions;
  access?: AccessPolicy;
  gate?: DrainGate;
  stages?: Stage[];
  telemetry?: Telemetry;
  cluster?: MemoryCluster;
  value?: Serde<unknown>;
  keyOf?: (event: never) => unknown;
}

async function setUp(o: SetUp = {}) {
  const clock = new ManualClock();
  const cluster = o.cluster ?? new MemoryCluster({ topics: { t: 6 } });
  const telemetry = o.telemetry ?? noTelemetry;
  const gate = o.gate ?? openGate;
  const events = settleRecords(telemetry);
  const link = await memoryTransport({ cluster }).connect({
    cluster: { name: 'c', bootstrap: [] },
    identity,
    clientId: 'svc',
    connectTimeoutMs: 1000,
    clock,
    logger: silentLogger,
    gate,
    fetchGate: openGate,
    events,
  });
  const options = compileProducerOptions(o.options);
  const port = await link.producer(options);
  const sticky = new StickyPartition({ random: () => 0.5, switchBytes: 16_384 });
  const layers = {
    topic: 't',
    keyOf: o.keyOf ?? ((e: never) => (e as { k?: string }).k ?? null),
    key: text,
    value: o.value ?? json,
    stages: o.stages ?? [],
    access: o.access ?? anybody,
    gate,
    telemetry,
    clock,
    port,
    scratch: new Scratch(),
    sticky,
    options,
  };
  return { producer: new TopicProducer(layers), cluster, clock, port, link };
}

const failure = (sending: Promise<unknown>): Promise<TurnpikeError> =>
  sending.then(
    () => {
      throw new Error('it was sent');
    },
    (error: TurnpikeError) => error,
  );
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

describe('TopicProducer', () => {
  it('acknowledges with partition and offset, and the record stands in the log as encoded', async () => {
    const { producer, cluster } = await setUp();
    const sent = await producer.send({ k: 'JFK', n: 1 }, { headers: { h: 'v', n: null } });
    expect(sent).toMatchObject({ topic: 't', offset: 0n });
    const [record] = cluster.records('t');
    expect(String(record?.key)).toBe('JFK');
    expect(JSON.parse(String(record?.value))).toEqual({ k: 'JFK', n: 1 });
    expect(record?.headers).toEqual([
      ['h', Buffer.from('v')],
      ['n', null],
    ]);
  });

  it('gives records of one key consecutive offsets in the order of send()', async () => {
    const { producer, cluster } = await setUp();
    const sent = await Promise.all(Array.from({ length: 50 }, (_, n) => producer.send({ k: 'A', n })));
    expect(sent.map((s) => s.offset)).toEqual(Array.from({ length: 50 }, (_, i) => BigInt(i)));
    expect(cluster.records('t').map((r) => JSON.parse(String(r.value)).n)).toEqual(Array.from({ length: 50 }, (_, i) => i));
  });

  it('encodes inside send(): a later change of the object does not change the record', async () => {
    const { producer, cluster } = await setUp();
    const event = { k: 'A', n: 1 };
    const sending = producer.send(event);
    event.n = 2;
    await sending;
    expect(JSON.parse(String(cluster.records('t')[0]?.value)).n).toBe(1);
  });

  it('runs stages before policy and encoding; what they change is what is sent, the key derived after them', async () => {
    const seen: string[] = [];
    const access: AccessPolicy = { produce: () => void seen.push('policy'), consume: () => {} };
    const value: Serde<unknown> = { ...json, encodeInto: (v, d, p) => (seen.push('encode') > 0 ? json.encodeInto(v, d, p) : -1) };
    const stage: Stage = (e) => {
      seen.push('stage');
      e.value = { k: 'changed' };
      e.headers.set('by', 'stage');
    };
    const { producer, cluster } = await setUp({ access, stages: [stage], value });
    await producer.send({ k: 'first' });
    expect(seen).toEqual(['stage', 'policy', 'encode']);
    expect(String(cluster.records('t')[0]?.key)).toBe('changed');
    expect(cluster.records('t')[0]?.headers?.[0]?.[0]).toBe('by');
  });

  it('refuses to the one caller whose event is wrong, as certainly not written, and goes on', async () => {
    const { producer, cluster } = await setUp({ value: text });
    const [bad, good] = await Promise.allSettled([producer.send(42), producer.send('fine', { key: 'A' })]);
    expect(bad).toMatchObject({ status: 'rejected', reason: { code: 'ENCODE_FAILED', written: 'no' } });
    expect(good?.status).toBe('fulfilled');
    expect(cluster.records('t')).toHaveLength(1);
  });

  it('a stage that throws refuses the event, with its error as the cause', async () => {
    const boom = new Error('no PII here');
    const { producer } = await setUp({
      stages: [
        () => {
          throw boom;
        },
      ],
    });
    await expect(producer.send({ k: 'A' })).rejects.toMatchObject({ code: 'STAGE_REFUSED', written: 'no', cause: boom });
  });

  it('a refusal by the grant comes before a byte is encoded', async () => {
    let encoded = false;
    const note = (encode: () => number) => {
      encoded = true;
      return encode();
    };
    const access: AccessPolicy = {
      produce: () => {
        throw new TurnpikeError('GRANT_DENIED', 'not granted');
      },
      consume: () => {},
    };
    const { producer } = await setUp({ access, value: { ...json, encodeInto: (v, d, p) => note(() => json.encodeInto(v, d, p)) } });
    await expect(producer.send({ k: 'A' })).rejects.toMatchObject({ code: 'GRANT_DENIED', written: 'no' });
    expect(encoded).toBe(false);
  });

  it('sends a tombstone as a null value under its key', async () => {
    const { producer, cluster } = await setUp();
    await producer.send(null, { key: 'A' });
    expect(cluster.records('t')[0]).toMatchObject({ value: null, key: Buffer.from('A') });
  });

  it('distinguishes a null key from an empty one', async () => {
    const { producer, cluster } = await setUp();
    await producer.send({ n: 1 }, { key: '' });
    await producer.send({ n: 2 });
    expect(
      cluster
        .records('t')
        .map((r) => r.key?.length ?? null)
        .sort(),
    ).toEqual([0, null]);
  });

  it('refuses a partition that the topic has not', async () => {
    const { producer } = await setUp();
    await expect(producer.send({ k: 'A' }, { partition: 6 })).rejects.toMatchObject({ code: 'PARTITION_UNKNOWN', written: 'no' });
  });

  it('refuses a record over maxRecordBytes, however large the scratch buffer has grown', async () => {
    const { producer } = await setUp({ options: { maxRecordBytes: 100_000 }, value: text });
    await expect(producer.send('x'.repeat(99_000), { key: 'A' })).resolves.toBeDefined();
    await expect(producer.send('x'.repeat(100_001))).rejects.toMatchObject({ code: 'RECORD_TOO_LARGE', written: 'no' });
    await expect(producer.send('x'.repeat(900_000))).rejects.toMatchObject({ code: 'RECORD_TOO_LARGE', written: 'no' });
  });

  it('sendBatch refuses the whole batch before any of it is sent when one event is wrong', async () => {
    const { producer, cluster } = await setUp({ value: text });
    await expect(producer.sendBatch(['a', 7, 'c'])).rejects.toMatchObject({ code: 'ENCODE_FAILED', written: 'no' });
    await turn();
    expect(cluster.records('t')).toHaveLength(0);
  });

  it('sendBatch gives metadata in the order of its values, also when encoding grows the buffer in between', async () => {
    const { producer, cluster } = await setUp({ value: text });
    const values = Array.from({ length: 40 }, (_, i) => `${i}:${'x'.repeat(10_000)}`);
    const sent = await producer.sendBatch(values, { key: 'A' });
    expect(sent.map((s) => Number(s.offset))).toEqual(values.map((_, i) => i));
    expect(cluster.records('t').map((r) => String(r.value))).toEqual(values);
  });

  it('sendBatch tells the outcome per record when some fail', async () => {
    const cluster = new MemoryCluster({ topics: { t: 6 } });
    cluster.fault = ({ operation, partition }) => {
      if (operation === 'produce' && partition === 1) throw new TurnpikeError('BROKER_REJECTED', 'bad partition', { written: 'no' });
    };
    const { producer } = await setUp({ cluster });
    const values = Array.from({ length: 30 }, (_, n) => ({ k: `key-${n}`, n }));
    const error = (await producer.sendBatch(values).catch((e: unknown) => e)) as TurnpikeError;
    expect(error).toMatchObject({ code: 'BROKER_REJECTED', written: 'unknown' });
    expect(error.outcomes).toHaveLength(30);
    const failed = error.outcomes?.filter((o) => o instanceof TurnpikeError) ?? [];
    expect(failed.length).toBeGreaterThan(0);
    expect(failed.length + cluster.records('t').length).toBe(30);
  });

  it('waits in order when memory is full: no send of a key overtakes another', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    const { producer } = await setUp({ cluster, value: text, options: { maxBatchBytes: 1024, maxBufferBytes: 1024 } });
    await Promise.all(Array.from({ length: 100 }, (_, n) => producer.send(`${n}:${'x'.repeat((n * 37) % 700)}`)));
    expect(cluster.records('t').map((r) => Number(String(r.value).split(':')[0]))).toEqual(Array.from({ length: 100 }, (_, i) => i));
  });

  it('bounds how many sends may wait for room', async () => {
    const { producer } = await setUp({ value: text, options: { maxBatchBytes: 1024, maxBufferBytes: 1024, maxWaitingSends: 2 } });
    const sends = Array.from({ length: 4 }, () => producer.send('x'.repeat(900)));
    const outcomes = await Promise.allSettled(sends);
    expect(outcomes.map((o) => o.status)).toEqual(['fulfilled', 'fulfilled', 'fulfilled', 'rejected']);
    expect(outcomes[3]).toMatchObject({ reason: { code: 'BUFFER_FULL', written: 'no', retriable: true } });
  });

  it('ends a wait for room at the delivery timeout', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    cluster.fault = () => new Promise<void>(() => {});
    const { producer, clock } = await setUp({ cluster, value: text, options: { maxBatchBytes: 1024, maxBufferBytes: 1024, deliveryTimeoutMs: 500 } });
    void producer.send('x'.repeat(900)).catch(() => {});
    const waiting = producer.send('y'.repeat(900)).catch((e: unknown) => e);
    await clock.advance(1000);
    expect(await waiting).toMatchObject({ code: 'DELIVERY_TIMEOUT', written: 'no' });
  });

  it('waits for metadata, then partitions as if it had been there', async () => {
    const cluster = new MemoryCluster();
    const { producer, clock } = await setUp({ cluster });
    const sending = producer.send({ k: 'JFK' });
    cluster.createTopic('t', 6);
    await clock.advance(1000);
    const late = await sending;
    expect((await producer.send({ k: 'JFK' })).partition).toBe(late.partition);
  });

  it('an unknown topic rejects, as not written', async () => {
    const { producer } = await setUp({ cluster: new MemoryCluster() });
    await expect(producer.send({ k: 'A' })).rejects.toMatchObject({ code: 'TOPIC_UNKNOWN', written: 'no' });
  });

  it('retries what is retriable and acknowledges in the end', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    let failures = 3;
    cluster.fault = () => {
      if (failures-- > 0) throw new TurnpikeError('BROKER_UNAVAILABLE', 'down', { retriable: true });
    };
    const { producer, clock } = await setUp({ cluster });
    const sending = producer.send({ k: 'A' });
    await clock.advance(1000);
    await expect(sending).resolves.toMatchObject({ offset: 0n });
    expect(cluster.records('t')).toHaveLength(1);
  });

  it('an aborted signal before send() refuses; one in mid-flight says that it may be written', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    cluster.fault = () => new Promise<void>(() => {});
    const { producer } = await setUp({ cluster });
    await expect(producer.send({ k: 'A' }, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED', written: 'no' });
    const abort = new AbortController();
    const sending = producer.send({ k: 'A' }, { signal: abort.signal });
    await turn();
    abort.abort();
    await expect(sending).rejects.toMatchObject({ code: 'ABORTED', written: 'unknown' });
  });

  it('an abort while the quota holds the record takes it out: not written', async () => {
    const gate: DrainGate = { ...openGate, admit: () => 60_000 };
    const { producer, cluster } = await setUp({ gate });
    const abort = new AbortController();
    const sending = producer.send({ k: 'A' }, { signal: abort.signal });
    await turn();
    abort.abort();
    await expect(sending).rejects.toMatchObject({ code: 'ABORTED', written: 'no' });
    expect(cluster.records('t')).toHaveLength(0);
  });

  it('one signal ends thousands of records at once, those in flight as "unknown", and is let go when they are settled', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    const answer = Promise.withResolvers<void>();
    cluster.fault = () => answer.promise;
    const { producer } = await setUp({ cluster });
    const abort = new AbortController();
    const inFlight = producer.send({ n: 0 }, { signal: abort.signal });
    await turn();
    const behind = producer.sendBatch(
      Array.from({ length: 40_000 }, (_, n) => ({ n })),
      { signal: abort.signal },
    );
    const other = producer.send({ k: 'other' });
    const started = performance.now();
    abort.abort();
    const [first, rest] = (await Promise.allSettled([inFlight, behind])) as PromiseRejectedResult[];
    expect(performance.now() - started).toBeLessThan(3_000);
    expect([first?.reason.written, rest?.reason.written]).toEqual(['unknown', 'no']);
    answer.resolve();
    await other;
    expect(cluster.records('t')).toHaveLength(2);
  });

  it('refuse mode decides at send(), from what is queued', async () => {
    const gate: DrainGate = {
      ...openGate,
      admit: () => 60_000,
      refuse: (_t, records) => {
        if (records > 2) throw new TurnpikeError('QUOTA_EXCEEDED', 'over', { retryAfterMs: 10 });
      },
    };
    const { producer } = await setUp({ gate });
    void producer.send({ k: 'A' }).catch(() => {});
    void producer.send({ k: 'A' }).catch(() => {});
    await expect(producer.send({ k: 'A' })).rejects.toMatchObject({ code: 'QUOTA_EXCEEDED', written: 'no', facts: { retryAfterMs: 10 } });
  });

  it('an event whose getter sends another event corrupts neither', async () => {
    const { producer, cluster } = await setUp();
    let inner: Promise<unknown> | undefined;
    const outer = {
      k: 'outer',
      get n() {
        inner ??= producer.send({ k: 'inner', pad: 'x'.repeat(500) });
        return 1;
      },
    };
    await producer.send(outer);
    await inner;
    expect(
      cluster
        .records('t')
        .map((r) => JSON.parse(String(r.value)).k)
        .sort(),
    ).toEqual(['inner', 'outer']);
  });

  it('close() waits for what was sent and refuses what comes after', async () => {
    const { producer, cluster } = await setUp();
    const sends = Array.from({ length: 20 }, () => producer.send({ k: 'A' }));
    await producer.close();
    await Promise.all(sends);
    expect(cluster.records('t')).toHaveLength(20);
    await expect(producer.send({ k: 'A' })).rejects.toMatchObject({ code: 'CLOSED', written: 'no' });
  });

  // One record whose timestamp could not be encoded used to fail all records of its flush, those of other callers too.
  it.each([
    ['timestampMs NaN', { timestampMs: Number.NaN }, /timestampMs is NaN; it must be a whole number of ms/],
    ['timestampMs negative', { timestampMs: -1 }, /timestampMs is -1/],
    ['timestampMs with a fraction', { timestampMs: 1.5 }, /timestampMs is 1\.5/],
    ['timestampMs past all dates', { timestampMs: 2 ** 60 }, /timestampMs is/],
    ['timestampMs a Date', { timestampMs: new Date() }, /timestampMs is .*whole number of ms/],
    ['a header that is a number', { headers: { h: 5 } }, /the header "h" is a number; it must be a string, bytes or null/],
    ['a header that is undefined', { headers: { h: undefined } }, /the header "h" is undefined/],
    ['a header without a name', { headers: [[undefined, 'v']] }, /a header's name is undefined/],
    ['headers null', { headers: null }, /headers is null/],
    ['headers a string', { headers: 'abc' }, /headers is a string/],
  ])('refuses %s to the one caller, as not written, before anything is encoded', async (_name, options, message) => {
    const { producer, cluster } = await setUp();
    const fine = producer.send({ k: 'A' });
    await expect(producer.send({ k: 'A' }, options as never)).rejects.toMatchObject({
      code: 'ENCODE_FAILED',
      written: 'no',
      facts: { topic: 't' },
      message: expect.stringMatching(message),
    });
    await fine;
    expect(cluster.records('t')).toHaveLength(1);
  });

  it.each([
    [undefined, /the event is undefined/],
    [null, /a tombstone needs a key/],
  ])('refuses %s as an event', async (event, message) => {
    const { producer } = await setUp();
    await expect(producer.send(event)).rejects.toMatchObject({ code: 'ENCODE_FAILED', written: 'no', message: expect.stringMatching(message) });
  });

  it('a timestamp that a stage has spoilt is refused as well', async () => {
    const stage: Stage = (e) => {
      e.timestampMs = Number.NaN;
    };
    const { producer } = await setUp({ stages: [stage] });
    await expect(producer.send({ k: 'A' })).rejects.toMatchObject({ code: 'ENCODE_FAILED', written: 'no' });
  });

  it('copies the bytes of headers: a later change by the caller does not change the record', async () => {
    const { producer, cluster } = await setUp();
    const bytes = new Uint8Array([1, 2]);
    const sending = producer.send({ k: 'A' }, { headers: { h: bytes } });
    bytes.fill(9);
    await sending;
    expect(cluster.records('t')[0]?.headers).toEqual([['h', Buffer.from([1, 2])]]);
  });

  it('refuses a partition that the topic has not, also when that shows only with its metadata', async () => {
    const cluster = new MemoryCluster();
    const { producer, clock } = await setUp({ cluster });
    const sending = producer.send({ k: 'A' }, { partition: 6 }).catch((e: unknown) => e);
    cluster.createTopic('t', 6);
    await clock.advance(1000);
    expect(await sending).toMatchObject({ code: 'PARTITION_UNKNOWN', written: 'no' });
  });

  it('flush() ends with its signal also while sends wait for room', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    cluster.fault = () => new Promise<void>(() => {});
    const { producer } = await setUp({ cluster, value: text, options: { maxBatchBytes: 1024, maxBufferBytes: 1024 } });
    for (let i = 0; i < 3; i++) void producer.send('x'.repeat(900)).catch(() => {});
    const abort = new AbortController();
    const flushing = producer.flush(abort.signal);
    abort.abort();
    await expect(flushing).rejects.toMatchObject({ code: 'ABORTED' });
  });

  it('ends each span once: when the signal aborts a record in flight, and when there is no room to wait in', async () => {
    const ends: (string | undefined)[] = [];
    const telemetry: Telemetry = { ...noTelemetry, create: () => ({ context: 1, end: (e) => void ends.push(e?.code) }) };
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    const slow = Promise.withResolvers<void>();
    cluster.fault = () => slow.promise;
    const { producer } = await setUp({ cluster, telemetry, value: text, options: { maxBatchBytes: 1024, maxBufferBytes: 1024, maxWaitingSends: 0 } });
    const abort = new AbortController();
    const first = producer.send('x'.repeat(900), { signal: abort.signal });
    await expect(producer.send('y'.repeat(900))).rejects.toMatchObject({ code: 'BUFFER_FULL' });
    expect(ends).toEqual(['BUFFER_FULL']);
    await turn();
    abort.abort();
    await expect(first).rejects.toMatchObject({ code: 'ABORTED', written: 'unknown' });
    slow.resolve();
    await producer.flush();
    expect(ends).toEqual(['BUFFER_FULL', 'ABORTED']);
  });

  it('ends the spans of a batch that is refused for one event of it: of all that had one', async () => {
    const ends: (string | undefined)[] = [];
    const telemetry: Telemetry = { ...noTelemetry, create: () => ({ context: 1, end: (e) => void ends.push(e?.code) }) };
    const { producer } = await setUp({ telemetry, value: text });
    await expect(producer.sendBatch(['a', 'b', 7, 'd'])).rejects.toMatchObject({ code: 'ENCODE_FAILED' });
    expect(ends).toEqual(['ENCODE_FAILED', 'ENCODE_FAILED', 'ENCODE_FAILED']);
  });

  it('says which event refuses a batch, and of each that it was not sent', async () => {
    const { producer, cluster } = await setUp({ value: text });
    const error = await failure(producer.sendBatch(['a', 7, 'c']));
    expect(error).toMatchObject({
      code: 'ENCODE_FAILED',
      message: '[ENCODE_FAILED] t: events[1] of 3: expected string, got 7. None of the batch was sent.',
      written: 'no',
      facts: { topic: 't', index: 1 },
      outcomes: [
        { code: 'ABORTED', written: 'no', message: expect.stringContaining('not sent, because events[1] of 3 of the same batch was refused') },
        { code: 'ENCODE_FAILED', written: 'no', message: '[ENCODE_FAILED] t: expected string, got 7' },
        { code: 'ABORTED', written: 'no' },
      ],
    });
    expect(cluster.records('t')).toHaveLength(0);
  });

  it('blames no event of a batch for what refuses them all', async () => {
    const { producer } = await setUp();
    await producer.close();
    const error = await failure(producer.sendBatch([{ k: 'A' }, { k: 'B' }]));
    expect(error).toMatchObject({ message: expect.stringContaining('] t: the producer is closed'), outcomes: [{ code: 'CLOSED' }, { code: 'CLOSED' }] });
    expect(error.facts).not.toHaveProperty('index');
  });

  it('says of a batch that failed in part which record was the first', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    cluster.fault = () => new Promise<void>(() => {});
    const { producer } = await setUp({ cluster, value: text, options: { maxBatchBytes: 1024, maxBufferBytes: 1024, maxWaitingSends: 0 } });
    const abort = new AbortController();
    const sending = failure(producer.sendBatch(['x'.repeat(900), 'y'.repeat(900)], { signal: abort.signal }));
    abort.abort();
    expect(await sending).toMatchObject({ facts: { index: 0 }, outcomes: [{ code: 'ABORTED' }, { code: 'BUFFER_FULL' }] });
  });

  it.each([
    ['an object', { k: 'A' }],
    ['a string', 'abc'],
    ['undefined', undefined],
  ])('refuses %s for a batch as a mistake of the call', async (what, events) => {
    const { producer, cluster } = await setUp({ value: text });
    await expect(producer.sendBatch(events as never)).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      written: 'no',
      message: `[CONFIG_INVALID] t: sendBatch() takes an array of events, got ${what}; for one event there is send().`,
    });
    expect(cluster.records('t')).toHaveLength(0);
  });

  it.each<[string, unknown, string, string | undefined]>([
    ['without its field', {}, 'the key comes from member, which the event doesn’t have.', 'member'],
    ['with a number there', { member: 7 }, 'member, which the key comes from: expected string, got 7', 'member'],
    ['that is a string', 'hi', 'an event is an object, got a string; give one event of the topic’s own type.', undefined],
    ['that is an array', [{ member: 'm' }], 'an event is an object, got an array; give one event of the topic’s own type.', undefined],
  ])('says what is wrong with an event %s, where the key comes from it', async (_what, event, message, path) => {
    const { producer } = await setUp({ keyOf: (e: never) => (e as { member: string }).member });
    const error = await failure(producer.send(event));
    expect(error).toMatchObject({ code: 'ENCODE_FAILED', written: 'no', message: `[ENCODE_FAILED] t: ${message.replace('’', "'")}` });
    expect(error.facts.path).toBe(path);
  });

  it('says of a key that the caller gave that it is the key', async () => {
    const { producer } = await setUp();
    await expect(producer.send({ k: 'A' }, { key: 7 })).rejects.toMatchObject({
      message: '[ENCODE_FAILED] t: the key: expected string, got 7',
      facts: { path: 'key' },
    });
  });

  it('ends a record’s span with its error when it is refused, and without when it is acknowledged', async () => {
    const ends: (string | undefined)[] = [];
    const telemetry: Telemetry = { ...noTelemetry, create: () => ({ context: 1, end: (e) => void ends.push(e?.code) }) };
    const { producer } = await setUp({ telemetry, value: text });
    await producer.send(1).catch(() => {});
    await producer.send('a');
    expect(ends).toEqual(['ENCODE_FAILED', undefined]);
  });
});

describe('post()', () => {
  it('sends in order with send(), and flush() waits for it', async () => {
    const { producer, cluster } = await setUp({ value: text, cluster: new MemoryCluster({ topics: { t: 1 } }) });
    const onError = vi.fn();
    expect(producer.post('a', onError)).toBe(true);
    void producer.send('b');
    producer.post('c', onError, { headers: { h: '1' }, key: 'k', timestampMs: 5 });
    await producer.flush();
    expect(cluster.records('t').map((r) => [String(r.value), r.key === null ? null : String(r.key)])).toEqual([
      ['a', null],
      ['b', null],
      ['c', 'k'],
    ]);
    expect(onError).not.toHaveBeenCalled();
  });

  it('tells its handler of what is refused at once, and of what the broker refuses, each with its event', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    const { producer } = await setUp({ cluster, value: text });
    const told: unknown[] = [];
    const onError = (error: TurnpikeError, event: unknown) => void told.push([error.code, error.written, event]);
    expect(producer.post(7, onError)).toBe(true);
    expect(told).toEqual([]); // Not before post() has returned.
    await turn();
    cluster.fault = () => {
      throw new TurnpikeError('BROKER_REJECTED', 'no', { written: 'no' });
    };
    producer.post('x', onError);
    await producer.flush();
    expect(told).toEqual([
      ['ENCODE_FAILED', 'no', 7],
      ['BROKER_REJECTED', 'no', 'x'],
    ]);
  });

  it('says when the memory is full; ready() resolves when nothing waits, and nothing is lost or out of order', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    const { producer } = await setUp({ cluster, value: text, options: { maxBatchBytes: 1024, maxBufferBytes: 1024 } });
    const onError = vi.fn();
    const accepted = Array.from({ length: 5 }, (_, i) => producer.post(`${i}`.repeat(900), onError));
    expect(accepted).toEqual([true, false, false, false, false]);
    await producer.ready();
    producer.post('z', onError);
    await producer.flush();
    expect(cluster.records('t').map((r) => String(r.value)[0])).toEqual(['0', '1', '2', '3', '4', 'z']);
    expect(onError).not.toHaveBeenCalled();
  });

  it('a handler that throws is heard of, and the records that settle with its own are none the worse', async () => {
    const cluster = new MemoryCluster({ topics: { t: 1 } });
    const { producer } = await setUp({ cluster, value: text });
    cluster.fault = () => {
      throw new TurnpikeError('BROKER_REJECTED', 'no', { written: 'no' });
    };
    const listeners = process.listeners('uncaughtException');
    process.removeAllListeners('uncaughtException');
    const heard = new Promise<Error>((resolve) => process.once('uncaughtException', resolve));
    try {
      producer.post('a', () => {
        throw new Error('the handler is wrong');
      });
      await expect(producer.send('b')).rejects.toMatchObject({ code: 'BROKER_REJECTED' });
      expect(await heard).toMatchObject({ message: 'the handler is wrong' });
    } finally {
      for (const listener of listeners) process.on('uncaughtException', listener);
    }
  });

  it('without a handler is refused: nobody would hear of a failure', async () => {
    const { producer } = await setUp();
    expect(() => producer.post({ k: 'A' }, undefined as never)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });
});

// flush() used to wait until nothing waited for memory, which never comes true where more is sent all the time.
it('flush() waits for what was sent before it and waits for memory, not for what came after', async () => {
  const cluster = new MemoryCluster({ topics: { t: 1 } });
  const { producer } = await setUp({ cluster, value: text, options: { maxBatchBytes: 1024, maxBufferBytes: 1024 } });
  let going = true;
  const more = () => {
    if (!going) return;
    for (let i = 0; i < 3; i++) void producer.send('y'.repeat(900)).then(more, more);
  };
  more();
  await producer.flush();
  going = false;
  await producer.flush();
  expect(cluster.records('t').length).toBeGreaterThan(3);
});

describe('compileProducerOptions', () => {
  it.each([
    [{ acks: 1 }, /producer\.acks is 1 but idempotent is true; remove acks/],
    [{ maxBatchBytes: 10 }, /producer\.maxBatchBytes is 10; it must be a whole number from 1024/],
    [{ linger: 5 } as object, /producer\.linger is not an option; there are acks/],
    [{ compression: 'brotli' } as object, /producer\.compression is "brotli"; it must be one of "none", "gzip"/],
    [{ maxBufferBytes: 2048 }, /producer\.maxBufferBytes is 2048; it must be a whole number from 1000000/],
    [{ deliveryTimeoutMs: Number.NaN }, /deliveryTimeoutMs is NaN/],
  ])('refuses %o and says what is allowed', (raw, message) => {
    expect(() => compileProducerOptions(raw as ProducerOptions)).toThrow(message);
  });

  it('freezes what it returns', () => {
    expect(Object.isFrozen(compileProducerOptions())).toBe(true);
  });
});
