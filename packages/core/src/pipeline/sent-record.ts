import type { TurnpikeError } from '../errors.ts';
import type { RecordSpan, Telemetry } from '../spi/telemetry.ts';
import type { Pending, SettledBatch, TransportEvents } from '../spi/transport.ts';
import type { Outstanding } from './outstanding.ts';

/** Where an acknowledged record stands. */
export interface RecordMetadata {
  readonly topic: string;
  readonly partition: number;
  /** -1n where the broker doesn't say (it had written the record at an earlier try). */
  readonly offset: bigint;
  readonly timestampMs: number;
}

/** What all records of a producer have before they settle. */
export interface RecordInit {
  readonly outstanding: Outstanding;
  readonly deadlineMs: number;
  readonly span: RecordSpan | undefined;
  /** Of key and value; what refuse mode adds up. */
  readonly bytes: number;
  readonly timestampMs: number;
}

/** One record between send() and its settlement. Settles once; what comes later is ignored. */
export abstract class PendingRecord implements Pending {
  readonly deadlineMs: number;
  readonly span: RecordSpan | undefined;
  readonly bytes: number;
  readonly timestampMs: number;
  attempts = 0;
  /** It counts among its producer's, until it has settled. */
  counted = false;
  /** What ends it before its time. */
  signal: AbortSignal | undefined;
  readonly #outstanding: Outstanding;
  #over = false;

  constructor({ outstanding, deadlineMs, span, bytes, timestampMs }: RecordInit) {
    this.#outstanding = outstanding;
    this.deadlineMs = deadlineMs;
    this.span = span;
    this.bytes = bytes;
    this.timestampMs = timestampMs;
  }

  acknowledge(batch: SettledBatch, index: number): void {
    if (this.#over) return;
    this.#over = true;
    this.span?.end();
    if (this.counted) this.#outstanding.remove(this);
    this.acknowledged(batch, index);
  }

  fail(error: TurnpikeError): void {
    if (this.#over) return;
    this.#over = true;
    this.span?.end(error);
    if (this.counted) this.#outstanding.remove(this);
    this.failed(error);
  }

  protected abstract acknowledged(batch: SettledBatch, index: number): void;
  protected abstract failed(error: TurnpikeError): void;

  protected metadata({ topic, partition, baseOffset, logAppendTimeMs }: SettledBatch, index: number): RecordMetadata {
    const offset = baseOffset < 0n ? -1n : index === 0 ? baseOffset : baseOffset + BigInt(index);
    return { topic, partition, offset, timestampMs: logAppendTimeMs ?? this.timestampMs };
  }
}

/** send(): a promise of its own. */
export class SentRecord extends PendingRecord {
  readonly promise: Promise<RecordMetadata>;
  #resolve!: (metadata: RecordMetadata) => void;
  #reject!: (error: TurnpikeError) => void;

  constructor(init: RecordInit) {
    super(init);
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  protected acknowledged(batch: SettledBatch, index: number): void {
    this.#resolve(this.metadata(batch, index));
  }

  protected failed(error: TurnpikeError): void {
    this.#reject(error);
  }
}

/** sendBatch(): one promise for all of them, which gives the outcome of each. */
export class BatchOutcomes {
  readonly outcomes: (RecordMetadata | TurnpikeError)[];
  /** The first in the order of the batch; -1 = none. */
  firstFailed = -1;
  #left: number;
  readonly #settled = Promise.withResolvers<void>();

  constructor(count: number) {
    this.outcomes = new Array(count);
    this.#left = count;
    if (count === 0) this.#settled.resolve();
  }

  get settled(): Promise<void> {
    return this.#settled.promise;
  }

  succeeded(index: number, metadata: RecordMetadata): void {
    this.outcomes[index] = metadata;
    if (--this.#left === 0) this.#settled.resolve();
  }

  failed(index: number, error: TurnpikeError): void {
    this.outcomes[index] = error;
    if (this.firstFailed < 0 || index < this.firstFailed) this.firstFailed = index;
    if (--this.#left === 0) this.#settled.resolve();
  }
}

export class BatchedRecord extends PendingRecord {
  readonly #batch: BatchOutcomes;
  readonly #index: number;

  constructor(init: RecordInit, batch: BatchOutcomes, index: number) {
    super(init);
    this.#batch = batch;
    this.#index = index;
  }

  protected acknowledged(batch: SettledBatch, index: number): void {
    this.#batch.succeeded(this.#index, this.metadata(batch, index));
  }

  protected failed(error: TurnpikeError): void {
    this.#batch.failed(this.#index, error);
  }
}

/** post(): told of only when it fails. */
export class PostedRecord<E> extends PendingRecord {
  readonly #event: E;
  readonly #onError: (error: TurnpikeError, event: E) => void;

  constructor(init: RecordInit, event: E, onError: (error: TurnpikeError, event: E) => void) {
    super(init);
    this.#event = event;
    this.#onError = onError;
  }

  protected acknowledged(): void {}

  protected failed(error: TurnpikeError): void {
    tellFailure(this.#onError, error, this.#event);
  }
}

/** A handler that throws is its application's mistake, and loud; the records that settle with this one are not to suffer from it. */
export function tellFailure<E>(onError: (error: TurnpikeError, event: E) => void, error: TurnpikeError, event: E): void {
  try {
    onError(error, event);
  } catch (thrown) {
    queueMicrotask(() => {
      throw thrown;
    });
  }
}

/** What a link reports, handed to the records it is about and to telemetry. */
export function settleRecords(telemetry: Telemetry, onThrottled: (broker: number, ms: number) => void = () => {}): TransportEvents {
  return {
    settled(batches, startedAtMs) {
      for (const batch of batches) {
        const { pendings, error } = batch;
        if (error) {
          const certain = error.withWritten(error.written ?? 'unknown');
          for (const pending of pendings) pending.fail(certain);
        } else for (let i = 0; i < pendings.length; i++) pendings[i]?.acknowledge(batch, i);
      }
      telemetry.sent(batches, startedAtMs);
    },
    retried: () => {},
    wrote: () => {},
    throttled: onThrottled,
  };
}
