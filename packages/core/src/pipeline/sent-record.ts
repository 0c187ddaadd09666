import type { TurnpikeError } from '../errors.ts';
import type { RecordSpan, Telemetry } from '../spi/telemetry.ts';
import type { Pending, SettledBatch, TransportEvents } from '../spi/transport.ts';

/** Where an acknowledged record stands. */
export interface RecordMetadata {
  readonly topic: string;
  readonly partition: number;
  /** -1n where the broker doesn't say (it had written the record at an earlier try). */
  readonly offset: bigint;
  readonly timestampMs: number;
}

/** One record between send() and its settlement: the promise's other end. Settles once; what comes later is ignored. */
export class SentRecord implements Pending {
  readonly topic: string;
  readonly deadlineMs: number;
  readonly span: RecordSpan | undefined;
  readonly promise: Promise<RecordMetadata>;
  attempts = 0;
  /** Of key and value; what refuse mode adds up. */
  bytes = 0;
  timestampMs = 0;
  onSettled: ((record: SentRecord) => void) | undefined;
  #over = false;
  #resolve!: (metadata: RecordMetadata) => void;
  #reject!: (error: TurnpikeError) => void;

  constructor(topic: string, deadlineMs: number, span: RecordSpan | undefined) {
    this.topic = topic;
    this.deadlineMs = deadlineMs;
    this.span = span;
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  acknowledge(batch: SettledBatch, index: number): void {
    if (this.#over) return;
    this.#over = true;
    this.span?.end();
    this.#resolve({
      topic: batch.topic,
      partition: batch.partition,
      offset: batch.baseOffset < 0n ? -1n : batch.baseOffset + BigInt(index),
      timestampMs: batch.logAppendTimeMs ?? this.timestampMs,
    });
    this.#settled();
  }

  fail(error: TurnpikeError): void {
    if (this.#over) return;
    this.#over = true;
    this.span?.end(error);
    this.#reject(error);
    this.#settled();
  }

  #settled(): void {
    const f = this.onSettled;
    this.onSettled = undefined;
    f?.(this);
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
