import {
  type Attributes,
  type Context,
  context,
  createNoopMeter,
  isSpanContextValid,
  type Link,
  type Meter,
  metrics,
  propagation,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  trace,
} from '@opentelemetry/api';
import { type HeaderEntry, RecordHeaders, type TurnpikeError } from '@turnpike/core';
import {
  type CommitOffset,
  type HeaderCarrier,
  type InboundRecord,
  type InboundRecords,
  type Logger,
  type RecordSpan,
  type SettledBatch,
  silentLogger,
  type Telemetry,
} from '@turnpike/core/spi';
import {
  BATCH_COUNT,
  CLIENT_ID,
  DESTINATION,
  DURATION_BUCKETS,
  ERROR_TYPE,
  GROUP,
  OFFSET,
  OPERATION_NAME,
  OPERATION_TYPE,
  PARTITION,
  SYSTEM,
  TOMBSTONE,
} from './attributes.ts';
import { headerGetter, headerSetter } from './carriers.ts';

export interface OpenTelemetryOptions {
  /** Default: the global provider's, also one that is registered later. */
  readonly tracer?: Tracer;
  /** Default: the global provider's as it is at connect(): register the SDK first. */
  readonly meter?: Meter;
  /** "on" (default): a `create` span for each record that is sent while a span records. "off": the active context itself travels with the record, and send spans link to that. */
  readonly createSpans?: 'on' | 'off';
  /** "link" (default): a process span links to what created its records, as the conventions ask. "parent": for a single record it continues that trace. */
  readonly parenting?: 'link' | 'parent';
  /** `messaging.client.id`. */
  readonly clientId?: string;
  /** Told once when the telemetry itself fails. */
  readonly logger?: Logger;
  /** Wall clock, ms. */
  readonly now?: () => number;
}

/** A span holds so many links; the rest are counted in `turnpike.links.dropped`. */
const MAX_LINKS = 128;
const NAME = '@turnpike/telemetry';
/** After a tracer has shown that nothing is behind it, so many records are handled without asking it; every fetched batch asks too. */
const UNASKED = 1_000;
const NOTHING_THROWN = 'the handler threw nothing';

interface StartedProcess {
  /** undefined = only measured. */
  readonly span: Span | undefined;
  readonly context: Context;
  readonly attributes: Attributes;
}

/** Spans and metrics by the messaging conventions, through @opentelemetry/api.
 *
 *  A produced record has a `create` span only where the caller's active span records; its context then travels in the headers. Without one, an active context (unsampled, say) is passed
 *  on as it is, and without that nothing is written. A context that the caller has put into the headers is never touched: it is the record's. Each flush that settles has one `send` span
 *  per topic, linked to its records' contexts.
 *
 *  Of what the conventions recommend, `messaging.kafka.message.key` is left out: keys are often personal data. */
export function openTelemetry(options: OpenTelemetryOptions = {}): Telemetry {
  return new OpenTelemetry(options);
}

class OpenTelemetry implements Telemetry {
  readonly #tracer: Tracer;
  readonly #injected = new WeakMap<Context, readonly HeaderEntry[]>();
  readonly #createSpans: 'on' | 'off';
  readonly #parenting: 'link' | 'parent';
  readonly #common: Attributes;
  readonly #logger: Logger;
  readonly #now: () => number;
  readonly #duration;
  readonly #sent;
  readonly #consumed;
  readonly #process;
  /** Of process spans: group -> topic -> partition. */
  readonly #attributes = new Map<string, Map<string, Map<number, Attributes>>>();
  /** false = what is measured goes nowhere. */
  readonly #measures: boolean;
  /** How many records are handled before the tracer is asked again. */
  #unasked = 0;
  #failed = false;

  constructor(options: OpenTelemetryOptions) {
    this.#tracer = options.tracer ?? trace.getTracer(NAME);
    this.#createSpans = options.createSpans ?? 'on';
    this.#parenting = options.parenting ?? 'link';
    this.#common = { [SYSTEM]: 'kafka', ...(options.clientId === undefined ? {} : { [CLIENT_ID]: options.clientId }) };
    this.#logger = options.logger ?? silentLogger;
    this.#now = options.now ?? Date.now;
    const noop = createNoopMeter();
    const meter = this.#guarded(() => options.meter ?? metrics.getMeter(NAME)) ?? noop;
    const instruments = this.#guarded(() => instrumentsOf(meter)) ?? instrumentsOf(noop);
    this.#measures = meter !== noop;
    this.#duration = instruments.duration;
    this.#sent = instruments.sent;
    this.#consumed = instruments.consumed;
    this.#process = instruments.process;
  }

  create(topic: string, carrier: HeaderCarrier): RecordSpan | undefined {
    const current = context.active();
    const active = trace.getSpan(current);
    if (!active) return undefined; // The cheap way: no tracer call, no headers.
    if (!active.isRecording() && !carrier.hasHeaders) {
      // Most requests are not sampled; their context travels all the same, so that nobody downstream begins a trace of his own.
      const headers = this.#headersOf(current);
      if (headers.length > 0) carrier.headers.adopt(headers);
      return undefined;
    }
    return this.#guarded(() => {
      const own = carrier.hasHeaders ? trace.getSpanContext(propagation.extract(ROOT_CONTEXT, carrier.headers, headerGetter)) : undefined;
      if (own) return { context: own, end: () => {} }; // The caller's: neither replaced nor mixed with ours.
      if (this.#createSpans === 'off' || !active.isRecording()) {
        propagation.inject(current, carrier, headerSetter);
        return active.isRecording() ? { context: active.spanContext(), end: () => {} } : undefined;
      }
      const span = this.#tracer.startSpan(`create ${topic}`, {
        kind: SpanKind.PRODUCER,
        attributes: { ...this.#common, [OPERATION_NAME]: 'create', [OPERATION_TYPE]: 'create', [DESTINATION]: topic },
      });
      propagation.inject(trace.setSpan(current, span), carrier, headerSetter);
      return { context: span.spanContext(), end: (error?: TurnpikeError) => this.#guarded(() => end(span, error)) };
    });
  }

  /** A context doesn't change: what stands for it in a record is made once, for all that is sent in it. */
  #headersOf(current: Context): readonly HeaderEntry[] {
    const known = this.#injected.get(current);
    if (known) return known;
    const headers = new RecordHeaders();
    this.#guarded(() => propagation.inject(current, { headers, hasHeaders: false }, headerSetter));
    const entries = headers.entries();
    this.#injected.set(current, entries);
    return entries;
  }

  sent(batches: readonly SettledBatch[], startedAtMs: number): void {
    this.#guarded(() => {
      const endedAtMs = Math.max(startedAtMs, this.#now());
      for (const [topic, ofTopic] of Map.groupBy(batches, (b) => b.topic)) this.#sentTo(topic, ofTopic, startedAtMs, endedAtMs);
    });
  }

  #sentTo(topic: string, batches: readonly SettledBatch[], startedAtMs: number, endedAtMs: number): void {
    const error = batches.find((b) => b.error)?.error;
    const attributes: Attributes = { ...this.#common, [OPERATION_NAME]: 'send', [OPERATION_TYPE]: 'send', [DESTINATION]: topic };
    this.#duration.record(seconds(startedAtMs, endedAtMs), { ...attributes, ...failure(error) });
    for (const batch of batches) this.#sent.add(batch.pendings.length, { ...attributes, ...partitionOf([batch]), ...failure(batch.error) });
    const count = batches.reduce((sum, b) => sum + b.pendings.length, 0);
    const links = limited(creationSpans(batches));
    // The records' own contexts were injected, so this span is a client's, not a producer's.
    const span = this.#tracer.startSpan(
      `send ${topic}`,
      {
        kind: SpanKind.CLIENT,
        startTime: startedAtMs,
        links: links.kept,
        attributes: { ...attributes, [BATCH_COUNT]: count, ...partitionOf(batches), ...links.attributes },
      },
      ROOT_CONTEXT,
    );
    end(span, error, endedAtMs);
  }

  received(topic: string, partition: number, group: string, records: InboundRecords, startedAtMs: number): void {
    this.#guarded(() => {
      const endedAtMs = Math.max(startedAtMs, this.#now());
      const attributes: Attributes = {
        ...this.#common,
        [OPERATION_NAME]: 'poll',
        [OPERATION_TYPE]: 'receive',
        [DESTINATION]: topic,
        [GROUP]: group,
        [PARTITION]: String(partition),
      };
      this.#duration.record(seconds(startedAtMs, endedAtMs), attributes);
      if (records.length === 0) return; // Control records only: nothing was delivered.
      this.#consumed.add(records.length, attributes);
      const span = this.#tracer.startSpan(
        `poll ${topic}`,
        { kind: SpanKind.CLIENT, startTime: startedAtMs, attributes: { ...attributes, [BATCH_COUNT]: records.length } },
        ROOT_CONTEXT,
      );
      this.#asked(span);
      if (span.isRecording()) {
        // Reading every record's headers is only worth it where somebody looks.
        const links = limited([...records].flatMap(creationLink));
        for (const link of links.kept) span.addLink(link);
        span.setAttributes(links.attributes);
      }
      span.end(endedAtMs);
    });
  }

  process<T>(records: readonly InboundRecord[], group: string, run: () => T | Promise<T>): T | Promise<T> {
    if (this.#unasked > 0) {
      this.#unasked--;
      if (!this.#measures) return run();
    }
    const started = this.#guarded(() => this.#startProcess(records, group));
    if (!started) return run();
    const startedAtMs = this.#now();
    let result: T | Promise<T>;
    try {
      result = started.span ? context.with(started.context, run) : run();
    } catch (thrown) {
      this.#endProcess(started, startedAtMs, thrown ?? new Error(NOTHING_THROWN));
      throw thrown;
    }
    if (isPromise(result)) return this.#awaited(result, started, startedAtMs);
    this.#endProcess(started, startedAtMs, undefined);
    return result;
  }

  async #awaited<T>(result: Promise<T>, started: StartedProcess, startedAtMs: number): Promise<T> {
    try {
      const value = await result;
      this.#endProcess(started, startedAtMs, undefined);
      return value;
    } catch (thrown) {
      this.#endProcess(started, startedAtMs, thrown ?? new Error(NOTHING_THROWN));
      throw thrown;
    }
  }

  #endProcess({ span, attributes }: StartedProcess, startedAtMs: number, error: unknown): void {
    this.#guarded(() => {
      this.#process.record(seconds(startedAtMs, this.#now()), error === undefined ? attributes : { ...attributes, ...failure(error) });
      if (span) end(span, error);
    });
  }

  #startProcess(records: readonly InboundRecord[], group: string): StartedProcess | undefined {
    const [first] = records;
    if (!first) return undefined;
    const attributes = this.#processing(first, group);
    if (this.#unasked > 0) return { span: undefined, context: ROOT_CONTEXT, attributes };
    const parent = records.length === 1 && this.#parenting === 'parent' ? propagation.extract(ROOT_CONTEXT, first.headers, headerGetter) : ROOT_CONTEXT;
    const span = this.#tracer.startSpan(`process ${first.topic}`, { kind: SpanKind.CONSUMER, attributes }, parent);
    if (span.isRecording()) {
      // Only for a span that is kept: what a sampler drops shall cost little.
      const links = limited(records.flatMap(creationLink));
      for (const link of links.kept) span.addLink(link);
      span.setAttributes({ ...detailsOf(records, first), ...links.attributes });
    } else if (parent === ROOT_CONTEXT) this.#asked(span);
    return { span, context: trace.setSpan(parent, span), attributes };
  }

  /** The same object for all records of a partition. */
  #processing({ topic, partition }: InboundRecord, group: string): Attributes {
    const partitions = at(
      at(this.#attributes, group, () => new Map()),
      topic,
      () => new Map(),
    );
    return at(partitions, partition, () => ({
      ...this.#common,
      [OPERATION_NAME]: 'process',
      [OPERATION_TYPE]: 'process',
      [DESTINATION]: topic,
      [GROUP]: group,
      [PARTITION]: String(partition),
    }));
  }

  /** A root span without a trace id is nobody's: no SDK is registered, and for a while none is looked for. */
  #asked(span: Span): void {
    this.#unasked = isSpanContextValid(span.spanContext()) ? 0 : UNASKED;
  }

  committed(group: string, offsets: readonly CommitOffset[], startedAtMs: number, error?: TurnpikeError): void {
    this.#guarded(() => {
      const endedAtMs = Math.max(startedAtMs, this.#now());
      for (const [topic, ofTopic] of Map.groupBy(offsets, (o) => o.topic)) {
        const attributes: Attributes = {
          ...this.#common,
          [OPERATION_NAME]: 'commit',
          [OPERATION_TYPE]: 'settle',
          [DESTINATION]: topic,
          [GROUP]: group,
          ...failure(error),
        };
        this.#duration.record(seconds(startedAtMs, endedAtMs), attributes);
        const span = this.#tracer.startSpan(
          `commit ${topic}`,
          { kind: SpanKind.CLIENT, startTime: startedAtMs, attributes: { ...attributes, ...partitionOf(ofTopic) } },
          ROOT_CONTEXT,
        );
        end(span, error, endedAtMs);
      }
    });
  }

  /** Telemetry never throws into the application: it says once that it fails. */
  #guarded<T>(action: () => T): T | undefined {
    try {
      return action();
    } catch (error) {
      if (!this.#failed) this.#logger.warn('telemetry.failed', { message: error instanceof Error ? error.message : String(error) });
      this.#failed = true;
      return undefined;
    }
  }
}

function instrumentsOf(meter: Meter) {
  const histogram = { unit: 's', advice: { explicitBucketBoundaries: DURATION_BUCKETS } };
  const counter = { unit: '{message}' };
  return {
    duration: meter.createHistogram('messaging.client.operation.duration', { ...histogram, description: 'Duration of a messaging operation' }),
    sent: meter.createCounter('messaging.client.sent.messages', { ...counter, description: 'Messages that a producer tried to send' }),
    consumed: meter.createCounter('messaging.client.consumed.messages', { ...counter, description: 'Messages delivered to the application' }),
    process: meter.createHistogram('messaging.process.duration', { ...histogram, description: 'Duration of processing' }),
  };
}

/** Never below 0, which a histogram refuses: the wall clock may have been set back meanwhile. */
const seconds = (fromMs: number, toMs: number): number => Math.max(0, toMs - fromMs) / 1000;

function end(span: Span, error: unknown, endedAtMs?: number): void {
  if (error !== undefined) {
    span.setStatus({ code: SpanStatusCode.ERROR, message: error instanceof Error ? error.message : String(error) });
    span.setAttributes(failure(error));
  }
  span.end(endedAtMs);
}

function failure(error: unknown): Attributes {
  if (error === undefined) return {};
  const { code, name } = error as { code?: unknown; name?: unknown };
  return { [ERROR_TYPE]: typeof code === 'string' ? code : typeof name === 'string' ? name : '_OTHER' };
}

/** Only where there is one, and it is known: -1 is a library that keeps to itself which partition it chose. */
function partitionOf([first, ...others]: readonly { readonly partition: number }[]): Attributes {
  return first === undefined || others.length > 0 || first.partition < 0 ? {} : { [PARTITION]: String(first.partition) };
}

function detailsOf(records: readonly InboundRecord[], first: InboundRecord): Attributes {
  if (records.length > 1) return { [BATCH_COUNT]: records.length };
  return { [OFFSET]: Number(first.offset), ...(first.value === null ? { [TOMBSTONE]: true } : {}) };
}

function at<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const known = map.get(key);
  if (known !== undefined) return known;
  const made = make();
  map.set(key, made);
  return made;
}

const isPromise = <T>(value: T | Promise<T>): value is Promise<T> => typeof (value as { then?: unknown } | null | undefined)?.then === 'function';

function creationLink(record: InboundRecord): Link[] {
  if (record.headers.size === 0) return [];
  const created = trace.getSpanContext(propagation.extract(ROOT_CONTEXT, record.headers, headerGetter));
  return created ? [{ context: created }] : [];
}

/** Most records have none: not a closure or an object for each. */
function creationSpans(batches: readonly SettledBatch[]): Link[] {
  const links: Link[] = [];
  for (const { pendings } of batches) for (const { span } of pendings) if (span) links.push({ context: span.context as Link['context'] });
  return links;
}

function limited(links: Link[]): { kept: Link[]; attributes: Attributes } {
  const dropped = links.length - MAX_LINKS;
  return { kept: links.slice(0, MAX_LINKS), attributes: dropped > 0 ? { 'turnpike.links.dropped': dropped } : {} };
}
