import { context, ROOT_CONTEXT, type SpanContext, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api';
import type { ReadableSpan } from '@opentelemetry/sdk-trace';
import { RecordHeaders, TurnpikeError } from '@turnpike/core';
import type { HeaderCarrier, InboundRecord, Logger, Pending, SettledBatch } from '@turnpike/core/spi';
import { silentLogger } from '@turnpike/core/spi';
import { type OpenTelemetryOptions, openTelemetry } from '@turnpike/telemetry';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { recordingMeter, tracing } from './sdk.ts';

const NOW = Date.UTC(2026, 0, 1);
let sdk: ReturnType<typeof tracing>;
let metrics: ReturnType<typeof recordingMeter>;

beforeEach(() => {
  sdk = tracing();
  metrics = recordingMeter();
});
afterEach(() => sdk[Symbol.asyncDispose]());

const telemetry = (more: OpenTelemetryOptions = {}) =>
  openTelemetry({ tracer: sdk.tracer, meter: metrics.meter, clientId: 'flight-ops', now: () => NOW, ...more });

/** A record under way, as core holds it: headers are made when somebody asks. */
function draft(headers?: RecordHeaders): HeaderCarrier {
  let made = headers;
  return {
    get hasHeaders() {
      return made !== undefined;
    },
    get headers() {
      made ??= new RecordHeaders();
      return made;
    },
  };
}

const traceparent = ({ traceId, spanId, traceFlags }: SpanContext) => `00-${traceId}-${spanId}-0${traceFlags}`;
const OTHERS = { traceId: 'a'.repeat(32), spanId: 'b'.repeat(16), traceFlags: 1 };

const pending = (span?: Pending['span']): Pending => ({ deadlineMs: 0, attempts: 1, span, acknowledge: () => {}, fail: () => {} });
const batch = (topic: string, partition: number, pendings: readonly Pending[], error?: TurnpikeError): SettledBatch => ({
  topic,
  partition,
  pendings,
  bytes: 1,
  baseOffset: 0n,
  ...(error ? { error } : {}),
});
const inbound = (offset: number, created?: SpanContext, more: Partial<InboundRecord> = {}): InboundRecord => ({
  topic: 'flights.departed',
  partition: 2,
  offset: BigInt(offset),
  timestampMs: 0,
  key: null,
  value: Buffer.from('v'),
  headers: new RecordHeaders(created ? { traceparent: traceparent(created) } : {}),
  ...more,
});
const linksOf = (span: ReadableSpan | undefined) => span?.links.map((l) => l.context.spanId);
const milliseconds = ([s, ns]: readonly [number, number]) => s * 1000 + ns / 1e6;

describe('a record that is sent', () => {
  it('has a create span under the active one, whose context travels in the headers', () => {
    const record = draft();
    const span = sdk.recording(() => telemetry().create('flights.departed', record));
    expect(sdk.spans('create')).toEqual([]);
    span?.end();
    const [created] = sdk.spans('create');
    const [application] = sdk.spans('application');
    expect(created).toMatchObject({
      name: 'create flights.departed',
      kind: SpanKind.PRODUCER,
      attributes: {
        'messaging.system': 'kafka',
        'messaging.operation.name': 'create',
        'messaging.operation.type': 'create',
        'messaging.destination.name': 'flights.departed',
        'messaging.client.id': 'flight-ops',
      },
      status: { code: SpanStatusCode.UNSET },
    });
    expect(created?.parentSpanContext?.spanId).toBe(application?.spanContext().spanId);
    expect(record.headers.text('traceparent')).toBe(traceparent(created?.spanContext() as SpanContext));
  });

  it('that is refused has the reason on its span', () => {
    const span = sdk.recording(() => telemetry().create('flights.departed', draft()));
    span?.end(new TurnpikeError('GRANT_DENIED', 'not granted'));
    expect(sdk.spans('create')[0]).toMatchObject({
      attributes: { 'error.type': 'GRANT_DENIED' },
      status: { code: SpanStatusCode.ERROR, message: '[GRANT_DENIED] not granted' },
    });
  });

  it('without an active span costs no tracer call and no headers', () => {
    const record = draft();
    const tracer = { startSpan: () => expect.unreachable('the tracer was called') } as unknown as NonNullable<OpenTelemetryOptions['tracer']>;
    expect(telemetry({ tracer }).create('flights.departed', record)).toBeUndefined();
    expect(record.hasHeaders).toBe(false);
  });

  it('under a span that the sampler dropped passes that decision on, and makes no span', () => {
    const record = draft();
    const active = sdk.dropped(() => {
      expect(telemetry().create('flights.departed', record)).toBeUndefined();
      return trace.getActiveSpan()?.spanContext();
    });
    expect(record.headers.text('traceparent')).toBe(traceparent(active as SpanContext));
    expect(record.headers.text('traceparent')).toMatch(/-00$/);
    expect(sdk.spans('create')).toEqual([]);
  });

  it('keeps the context that its caller has set, whole: no second header, no foreign state, no span that nobody would find', () => {
    const headers = new RecordHeaders({ traceparent: traceparent(OTHERS), source: 'relay' });
    const span = sdk.recording(() => telemetry().create('flights.departed', draft(headers)));
    span?.end();
    expect([...headers].map(([name]) => name)).toEqual(['traceparent', 'source']);
    expect(headers.text('traceparent')).toBe(traceparent(OTHERS));
    expect(sdk.spans('create')).toEqual([]);
    telemetry().sent([batch('flights.departed', 0, [pending(span)])], NOW);
    expect(linksOf(sdk.spans('send')[0])).toEqual([OTHERS.spanId]);
  });

  it('with other headers of its caller gets ours beside them', () => {
    const headers = new RecordHeaders({ baggage: 'tenant=1' });
    sdk.recording(() => telemetry().create('flights.departed', draft(headers)))?.end();
    expect(headers.getAll('baggage')).toHaveLength(1);
    expect(headers.text('traceparent')).toMatch(/^00-/);
  });

  it('with createSpans "off" carries the active context itself, and the send span links to that', () => {
    const record = draft();
    const off = telemetry({ createSpans: 'off' });
    const { span, active } = sdk.recording(() => ({
      span: off.create('flights.departed', record),
      active: trace.getActiveSpan()?.spanContext() as SpanContext,
    }));
    span?.end();
    off.sent([batch('flights.departed', 0, [pending(span)])], NOW);
    expect(sdk.spans('create')).toEqual([]);
    expect(record.headers.text('traceparent')).toBe(traceparent(active));
    expect(linksOf(sdk.spans('send')[0])).toEqual([active.spanId]);
  });
});

describe('a flush', () => {
  it('has one send span a topic, of the kind CLIENT, with a link to each record and its own times', () => {
    const t = telemetry();
    const spans = sdk.recording(() => [1, 2, 3].map(() => t.create('flights.departed', draft())));
    for (const span of spans) span?.end();
    t.sent(
      [
        batch('flights.departed', 0, [pending(spans[0])]),
        batch('flights.departed', 1, [pending(spans[1]), pending(spans[2])]),
        batch('flights.landed', 5, [pending()]),
      ],
      NOW - 250,
    );
    const [departed, landed, ...more] = sdk.spans('send');
    expect(more).toEqual([]);
    expect(departed).toMatchObject({
      name: 'send flights.departed',
      kind: SpanKind.CLIENT,
      attributes: {
        'messaging.operation.name': 'send',
        'messaging.operation.type': 'send',
        'messaging.batch.message_count': 3,
        'messaging.client.id': 'flight-ops',
      },
    });
    expect(departed?.attributes).not.toHaveProperty('messaging.destination.partition.id');
    expect(landed?.attributes).toMatchObject({ 'messaging.destination.partition.id': '5', 'messaging.batch.message_count': 1 });
    expect(departed?.parentSpanContext).toBeUndefined();
    expect(new Set(linksOf(departed))).toEqual(new Set(sdk.spans('create').map((s) => s.spanContext().spanId)));
    expect(landed?.links).toEqual([]);
    expect(milliseconds(departed?.startTime ?? [0, 0])).toBe(NOW - 250);
    expect(milliseconds(departed?.endTime ?? [0, 0])).toBe(NOW);
    expect(metrics.of('messaging.client.operation.duration').map((m) => m.value)).toEqual([0.25, 0.25]);
  });

  it('counts as failed only what failed, though the topic has one span', () => {
    const error = new TurnpikeError('AUTHORIZATION_FAILED', 'no ACL');
    telemetry().sent([batch('flights.departed', 0, [pending(), pending()]), batch('flights.departed', 1, [pending()], error)], NOW);
    expect(sdk.spans('send')[0]).toMatchObject({ attributes: { 'error.type': 'AUTHORIZATION_FAILED' }, status: { code: SpanStatusCode.ERROR } });
    expect(
      metrics.of('messaging.client.sent.messages').map((m) => [m.value, m.attributes['messaging.destination.partition.id'], m.attributes['error.type']]),
    ).toEqual([
      [2, '0', undefined],
      [1, '1', 'AUTHORIZATION_FAILED'],
    ]);
  });

  it('names no partition where the library keeps to itself which it chose', () => {
    telemetry().sent([batch('flights.departed', -1, [pending(), pending()])], NOW);
    expect(sdk.spans('send')[0]?.attributes).not.toHaveProperty('messaging.destination.partition.id');
    const [sent] = metrics.of('messaging.client.sent.messages');
    expect([sent?.value, sent?.attributes]).toEqual([2, expect.not.objectContaining({ 'messaging.destination.partition.id': expect.anything() })]);
  });

  it('keeps at most 128 links and says how many there were more', () => {
    const t = telemetry();
    const spans = sdk.recording(() => Array.from({ length: 130 }, () => t.create('flights.departed', draft())));
    t.sent([batch('flights.departed', 0, spans.map(pending))], NOW);
    expect(sdk.spans('send')[0]?.links).toHaveLength(128);
    expect(sdk.spans('send')[0]?.attributes).toMatchObject({ 'turnpike.links.dropped': 2, 'messaging.batch.message_count': 130 });
  });

  it('never lasts less than nothing, when the wall clock was set back meanwhile', () => {
    telemetry().sent([batch('flights.departed', 0, [pending()])], NOW + 60_000);
    expect(metrics.of('messaging.client.operation.duration')[0]?.value).toBe(0);
  });
});

describe('what is consumed', () => {
  it('has a poll span with a link to what created each record, and is counted once', () => {
    const other = { ...OTHERS, spanId: 'c'.repeat(16) };
    telemetry().received('flights.departed', 2, 'ops.audit', [inbound(0, OTHERS), inbound(1), inbound(2, other)], NOW - 100);
    const [span] = sdk.spans();
    expect(span).toMatchObject({
      name: 'poll flights.departed',
      kind: SpanKind.CLIENT,
      attributes: {
        'messaging.system': 'kafka',
        'messaging.operation.name': 'poll',
        'messaging.operation.type': 'receive',
        'messaging.destination.name': 'flights.departed',
        'messaging.destination.partition.id': '2',
        'messaging.consumer.group.name': 'ops.audit',
        'messaging.batch.message_count': 3,
      },
    });
    expect(linksOf(span)).toEqual([OTHERS.spanId, other.spanId]);
    expect(metrics.of('messaging.client.consumed.messages')).toMatchObject([{ value: 3, attributes: { 'messaging.consumer.group.name': 'ops.audit' } }]);
    expect(metrics.of('messaging.client.operation.duration')).toMatchObject([{ value: 0.1 }]);
  });

  it('has no span and no count where a batch held only control records', () => {
    telemetry().received('flights.departed', 2, 'ops.audit', [], NOW);
    expect(sdk.spans()).toEqual([]);
    expect(metrics.of('messaging.client.consumed.messages')).toEqual([]);
  });

  it('is handled inside a process span that links to its creation and is no child of it', async () => {
    const t = telemetry();
    let active: SpanContext | undefined;
    const result = await t.process([inbound(7, OTHERS)], 'ops.audit', async () => {
      await Promise.resolve();
      active = trace.getActiveSpan()?.spanContext();
      return 'done';
    });
    expect(result).toBe('done');
    const [span] = sdk.spans();
    expect(span).toMatchObject({
      name: 'process flights.departed',
      kind: SpanKind.CONSUMER,
      attributes: {
        'messaging.operation.name': 'process',
        'messaging.operation.type': 'process',
        'messaging.consumer.group.name': 'ops.audit',
        'messaging.destination.partition.id': '2',
        'messaging.kafka.offset': 7,
      },
    });
    expect(linksOf(span)).toEqual([OTHERS.spanId]);
    expect(span?.parentSpanContext).toBeUndefined();
    expect(span?.spanContext().spanId).toBe(active?.spanId);
    expect(span?.attributes).not.toHaveProperty('messaging.batch.message_count');
  });

  it('with parenting "parent" continues the trace of a single record, never of several', async () => {
    const t = telemetry({ parenting: 'parent' });
    await t.process([inbound(0, OTHERS)], 'ops.audit', async () => {});
    await t.process([inbound(1, OTHERS), inbound(2)], 'ops.audit', async () => {});
    const [single, several] = sdk.spans('process');
    expect(single?.parentSpanContext?.spanId).toBe(OTHERS.spanId);
    expect(single?.spanContext().traceId).toBe(OTHERS.traceId);
    expect(several?.parentSpanContext).toBeUndefined();
    expect(several?.attributes).toMatchObject({ 'messaging.batch.message_count': 2 });
    expect(linksOf(several)).toEqual([OTHERS.spanId]);
  });

  it('gives back at once what a handler gives that waits for nothing, in a span that has ended by then', () => {
    const t = telemetry();
    let active: SpanContext | undefined;
    const result = t.process([inbound(7)], 'ops.audit', () => {
      active = trace.getActiveSpan()?.spanContext();
      return 'done';
    });
    expect(result).toBe('done');
    expect(sdk.spans('process').map((s) => s.spanContext().spanId)).toEqual([active?.spanId]);
    expect(() =>
      t.process([inbound(8)], 'ops.audit', () => {
        throw new RangeError('x');
      }),
    ).toThrow(RangeError);
    expect(metrics.of('messaging.process.duration').map((m) => m.attributes['error.type'])).toEqual([undefined, 'RangeError']);
  });

  it('asks a tracer with nothing behind it once a batch, and not for each record; one that is registered later is found', () => {
    let asked = 0;
    let spanContext: SpanContext = { traceId: '0'.repeat(32), spanId: '0'.repeat(16), traceFlags: 0 };
    const tracer = {
      startSpan: () => {
        asked++;
        return trace.wrapSpanContext(spanContext);
      },
    } as unknown as NonNullable<OpenTelemetryOptions['tracer']>;
    const t = telemetry({ tracer });
    const handle = (n: number) => {
      t.received('flights.departed', 2, 'ops.audit', [inbound(0)], NOW);
      for (let i = 0; i < n; i++) t.process([inbound(i)], 'ops.audit', () => {});
      const times = asked;
      asked = 0;
      return times;
    };
    expect(handle(500)).toBe(1);
    expect(metrics.of('messaging.process.duration')).toHaveLength(500);
    spanContext = OTHERS;
    expect(handle(10)).toBe(11);
  });

  it('reads no headers for a span that the sampler drops', () => {
    const record = inbound(7, OTHERS);
    const unread = {
      ...record,
      get headers(): RecordHeaders {
        return expect.unreachable('headers were read');
      },
    };
    const t = telemetry({
      tracer: { startSpan: () => trace.wrapSpanContext({ ...OTHERS, traceFlags: 0 }) } as unknown as NonNullable<OpenTelemetryOptions['tracer']>,
    });
    expect(t.process([unread], 'ops.audit', () => trace.getActiveSpan()?.spanContext().traceFlags)).toBe(0);
  });

  it('marks a tombstone, and only that', async () => {
    const t = telemetry();
    await t.process([inbound(0, undefined, { value: null })], 'ops.audit', async () => {});
    await t.process([inbound(1)], 'ops.audit', async () => {});
    expect(sdk.spans('process').map((s) => s.attributes['messaging.kafka.message.tombstone'])).toEqual([true, undefined]);
  });

  it.each<[string, unknown, string]>([
    ['an error of ours', new TurnpikeError('ABORTED', 'x'), 'ABORTED'],
    ['an error of Node', Object.assign(new Error('x'), { code: 'ECONNRESET' }), 'ECONNRESET'],
    ['an error with a name', new RangeError('x'), 'RangeError'],
    ['a text', 'x', '_OTHER'],
    ['nothing', undefined, 'Error'],
    ['null', null, 'Error'],
  ])('a handler that throws %s is on the span and the metric, and the error goes on', async (_what, thrown, type) => {
    const t = telemetry();
    const run = t.process([inbound(0)], 'ops.audit', async () => {
      throw thrown;
    });
    await expect(
      run.then(
        () => 'no error',
        (e: unknown) => [e],
      ),
    ).resolves.toEqual([thrown]);
    expect(sdk.spans('process')[0]).toMatchObject({ attributes: { 'error.type': type }, status: { code: SpanStatusCode.ERROR } });
    expect(metrics.of('messaging.process.duration')).toMatchObject([{ attributes: { 'error.type': type } }]);
  });

  it('has a settle span for each topic of a commit, with its error', () => {
    const offsets = [
      { topic: 'a', partition: 0, offset: 1n },
      { topic: 'a', partition: 1, offset: 1n },
      { topic: 'b', partition: 3, offset: 1n },
    ];
    telemetry().committed('ops.audit', offsets, NOW - 20, new TurnpikeError('MEMBERSHIP_LOST', 'gone'));
    expect(sdk.spans()).toMatchObject([
      {
        name: 'commit a',
        kind: SpanKind.CLIENT,
        attributes: { 'messaging.operation.name': 'commit', 'messaging.operation.type': 'settle', 'error.type': 'MEMBERSHIP_LOST' },
      },
      { name: 'commit b', attributes: { 'messaging.destination.partition.id': '3', 'messaging.consumer.group.name': 'ops.audit' } },
    ]);
    expect(metrics.of('messaging.client.operation.duration')).toMatchObject([
      { value: 0.02, attributes: { 'error.type': 'MEMBERSHIP_LOST' } },
      { value: 0.02 },
    ]);
  });
});

describe('metrics', () => {
  it('are the four of the conventions, in their units and buckets', () => {
    telemetry();
    const advice = { explicitBucketBoundaries: [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10] };
    expect(Object.fromEntries(metrics.instruments)).toMatchObject({
      'messaging.client.operation.duration': { kind: 'histogram', unit: 's', advice },
      'messaging.client.sent.messages': { kind: 'counter', unit: '{message}' },
      'messaging.client.consumed.messages': { kind: 'counter', unit: '{message}' },
      'messaging.process.duration': { kind: 'histogram', unit: 's', advice },
    });
    expect(metrics.instruments.size).toBe(4);
  });

  it('always say system and operation', async () => {
    const t = telemetry();
    t.sent([batch('a', 0, [pending()])], NOW);
    t.received('a', 0, 'g', [inbound(0)], NOW);
    await t.process([inbound(0)], 'g', async () => {});
    t.committed('g', [{ topic: 'a', partition: 0, offset: 1n }], NOW);
    expect(metrics.measured).toHaveLength(6);
    for (const { attributes } of metrics.measured)
      expect(attributes).toMatchObject({ 'messaging.system': 'kafka', 'messaging.operation.name': expect.any(String) });
  });
});

describe('telemetry that fails', () => {
  const broken = () => {
    throw new Error('the exporter is on fire');
  };

  it('throws nothing into the application, and is told of once', async () => {
    const warned: unknown[] = [];
    const logger: Logger = { ...silentLogger, warn: (event, facts) => void warned.push([event, facts]) };
    const tracer = { startSpan: broken } as unknown as NonNullable<OpenTelemetryOptions['tracer']>;
    const meter = { createHistogram: broken, createCounter: broken } as unknown as NonNullable<OpenTelemetryOptions['meter']>;
    const t = telemetry({ tracer, meter, logger });
    expect(sdk.recording(() => t.create('a', draft()))).toBeUndefined();
    t.sent([batch('a', 0, [pending()])], NOW);
    t.received('a', 0, 'g', [inbound(0)], NOW);
    t.committed('g', [{ topic: 'a', partition: 0, offset: 1n }], NOW);
    expect(await t.process([inbound(0)], 'g', async () => 'handled')).toBe('handled');
    await expect(t.process([inbound(0)], 'g', () => Promise.reject(new RangeError('mine')))).rejects.toThrow('mine');
    expect(warned).toEqual([['telemetry.failed', { message: 'the exporter is on fire' }]]);
  });

  it('also when a span that was begun fails at its end', async () => {
    const span = { spanContext: () => OTHERS, isRecording: () => true, setStatus: broken, setAttributes: broken, end: broken };
    const t = telemetry({ tracer: { startSpan: () => span } as unknown as NonNullable<OpenTelemetryOptions['tracer']> });
    const created = sdk.recording(() => t.create('a', draft()));
    expect(() => created?.end(new TurnpikeError('ABORTED', 'x'))).not.toThrow();
    expect(await t.process([inbound(0)], 'g', async () => 'handled')).toBe('handled');
  });

  it('without any SDK does nothing, and hinders nothing', async () => {
    await sdk[Symbol.asyncDispose]();
    const t = openTelemetry();
    const record = draft();
    expect(context.with(ROOT_CONTEXT, () => t.create('a', record))).toBeUndefined();
    expect(record.hasHeaders).toBe(false);
    t.sent([batch('a', 0, [pending()])], NOW);
    expect(await t.process([inbound(0)], 'g', async () => 'handled')).toBe('handled');
  });
});
