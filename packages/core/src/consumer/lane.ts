import type { TurnpikeError } from '../errors.ts';
import type { FetchedBatch, InboundRecord, InboundRecords, TopicPartition } from '../spi/transport.ts';
import type { HandlerContext } from './event.ts';

/** What a record that waits costs beside its bytes. */
const RECORD_OVERHEAD = 256;
/** Batches that are done are cut off the list so many at a time. */
const CUT_AT = 64;

export const laneKey = (tp: TopicPartition): string => `${tp.topic}/${tp.partition}`;

/** One assigned partition: what was fetched and waits for the handler, and how far the handler has come. Records are looked at with next(), put into the handler's hand with take(), and
 *  done() all together. */
export class Lane {
  readonly topic: string;
  readonly partition: number;
  readonly context: HandlerContext;
  committed: bigint | undefined;
  paused = false;
  /** No more records are handed out: revoked, closing, or failed. */
  stopped = false;
  /** Taken over by another member: nothing of it may be committed. */
  lost = false;
  /** What its handler does from now on is not committed. */
  aborted = false;
  /** Its handler has records in hand, or a schema is waited for. */
  busy = false;
  queuedRecords = 0;
  /** In memory, decompressed; what the handler has in hand is part of it. */
  queuedBytes = 0;
  readonly #abort = new AbortController();
  #batches: FetchedBatch[] = [];
  /** The batch that comes next; the record of it that does, once next() has looked; what gives the following ones. */
  #head = 0;
  #next: InboundRecord | undefined;
  #walk: (() => InboundRecord | undefined) | undefined;
  /** Of that batch. */
  #recordsLeft = 0;
  #bytesLeft = 0;
  #inHand = 0;
  #bytesInHand = 0;
  /** Where next() stands: after a record, or past the end of a batch. */
  #passed: InboundRecord | bigint | undefined;
  #passedEpoch: number | undefined;
  /** The same as far as it is handled. The record and not its offset: most are never asked for. */
  #handled: InboundRecord | bigint | undefined;
  #over: PromiseWithResolvers<void> | undefined;

  constructor(tp: TopicPartition) {
    this.topic = tp.topic;
    this.partition = tp.partition;
    this.context = { signal: this.#abort.signal };
  }

  /** How many bytes it takes. */
  push(batch: FetchedBatch): number {
    const bytes = bytesOf(batch.records);
    this.#batches.push(batch);
    this.queuedRecords += batch.records.length;
    this.queuedBytes += bytes;
    return bytes;
  }

  /** The next record to hand out; passes over batches that hold only control records or aborted ones. Throws where a batch can't be read. */
  next(): InboundRecord | undefined {
    if (this.#next !== undefined) return this.#next;
    for (let head = this.#batches[this.#head]; head !== undefined; head = this.#batches[this.#head]) {
      this.#walk ??= this.#open(head);
      this.#next = this.#walk();
      if (this.#next !== undefined) return this.#next;
      this.#pass(head);
      if (this.#inHand === 0) this.#handled = this.#passed;
    }
    return undefined;
  }

  /** What next() gave goes into the handler's hand. */
  take(record: InboundRecord): void {
    const bytes = sizeOf(record);
    this.#next = undefined;
    this.#inHand++;
    this.#bytesInHand += bytes;
    this.#bytesLeft -= bytes;
    this.#passed = record;
    if (--this.#recordsLeft > 0) return;
    const head = this.#batches[this.#head];
    if (head === undefined) return;
    this.#passedEpoch = record.leaderEpoch;
    this.#bytesInHand += this.#bytesLeft; // Where a batch's bytes are more than its records' together.
    this.#pass(head);
  }

  /** What was taken has been handled. How many bytes are free. */
  done(): number {
    const bytes = this.#bytesInHand;
    this.queuedRecords -= this.#inHand;
    this.queuedBytes -= bytes;
    this.#inHand = 0;
    this.#bytesInHand = 0;
    this.#handled = this.#passed;
    return bytes;
  }

  /** The next offset to commit; undefined = nothing handled yet. */
  get handled(): bigint | undefined {
    const handled = this.#handled;
    return typeof handled === 'object' ? handled.offset + 1n : handled;
  }

  /** The leader's epoch of the last record that was handled, where the transport knows it (KIP-320). */
  get handledEpoch(): number | undefined {
    return typeof this.#handled === 'object' ? this.#handled.leaderEpoch : this.#passedEpoch;
  }

  get uncommitted(): boolean {
    const { handled } = this;
    return handled !== undefined && handled !== this.committed;
  }

  /** Resolves when the handler is done with what it has in hand; undefined = it has nothing. */
  finished(): Promise<void> | undefined {
    if (!this.busy) return undefined;
    this.#over ??= Promise.withResolvers();
    return this.#over.promise;
  }

  idle(): void {
    this.busy = false;
    this.#over?.resolve();
    this.#over = undefined;
  }

  /** What its handler does from now on is not committed, and it is told so. */
  abort(error: TurnpikeError): void {
    this.stopped = true;
    this.aborted = true;
    this.#abort.abort(error);
  }

  #open({ records }: FetchedBatch): () => InboundRecord | undefined {
    this.#recordsLeft = records.length;
    this.#bytesLeft = bytesOf(records);
    if (records.walk) return records.walk();
    const iterator = records[Symbol.iterator]();
    return () => iterator.next().value;
  }

  #pass(batch: FetchedBatch): void {
    this.#passed = batch.nextOffset;
    this.#walk = undefined;
    this.#head++;
    if (this.#head === this.#batches.length) this.#batches = [];
    else if (this.#head < CUT_AT) return;
    else this.#batches.splice(0, this.#head);
    this.#head = 0;
  }
}

const sizeOf = (record: InboundRecord): number => RECORD_OVERHEAD + (record.size ?? (record.key?.length ?? 0) + (record.value?.length ?? 0));

function bytesOf(records: InboundRecords): number {
  if (records.bytes !== undefined) return RECORD_OVERHEAD * records.length + records.bytes;
  let bytes = 0;
  for (const record of records) bytes += sizeOf(record);
  return bytes;
}
