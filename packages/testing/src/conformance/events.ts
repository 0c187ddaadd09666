import { settleRecords } from '@turnpike/core';
import { noTelemetry, type SettledBatch, type TransportEvents } from '@turnpike/core/spi';

/** What a link tells core, kept. Records are settled, as core does it. */
export class Events implements TransportEvents {
  readonly batches: SettledBatch[] = [];
  /** How many flushes have ended. */
  flushes = 0;
  readonly throttles: { readonly broker: number; readonly ms: number }[] = [];
  readonly retries: { readonly topic: string; readonly bytes: number }[] = [];
  readonly writes: { readonly topic: string; readonly encodedBytes: number; readonly wireBytes: number }[] = [];
  readonly #settle = settleRecords(noTelemetry);

  settled(batches: readonly SettledBatch[], startedAtMs: number): void {
    this.flushes++;
    this.batches.push(...batches);
    this.#settle.settled(batches, startedAtMs);
  }

  retried(topic: string, bytes: number): void {
    this.retries.push({ topic, bytes });
  }

  wrote(topic: string, encodedBytes: number, wireBytes: number): void {
    this.writes.push({ topic, encodedBytes, wireBytes });
  }

  throttled(broker: number, ms: number): void {
    this.throttles.push({ broker, ms });
  }
}
