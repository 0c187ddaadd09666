import type { FetchedBatch, InboundRecord, TopicPartition } from '../spi/transport.ts';

/** What a record that waits costs beside its bytes. */
const RECORD_OVERHEAD = 256;

export const laneKey = (tp: TopicPartition): string => `${tp.topic}/${tp.partition}`;

/** One assigned partition: what was fetched and waits for the handler, and how far the handler has come. */
export class Lane {
  readonly topic: string;
  readonly partition: number;
  readonly abort = new AbortController();
  /** The next offset to commit; undefined = nothing handled yet. */
  handled: bigint | undefined;
  committed: bigint | undefined;
  paused = false;
  /** No more records are handed out: revoked, closing, or failed. */
  stopped = false;
  /** Taken over by another member: nothing of it may be committed. */
  lost = false;
  /** Resolves when the record in the handler is done; undefined = none is. */
  working: Promise<void> | undefined;
  queuedRecords = 0;
  /** In memory, decompressed. */
  queuedBytes = 0;
  readonly #batches: { readonly batch: FetchedBatch; at: number }[] = [];

  constructor(tp: TopicPartition) {
    this.topic = tp.topic;
    this.partition = tp.partition;
  }

  push(batch: FetchedBatch): void {
    this.#batches.push({ batch, at: 0 });
    this.queuedRecords += batch.records.length;
    for (const record of batch.records) this.queuedBytes += sizeOf(record);
  }

  /** The next record to handle; passes over batches that hold only control records or aborted ones. */
  next(): InboundRecord | undefined {
    for (let head = this.#batches[0]; head !== undefined; head = this.#batches[0]) {
      const record = head.batch.records[head.at];
      if (record !== undefined) return record;
      this.handled = head.batch.nextOffset;
      this.#batches.shift();
    }
    return undefined;
  }

  /** What next() gave has been handled. */
  done(record: InboundRecord): void {
    const head = this.#batches[0];
    if (head === undefined) return;
    head.at++;
    this.queuedRecords--;
    this.queuedBytes -= sizeOf(record);
    const last = head.at === head.batch.records.length;
    this.handled = last ? head.batch.nextOffset : record.offset + 1n;
    if (last) this.#batches.shift();
  }

  get uncommitted(): boolean {
    return this.handled !== undefined && this.handled !== this.committed;
  }
}

const sizeOf = (record: InboundRecord): number => RECORD_OVERHEAD + (record.key?.length ?? 0) + (record.value?.length ?? 0);
