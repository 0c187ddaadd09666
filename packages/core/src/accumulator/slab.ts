import type { BufferedRecord, ProduceBatch } from '../spi/driver.ts';
import type { OutboundRecord, Pending } from '../spi/transport.ts';
import { readRecords, recordLength, varintLength, writeRecord } from './record.ts';

/** Free in front of the records, for the header of a batch of magic 2. */
const BATCH_HEADER_BYTES = 61;
/** What a buffered record costs beside its bytes: its promise, its place in the queue. */
export const RECORD_OVERHEAD = 96;

const SMALLEST = 4 * 1024;
const LARGEST = 1024 * 1024;
/** What is kept for later at the most, in bytes. */
const KEPT_BYTES = 16 * 1024 * 1024;

/** Memory for slabs, in powers of two. What comes back is handed out again: a busy producer allocates nothing. */
export class SlabMemory {
  readonly #free = new Map<number, Buffer[]>();
  #kept = 0;

  take(bytes: number): Buffer {
    let size = SMALLEST;
    while (size < bytes) size *= 2;
    if (size > LARGEST) return Buffer.allocUnsafeSlow(bytes);
    const found = this.#free.get(size)?.pop();
    if (found === undefined) return Buffer.allocUnsafeSlow(size);
    this.#kept -= size;
    return found;
  }

  /** Nobody may read it any more. */
  give(buf: Buffer): void {
    const size = buf.length;
    if (size > LARGEST || this.#kept + size > KEPT_BYTES) return;
    const free = this.#free.get(size);
    if (free) free.push(buf);
    else this.#free.set(size, [buf]);
    this.#kept += size;
  }
}

/** How much one batch may hold. */
export interface SlabLimits {
  /** Encoded, with the batch's header. A record that is alone may be larger. */
  readonly bytes: number;
  readonly records: number;
}

export interface SlabInit {
  readonly topic: string;
  readonly partition: number;
  readonly limits: SlabLimits;
  /** The flush() calls made before its first record. */
  readonly epoch: number;
  /** As much as it will probably hold, in bytes. */
  readonly expectedBytes: number;
}

/** One partition's batch as it fills: its records, encoded as they go out, and who waits for them. */
export class Slab implements ProduceBatch {
  readonly topic: string;
  readonly partition: number;
  readonly epoch: number;
  readonly limits: SlabLimits;
  readonly pendings: Pending[] = [];
  buf: Buffer;
  end = BATCH_HEADER_BYTES;
  baseTimestampMs = 0;
  maxTimestampMs = 0;
  deadlineMs = Number.POSITIVE_INFINITY;
  latestDeadlineMs = 0;
  compressed: Buffer | undefined;
  /** What it is on the wire, which the quota is asked for; undefined = not known yet. */
  wireBytes: number | undefined;
  /** Its place among those of its partition that were taken for sending; it keeps it when it goes again. */
  order = Number.POSITIVE_INFINITY;
  /** Nothing may be added any more. */
  sealed = false;
  /** The driver reads it, though it is not in flight. */
  preparing = false;
  readonly #memory: SlabMemory;
  #records: readonly BufferedRecord[] | undefined;

  constructor(init: SlabInit, memory: SlabMemory) {
    this.topic = init.topic;
    this.partition = init.partition;
    this.epoch = init.epoch;
    this.limits = init.limits;
    this.#memory = memory;
    this.buf = memory.take(init.expectedBytes);
  }

  get count(): number {
    return this.pendings.length;
  }

  get bytes(): number {
    return this.end;
  }

  /** What it holds of the producer's memory. */
  get memoryBytes(): number {
    return this.end - BATCH_HEADER_BYTES + this.pendings.length * RECORD_OVERHEAD;
  }

  get records(): readonly BufferedRecord[] {
    this.#records ??= readRecords(this.buf, BATCH_HEADER_BYTES, this.count, this.baseTimestampMs);
    return this.#records;
  }

  /** Copies the record; false = it doesn't fit any more. */
  append(record: OutboundRecord, pending: Pending): boolean {
    const { pendings, limits } = this;
    const count = pendings.length;
    const { timestampMs } = record;
    if (count === 0) {
      this.baseTimestampMs = timestampMs;
      this.maxTimestampMs = timestampMs;
    }
    const timestampDelta = timestampMs - this.baseTimestampMs;
    const length = recordLength(record, count, timestampDelta);
    const end = this.end + varintLength(length) + length;
    if (count > 0 && (this.sealed || end > limits.bytes || count >= limits.records)) return false;
    if (end > this.buf.length) this.#grow(end);
    this.end = writeRecord(this.buf, this.end, record, length, count, timestampDelta);
    if (timestampMs > this.maxTimestampMs) this.maxTimestampMs = timestampMs;
    const { deadlineMs } = pending;
    if (deadlineMs < this.deadlineMs) this.deadlineMs = deadlineMs;
    if (deadlineMs > this.latestDeadlineMs) this.latestDeadlineMs = deadlineMs;
    pendings.push(pending);
    return true;
  }

  /** Its memory may be used again, unless somebody has seen its records or reads it still. */
  recycle(): void {
    if (this.#records === undefined && !this.preparing) this.#memory.give(this.buf);
  }

  #grow(needed: number): void {
    const grown = this.#memory.take(Math.max(needed, this.buf.length * 2));
    grown.set(this.buf.subarray(0, this.end));
    this.#memory.give(this.buf);
    this.buf = grown;
  }
}
