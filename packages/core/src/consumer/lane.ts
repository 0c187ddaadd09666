import type { FetchedBatch, InboundRecord, TopicPartition } from '../spi/transport.ts';

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
  /** Resolves when the record in the handler is done. */
  working: Promise<void> | undefined;
  queuedRecords = 0;
  readonly #batches: { readonly batch: FetchedBatch; at: number }[] = [];

  constructor(tp: TopicPartition) {
    this.topic = tp.topic;
    this.partition = tp.partition;
  }

  push(batch: FetchedBatch): void {
    this.#batches.push({ batch, at: 0 });
    this.queuedRecords += batch.records.length;
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
    const last = head.at === head.batch.records.length;
    this.handled = last ? head.batch.nextOffset : record.offset + 1n;
    if (last) this.#batches.shift();
  }

  get uncommitted(): boolean {
    return this.handled !== undefined && this.handled !== this.committed;
  }
}
