import type { OutboundRecord, Pending } from '../spi/transport.ts';
import { Slab, type SlabLimits, type SlabMemory } from './slab.ts';

/** One partition: a FIFO of batches, of which the last may still fill. */
export class PartitionQueue {
  readonly topic: string;
  readonly partition: number;
  waiting: Slab[] = [];
  inFlight: Slab[] = [];
  /** Monotonic ms before which the quota has told it not to ask again. */
  heldUntil = 0;
  /** Lower than the option once the broker has found a batch too large for the topic. */
  maxBatchBytes: number;
  readonly #memory: SlabMemory;
  /** As large as the last one was. */
  #expectedBytes = 0;

  constructor(topic: string, partition: number, maxBatchBytes: number, memory: SlabMemory) {
    this.topic = topic;
    this.partition = partition;
    this.maxBatchBytes = maxBatchBytes;
    this.#memory = memory;
  }

  /** Begins a batch with this record. */
  open(limits: SlabLimits, epoch: number, record: OutboundRecord, pending: Pending): Slab {
    const slab = this.#slab(limits, epoch);
    slab.append(record, pending); // What can't be encoded throws here, and nothing has begun.
    this.waiting.push(slab);
    return slab;
  }

  /** Takes the first batch for sending. */
  take(order: number): Slab | undefined {
    const slab = this.waiting.shift();
    if (slab === undefined) return undefined;
    slab.sealed = true;
    if (slab.order === Number.POSITIVE_INFINITY) slab.order = order;
    this.#expectedBytes = slab.end;
    this.inFlight.push(slab);
    return slab;
  }

  /** Back to where they were taken from: before what was taken later, or not yet, and before the rest of what they were a part of. */
  putBack(slabs: readonly Slab[]): void {
    const [first] = slabs;
    if (first === undefined) return;
    const at = this.waiting.findIndex((s) => s.order >= first.order);
    this.waiting.splice(at < 0 ? this.waiting.length : at, 0, ...slabs);
  }

  /** The same records in the same order, of those that `keeps`, in batches within the limits. */
  repack(slab: Slab, limits: SlabLimits, keeps: (pending: Pending, index: number) => boolean): Slab[] {
    const slabs: Slab[] = [];
    for (const [i, { key, value, headers, timestampMs }] of slab.records.entries()) {
      const pending = slab.pendings[i];
      if (pending === undefined || !keeps(pending, i)) continue;
      const keyLength = key?.length ?? 0;
      const valueLength = value?.length ?? 0;
      const record: OutboundRecord = {
        topic: this.topic,
        partition: this.partition,
        timestampMs,
        headers,
        buf: Buffer.concat([key ?? NOTHING, value ?? NOTHING]),
        keyStart: key === null ? -1 : 0,
        keyEnd: key === null ? -1 : keyLength,
        valueStart: value === null ? -1 : keyLength,
        valueEnd: value === null ? -1 : keyLength + valueLength,
      };
      if (slabs.at(-1)?.append(record, pending)) continue;
      const next = this.#slab(limits, slab.epoch);
      next.order = slab.order;
      next.append(record, pending);
      slabs.push(next);
    }
    return slabs;
  }

  #slab(limits: SlabLimits, epoch: number): Slab {
    const { topic, partition } = this;
    return new Slab({ topic, partition, limits, epoch, expectedBytes: Math.min(this.#expectedBytes, limits.bytes) }, this.#memory);
  }
}

const NOTHING = Buffer.alloc(0);
