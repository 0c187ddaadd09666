import { asTurnpikeError, type ErrorCode, type ErrorFacts, isTurnpikeError, TurnpikeError, withoutCode } from '../errors.ts';
import type { HeadersInit } from '../headers.ts';
import { type Clock, pause } from '../spi/clock.ts';
import type { Serde } from '../spi/codec.ts';
import type { AccessPolicy, DrainGate } from '../spi/policy.ts';
import type { Telemetry } from '../spi/telemetry.ts';
import type { OutboundRecord, ProducerPort } from '../spi/transport.ts';
import { Draft, type Stage } from './draft.ts';
import { partitionOf } from './murmur2.ts';
import type { CompiledProducer } from './options.ts';
import { Outstanding } from './outstanding.ts';
import { emptyRecord, type Scratch } from './scratch.ts';
import {
  BatchedRecord,
  BatchOutcomes,
  type PendingRecord,
  PostedRecord,
  type RecordInit,
  type RecordMetadata,
  SentRecord,
  tellFailure,
} from './sent-record.ts';
import type { StickyPartition } from './sticky.ts';
import { TurnClock } from './turn-clock.ts';

/** What may be said of one record beside its value. */
export interface SendOptions<Key = unknown> {
  /** Default: derived from the event where the topic says how (`key.from`), else null. */
  readonly key?: Key;
  readonly headers?: HeadersInit;
  /** Default: Java's, murmur2 of the key; without a key, sticky. */
  readonly partition?: number;
  /** ms since the epoch. Default: now. */
  readonly timestampMs?: number;
  /** Ends the wait with ABORTED; `written` says whether the record had been handed to a broker by then. */
  readonly signal?: AbortSignal;
}

/** The layers of one topic's producer, composed once. */
export interface ProduceLayers {
  readonly topic: string;
  readonly keyOf: ((value: never) => unknown) | undefined;
  readonly key: Serde<unknown>;
  readonly value: Serde<unknown>;
  readonly stages: readonly Stage[];
  readonly access: AccessPolicy;
  readonly gate: DrainGate;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
  readonly port: ProducerPort;
  readonly scratch: Scratch;
  readonly sticky: StickyPartition;
  readonly options: CompiledProducer;
}

/** What post() calls for an event that could not be sent, with the error that send() would reject with. */
export type OnPostError<E = unknown> = (error: TurnpikeError, event: E) => void;

/** A record that waits for memory or metadata, with bytes of its own. */
interface Waiting {
  /** Counted from 1. */
  readonly number: number;
  readonly record: OutboundRecord;
  readonly keyed: boolean;
  readonly pending: PendingRecord;
}

const WARM_RETRY_MS = 200;
const SWEEP_MS = 250;

/** The first half of the pipeline, per record and synchronous: context, stages, policy, encode key, partition, encode value, append. */
export class TopicProducer {
  readonly #layers: ProduceLayers;
  readonly #outstanding = new Outstanding((records, cause) => this.#abort(records, cause));
  #waiting: Waiting[] = [];
  #waited = 0;
  /** There while somebody waits for those that wait to become fewer. */
  #moved: PromiseWithResolvers<void> | undefined;
  #pumping: Promise<void> | undefined;
  #closed = false;
  readonly #isLed = (partition: number): boolean => this.#layers.port.isLed(this.#layers.topic, partition);

  readonly #clock: TurnClock;

  constructor(layers: ProduceLayers) {
    this.#layers = layers;
    this.#clock = new TurnClock(layers.clock);
  }

  send(value: unknown, options?: SendOptions): Promise<RecordMetadata> {
    const scratch = this.#layers.scratch.take();
    try {
      const { record } = scratch;
      const pending = new SentRecord(this.#encode(record, value, options, scratch, 0));
      this.#append(record, pending, options?.signal);
      return pending.promise;
    } catch (error) {
      return Promise.reject(this.#refusal(error));
    } finally {
      scratch.release();
    }
  }

  /** As send(), without a promise: whoever calls hears only of failures, all of them by `onError`. false = the memory is full: it waits, in order, and more should wait for ready().
   *  @throws TurnpikeError CONFIG_INVALID: no handler. */
  post<E>(value: E, onError: OnPostError<E>, options?: Omit<SendOptions, 'signal'>): boolean {
    if (typeof onError !== 'function')
      throw new TurnpikeError('CONFIG_INVALID', `${this.#layers.topic}: post() takes a function that is told of each event that could not be sent.`, {
        topic: this.#layers.topic,
        written: 'no',
      });
    const scratch = this.#layers.scratch.take();
    try {
      const { record } = scratch;
      this.#append(record, new PostedRecord(this.#encode(record, value, options, scratch, 0), value, onError), undefined);
    } catch (error) {
      const refusal = this.#refusal(error);
      queueMicrotask(() => tellFailure(onError, refusal, value));
    } finally {
      scratch.release();
    }
    return this.#waiting.length === 0;
  }

  /** Resolves when nothing waits for memory any more. */
  async ready(): Promise<void> {
    while (this.#pumping) await this.#pumping;
  }

  /** All or nothing up to encoding: an event that can't be encoded refuses the batch before any of it is sent. */
  async sendBatch(values: readonly unknown[], options?: SendOptions): Promise<readonly RecordMetadata[]> {
    const { topic } = this.#layers;
    if (!Array.isArray(values))
      throw new TurnpikeError('CONFIG_INVALID', `${topic}: sendBatch() takes an array of events, got ${kindOf(values)}; for one event there is send().`, {
        topic,
        written: 'no',
      });
    const batch = new BatchOutcomes(values.length);
    this.#appendAll(values, options, batch);
    await batch.settled;
    const { outcomes, firstFailed } = batch;
    if (firstFailed < 0) return outcomes as RecordMetadata[];
    const error = outcomes[firstFailed] as TurnpikeError;
    const refused = outcomes.filter(isTurnpikeError);
    throw new TurnpikeError(error.code, `${topic}: ${refused.length} of ${outcomes.length} records of the batch failed; the first: ${error.message}`, {
      ...error.facts,
      index: firstFailed,
      cause: error,
      retriable: error.retriable,
      written: refused.length < outcomes.length || refused.some((e) => e.written !== 'no') ? 'unknown' : 'no',
      outcomes,
    });
  }

  /** Resolves when everything sent before the call has settled. */
  async flush(signal?: AbortSignal): Promise<void> {
    const last = this.#waited;
    for (let first = this.#waiting[0]; first !== undefined && first.number <= last; first = this.#waiting[0]) {
      this.#moved ??= Promise.withResolvers();
      await unlessAborted(this.#moved.promise, signal);
    }
    await this.#layers.port.flush(signal);
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.flush();
  }

  #appendAll(values: readonly unknown[], options: SendOptions | undefined, batch: BatchOutcomes): void {
    const scratch = this.#layers.scratch.take();
    const encoded: { readonly record: OutboundRecord; readonly pending: BatchedRecord }[] = [];
    try {
      let end = 0;
      for (const [i, value] of values.entries()) {
        const record = emptyRecord();
        encoded.push({ record, pending: new BatchedRecord(this.#encode(record, value, options, scratch, end), batch, i) });
        end = Math.max(end, record.keyEnd, record.valueEnd);
      }
      for (const { record, pending } of encoded) {
        record.buf = scratch.buf; // It may have grown since.
        this.#append(record, pending, options?.signal); // One that is refused doesn't end the others: the outcome is told per record.
      }
    } catch (error) {
      const refusal = ofBatch(this.#refusal(error), encoded.length, values.length);
      for (const { pending } of encoded) pending.span?.end(refusal); // None of them is sent, and nobody else would end their spans.
      throw refusal;
    } finally {
      scratch.release();
    }
  }

  /** Fills in the record; its bytes stand in the scratch buffer from `pos` on. */
  #encode(record: OutboundRecord, value: unknown, options: SendOptions | undefined, scratch: Scratch, pos: number): RecordInit {
    const { topic, telemetry, stages, access, gate } = this.#layers;
    if (this.#closed) throw new TurnpikeError('CLOSED', `${topic}: the producer is closed; get another from the client.`, { topic, written: 'no' });
    if (options?.signal?.aborted)
      throw new TurnpikeError('ABORTED', `${topic}: the signal was aborted before send().`, { topic, written: 'no', cause: options.signal.reason });
    const now = this.#clock.now();
    const draft = new Draft(topic, value, options?.timestampMs ?? now, this.#layers.keyOf, options);
    const span = telemetry.create(topic, draft);
    try {
      for (const stage of stages) this.#runStage(stage, draft);
      access.produce(topic);
      check(draft);
      this.#encodeKeyAndValue(record, draft, options?.partition, scratch, pos);
      const bytes = Math.max(record.keyEnd - record.keyStart, 0) + Math.max(record.valueEnd - record.valueStart, 0);
      const outstanding = this.#outstanding;
      gate.refuse(topic, outstanding.records + 1, outstanding.bytes + bytes);
      return { outstanding, deadlineMs: this.#clock.monotonic() + this.#layers.options.deliveryTimeoutMs, span, bytes, timestampMs: draft.timestampMs };
    } catch (error) {
      const refusal = this.#refusal(error);
      span?.end(refusal);
      throw refusal;
    }
  }

  #runStage(stage: Stage, draft: Draft): void {
    try {
      stage(draft);
    } catch (cause) {
      const topic = draft.topic;
      throw asTurnpikeError(
        cause,
        'STAGE_REFUSED',
        `${topic}: a stage of the application refused the event: ${cause instanceof Error ? cause.message : String(cause)}`,
        { topic, written: 'no' },
      );
    }
  }

  #encodeKeyAndValue(record: OutboundRecord, draft: Draft, partition: number | undefined, scratch: Scratch, pos: number): void {
    const { topic, key, value, port } = this.#layers;
    const derived = draft.key;
    const keyStart = derived === null ? -1 : pos;
    const keyEnd = keyStart < 0 ? pos : this.#key(key, draft, derived, scratch, pos);
    const partitions = port.partitions(topic);
    if (partition !== undefined && (!Number.isInteger(partition) || partition < 0 || (partitions !== undefined && partition >= partitions)))
      throw this.#noPartition(partition, partitions);
    const valueStart = draft.value === null ? -1 : keyEnd;
    const valueEnd = valueStart < 0 ? keyEnd : this.#into(value, draft.value, scratch, keyEnd, pos);
    record.topic = topic;
    record.partition = partition ?? this.#partition(scratch.buf, keyStart, keyEnd, valueEnd - pos, partitions);
    record.timestampMs = draft.timestampMs;
    record.headers = draft.hasHeaders ? draft.headers.entries() : undefined;
    record.buf = scratch.buf;
    record.keyStart = keyStart;
    record.keyEnd = keyStart < 0 ? -1 : keyEnd;
    record.valueStart = valueStart;
    record.valueEnd = valueStart < 0 ? -1 : valueEnd;
  }

  #noPartition(partition: number, partitions: number | undefined): TurnpikeError {
    const { topic } = this.#layers;
    const allowed = partitions === undefined ? 'partitions are whole numbers from 0' : `it has 0 to ${partitions - 1}`;
    return new TurnpikeError('PARTITION_UNKNOWN', `${topic} has no partition ${partition}; ${allowed}.`, { topic, partition, written: 'no' });
  }

  /** -1 = not known before the topic's metadata is here. */
  #partition(buf: Buffer, keyStart: number, keyEnd: number, bytes: number, partitions: number | undefined): number {
    if (partitions === undefined) return -1;
    return keyStart >= 0 ? partitionOf(buf, keyStart, keyEnd, partitions) : this.#layers.sticky.next(partitions, bytes, this.#isLed);
  }

  #key(serde: Serde<unknown>, draft: Draft, key: unknown, scratch: Scratch, pos: number): number {
    try {
      return this.#into(serde, key, scratch, pos, pos);
    } catch (error) {
      throw isTurnpikeError(error) && error.code === 'ENCODE_FAILED' ? ofKey(error, draft) : error;
    }
  }

  /** Encodes at `pos`; `recordStart` is where this record begins in the scratch buffer. */
  #into(serde: Serde<unknown>, value: unknown, scratch: Scratch, pos: number, recordStart: number): number {
    const { topic, options } = this.#layers;
    for (;;) {
      const end = serde.encodeInto(value, scratch.buf, pos);
      const tooLarge = end > recordStart + options.maxRecordBytes || (end < 0 && scratch.buf.length - recordStart > options.maxRecordBytes);
      if (tooLarge)
        throw new TurnpikeError(
          'RECORD_TOO_LARGE',
          `${topic}: the record takes more than ${options.maxRecordBytes} bytes (producer.maxRecordBytes). Send less in one event, or a reference to where it is stored.`,
          { topic, written: 'no' },
        );
      if (end >= 0) return end;
      scratch.grow(pos, Math.min(scratch.buf.length * 2, recordStart + options.maxRecordBytes + 1));
    }
  }

  #append(record: OutboundRecord, pending: PendingRecord, signal: AbortSignal | undefined): void {
    const { port } = this.#layers;
    try {
      // Behind a waiting record all later ones of this topic wait: room must not reorder a key. Without metadata there is no partition.
      const goes = this.#waiting.length === 0 && record.partition >= 0 && this.#isKnown() && port.append(record, pending);
      if (!goes) this.#wait(record, pending);
    } catch (error) {
      pending.fail(this.#refusal(error));
      return;
    }
    this.#outstanding.add(pending, signal);
  }

  #isKnown(): boolean {
    return this.#layers.port.partitions(this.#layers.topic) !== undefined;
  }

  #wait(record: OutboundRecord, pending: PendingRecord): void {
    const { topic, options } = this.#layers;
    if (this.#waiting.length >= options.maxWaitingSends)
      throw new TurnpikeError(
        'BUFFER_FULL',
        `${topic}: memory is full (producer.maxBufferBytes) and ${this.#waiting.length} sends wait for it already. Await send(), or send less.`,
        { topic, written: 'no', retriable: true },
      );
    this.#waiting.push({ number: ++this.#waited, record: ownBytes(record), pending, keyed: record.keyStart >= 0 });
    this.#pumping ??= this.#pump();
  }

  /** Lets waiting records go, in order, as metadata and room come. */
  async #pump(): Promise<void> {
    const { port, topic, clock } = this.#layers;
    const sweep = () => {
      this.#expire();
      timer = clock.after(SWEEP_MS, sweep, { holds: true });
    };
    let timer = clock.after(SWEEP_MS, sweep, { holds: true });
    while (this.#waiting.length > 0) {
      const partitions = port.partitions(topic);
      if (partitions === undefined) await this.#warm();
      else if (!this.#appendWaiting(partitions)) await port.drained();
    }
    timer[Symbol.dispose]();
    this.#pumping = undefined;
  }

  #keepWaiting(left: Waiting[]): void {
    this.#waiting = left;
    this.#moved?.resolve();
    this.#moved = undefined;
  }

  async #warm(): Promise<void> {
    const { port, topic, clock } = this.#layers;
    try {
      await port.warm([topic]);
    } catch (cause) {
      const error = asTurnpikeError(cause, 'INTERNAL', `${topic}: its metadata could not be read.`, { topic });
      if (error.retriable) return pause(clock, WARM_RETRY_MS);
      const refused = this.#waiting;
      this.#keepWaiting([]);
      for (const { pending } of refused) pending.fail(error.withWritten('no'));
    }
  }

  /** Appends what fits; false = memory is full. */
  #appendWaiting(partitions: number): boolean {
    let gone = 0;
    let full = false;
    for (const { record, keyed, pending } of this.#waiting) {
      if (record.partition >= partitions) {
        pending.fail(this.#noPartition(record.partition, partitions));
        gone++;
        continue;
      }
      if (record.partition < 0) record.partition = this.#partition(record.buf, keyed ? record.keyStart : -1, record.keyEnd, record.buf.length, partitions);
      try {
        full = !this.#layers.port.append(record, pending);
      } catch (error) {
        pending.fail(this.#refusal(error));
      }
      if (full) break;
      gone++;
    }
    if (gone > 0) this.#keepWaiting(this.#waiting.slice(gone));
    return !full;
  }

  #expire(): void {
    const { clock, topic } = this.#layers;
    const now = clock.monotonic();
    const expired = this.#waiting.filter((w) => w.pending.deadlineMs <= now);
    if (expired.length === 0) return;
    this.#keepWaiting(this.#waiting.filter((w) => w.pending.deadlineMs > now));
    const error = new TurnpikeError(
      'DELIVERY_TIMEOUT',
      `${topic}: no room in producer.maxBufferBytes, or no metadata, before the delivery timeout. The broker is slow or unreachable, or the quota is low.`,
      { topic, written: 'no', retriable: true },
    );
    for (const { pending } of expired) pending.fail(error);
  }

  #abort(pendings: ReadonlySet<PendingRecord>, cause: unknown): void {
    const { topic, port } = this.#layers;
    const waited = new Set(this.#waiting.filter((w) => pendings.has(w.pending)).map((w) => w.pending));
    this.#keepWaiting(this.#waiting.filter((w) => !pendings.has(w.pending)));
    const cancelled = port.cancel(pendings);
    const no = new TurnpikeError('ABORTED', `${topic}: the signal was aborted; the record was not sent.`, { topic, written: 'no', cause });
    const unknown = new TurnpikeError('ABORTED', `${topic}: the signal was aborted; the record had been handed to the broker and may be written.`, {
      topic,
      written: 'unknown',
      cause,
    });
    for (const pending of [...pendings]) pending.fail(waited.has(pending) || (cancelled.has(pending) && pending.attempts === 0) ? no : unknown);
  }

  #refusal(error: unknown): TurnpikeError {
    const { topic } = this.#layers;
    const ours = asTurnpikeError(error, 'INTERNAL', `${topic}: the event could not be sent: ${error instanceof Error ? error.message : String(error)}`, {
      topic,
    });
    return ours.facts.topic === undefined ? about(ours, `${topic}: `, { topic }) : ours.withWritten('no');
  }
}

/** The same error, saying what it is about. */
function about(error: TurnpikeError, prefix: string, facts: ErrorFacts, text = withoutCode(error)): TurnpikeError {
  return new TurnpikeError(error.code, prefix + text, {
    ...error.facts,
    ...facts,
    cause: error.cause ?? error,
    retriable: error.retriable,
    written: 'no',
  });
}

/** What is wrong with a key is most often wrong with the event that it comes from. */
function ofKey(error: TurnpikeError, draft: Draft): TurnpikeError {
  const { topic, value } = draft;
  if (!draft.keyIsDerived) return about(error, `${topic}: the key: `, { topic, path: 'key' });
  if (typeof value !== 'object' || Array.isArray(value))
    return about(error, `${topic}: `, { topic }, `an event is an object, got ${kindOf(value)}; give one event of the topic's own type.`);
  const path = draft.keyField() ?? 'key';
  if (draft.key === undefined) return about(error, `${topic}: `, { topic, path }, `the key comes from ${path}, which the event doesn't have.`);
  return about(error, `${topic}: ${path}, which the key comes from: `, { topic, path });
}

/** Codes that are about one event; the others refuse any event of the batch just the same. */
const ofOneEvent: ReadonlySet<ErrorCode> = new Set(['ENCODE_FAILED', 'RECORD_TOO_LARGE', 'STAGE_REFUSED']);

/** A batch that was refused before any of it was sent, with what is to be said of each event. */
function ofBatch(error: TurnpikeError, index: number, count: number): TurnpikeError {
  const init = { ...error.facts, cause: error, retriable: error.retriable, written: 'no' } as const;
  const { topic = '' } = error.facts;
  const text = withoutCode(error);
  if (!ofOneEvent.has(error.code) || index >= count)
    return new TurnpikeError(error.code, text, { ...init, outcomes: Array.from({ length: count }, () => error) });
  const which = `events[${index}] of ${count}`;
  const prefix = `${topic}: `;
  const why = text.startsWith(prefix) ? text.slice(prefix.length) : text;
  const unsent = new TurnpikeError('ABORTED', `${prefix}not sent, because ${which} of the same batch was refused (see cause).`, {
    topic,
    written: 'no',
    cause: error,
  });
  const none = count > 1 ? `${why.endsWith('.') ? '' : '.'} None of the batch was sent.` : '';
  return new TurnpikeError(error.code, `${prefix}${which}: ${why}${none}`, {
    ...init,
    index,
    outcomes: Array.from({ length: count }, (_, i) => (i === index ? error : unsent)),
  });
}

function kindOf(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (Array.isArray(value)) return 'an array';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

/** What no type can promise at run time. One that slipped through would spoil the whole batch that it came to stand in. */
function check(draft: Draft): void {
  const { topic, value, timestampMs } = draft;
  const refuse = (text: string, path?: string) => new TurnpikeError('ENCODE_FAILED', `${topic}: ${text}`, { topic, written: 'no', ...(path ? { path } : {}) });
  if (value === undefined) throw refuse("the event is undefined; give an event of the topic's own type.");
  if (value === null && draft.key === null) throw refuse('a tombstone needs a key; use tombstone(key), or give an event.');
  if (!Number.isInteger(timestampMs) || timestampMs < 0 || timestampMs > LAST_DATE_MS)
    throw refuse(`timestampMs is ${String(timestampMs)}; it must be a whole number of ms since 1970, such as Date.now() gives.`, 'timestampMs');
}

/** ECMA-262: the last moment that a Date can hold. */
const LAST_DATE_MS = 8.64e15;

async function unlessAborted(work: Promise<unknown>, signal: AbortSignal | undefined): Promise<void> {
  if (!signal) {
    await work;
    return;
  }
  const aborted = Promise.withResolvers<never>();
  const onAbort = () => aborted.reject(new TurnpikeError('ABORTED', 'flush() was aborted; the records are still under way.', { cause: signal.reason }));
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort);
  await Promise.race([work, aborted.promise]).finally(() => signal.removeEventListener('abort', onAbort));
}

/** The record with its bytes copied out of the scratch buffer. */
function ownBytes(record: OutboundRecord): OutboundRecord {
  const starts = [record.keyStart, record.valueStart].filter((s) => s >= 0);
  const from = starts.length === 0 ? 0 : Math.min(...starts);
  const buf = Buffer.from(record.buf.subarray(from, Math.max(record.keyEnd, record.valueEnd, from)));
  const shift = (at: number) => (at < 0 ? at : at - from);
  return {
    ...record,
    buf,
    keyStart: shift(record.keyStart),
    keyEnd: shift(record.keyEnd),
    valueStart: shift(record.valueStart),
    valueEnd: shift(record.valueEnd),
  };
}
