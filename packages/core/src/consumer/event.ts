import type { RecordHeaders } from '../headers.ts';
import type { InboundRecord } from '../spi/transport.ts';

/** A record as its handler sees it. Safe to keep. */
export interface ConsumedEvent<Topic extends string = string, Value = unknown, Key = unknown> {
  readonly topic: Topic;
  readonly partition: number;
  readonly offset: bigint;
  readonly timestampMs: number;
  readonly key: Key | null;
  /** null = a tombstone. */
  readonly value: Value | null;
  readonly headers: RecordHeaders;
}

export interface HandlerContext {
  /** Fires when the partition is lost, or its drain deadline has passed: what the handler does from then on is not committed. */
  readonly signal: AbortSignal;
}

/** Handles one record. Records of a partition come one after another, partitions side by side. A handler that throws ends the consumer; its record is not committed. */
export type Handler<E> = (event: E, context: HandlerContext) => void | Promise<void>;

/** Handles records of one partition, in order, at least one. Partitions come side by side. A handler that throws ends the consumer; none of the batch is committed. */
export type BatchHandler<E> = (events: readonly E[], context: HandlerContext) => void | Promise<void>;

export interface BatchOptions {
  /** How many records a batch has at most (>= 1). Default 500: what is there is given at once, nothing waits for a batch to fill. */
  readonly maxBatchRecords?: number;
}

/** Own properties and not getters, so that a handler may spread an event. */
export class Consumed implements ConsumedEvent {
  readonly topic: string;
  readonly partition: number;
  readonly offset: bigint;
  readonly timestampMs: number;
  readonly key: unknown;
  readonly value: unknown;
  readonly headers: RecordHeaders;

  constructor(record: InboundRecord, { key, value, headers }: { readonly key: unknown; readonly value: unknown; readonly headers: RecordHeaders }) {
    this.topic = record.topic;
    this.partition = record.partition;
    this.offset = record.offset;
    this.timestampMs = record.timestampMs;
    this.key = key;
    this.value = value;
    this.headers = headers;
  }
}
