import { asTurnpikeError, TurnpikeError } from '../errors.ts';
import { pause } from '../spi/clock.ts';
import type { BufferedRecord, ProduceBatch, ProduceDriver, ProduceOutcome } from '../spi/driver.ts';
import type { CompiledProducerOptions, LinkContext, OutboundRecord, Pending, ProducerPort, SettledBatch, TransactionPort } from '../spi/transport.ts';
import { Arena } from './arena.ts';

/** What a buffered record costs beside its bytes: the object, its views, its place in the queues. */
const RECORD_OVERHEAD = 96;
/** How often records that wait are looked through for one whose deadline has passed. */
const SWEEP_MS = 250;
/** No more is added to a flush that holds so much: a broker cuts the connection at 100 MiB (`socket.request.max.bytes`), for every retry again. */
const MAX_FLUSH_BYTES = 16 * 1024 * 1024;
/** A batch that is in a hurry takes no record with it that has more time than this beyond the first one's, in ms: all of a batch ends with its first deadline. */
const HURRY_SPREAD_MS = 1_000;
/** How long the abort of a transaction that is open at close may take, in ms. */
const ABORT_AT_CLOSE_MS = 3_000;

interface Entry {
  readonly record: BufferedRecord;
  readonly pending: Pending;
  readonly bytes: number;
  /** The flush() calls made before it was appended. */
  readonly epoch: number;
}

/** One partition: a FIFO with at most one batch under way, so that nothing overtakes, whatever lane its leader is on. */
interface Queue {
  readonly topic: string;
  readonly partition: number;
  waiting: Entry[];
  inFlight: readonly Entry[];
  /** Monotonic ms before which the quota has told it not to ask again. */
  heldUntil: number;
  /** Lower than the option once the broker has found a batch too large for the topic. */
  maxBatchBytes: number;
}

/** One partition's part of a flush. */
interface Part {
  readonly batch: ProduceBatch;
  readonly queue: Queue;
  readonly entries: readonly Entry[];
}

/** A driver with an accumulator in front: many single sends become few requests. Send at once if nothing is in flight for the lane, else
 *  gather until the answer comes back or the batch is full. */
export function accumulate(
  driver: ProduceDriver,
  context: Pick<LinkContext, 'clock' | 'gate' | 'events'>,
  options: CompiledProducerOptions,
  /** When its close has ended: whoever keeps it may forget it. */
  onClosed: () => void = () => {},
): ProducerPort {
  return new Accumulator(driver, context, options, onClosed);
}

class Accumulator implements ProducerPort {
  readonly transaction?: TransactionPort;
  readonly #driver: ProduceDriver;
  readonly #context: Pick<LinkContext, 'clock' | 'gate' | 'events'>;
  readonly #options: CompiledProducerOptions;
  readonly #onClosed: () => void;
  readonly #arena = new Arena();
  readonly #queues = new Map<string, (Queue | undefined)[]>();
  /** Queues with records waiting, in the order in which they became so. */
  readonly #dirty = new Set<Queue>();
  readonly #busyLanes = new Set<number>();
  readonly #outstanding = new Map<number, number>();
  #epoch = 0;
  #flushes: { epoch: number; resolve: () => void }[] = [];
  #bufferedBytes = 0;
  /** There while an append has been refused and nothing has been released since. */
  #room: { promise: Promise<void>; resolve: () => void } | undefined;
  #drainScheduled = false;
  #wake: Disposable | undefined;
  #wakeAt = Number.POSITIVE_INFINITY;
  #sweep: Disposable | undefined;
  #closing: Promise<void> | undefined;
  /** The first record that failed in this transaction. */
  #failed: TurnpikeError | undefined;
  /** There from begin() until the transaction has ended. */
  #open: TransactionPort | undefined;

  constructor(driver: ProduceDriver, context: Pick<LinkContext, 'clock' | 'gate' | 'events'>, options: CompiledProducerOptions, onClosed: () => void) {
    this.#onClosed = onClosed;
    this.#driver = driver;
    this.#context = context;
    this.#options = options;
    if (driver.transaction) this.transaction = this.#flushing(driver.transaction);
  }

  warm(topics: readonly string[]): Promise<void> {
    return this.#driver.warm(topics);
  }

  partitions(topic: string): number | undefined {
    return this.#driver.partitions(topic);
  }

  append(record: OutboundRecord, pending: Pending): boolean {
    if (this.#closing) throw new TurnpikeError('CLOSED', 'The producer is closed; connect() again before sending.', { written: 'no', topic: record.topic });
    const bytes = sizeOf(record);
    // A record larger than the whole buffer still goes when it is alone: otherwise it would wait for ever.
    if (this.#bufferedBytes > 0 && this.#bufferedBytes + bytes > this.#options.maxBufferBytes) {
      this.#room ??= Promise.withResolvers<void>();
      return false;
    }
    const { buf, keyStart, keyEnd, valueStart, valueEnd, headers, timestampMs } = record;
    const key = keyStart < 0 ? null : this.#arena.copy(buf, keyStart, keyEnd);
    const value = valueStart < 0 ? null : this.#arena.copy(buf, valueStart, valueEnd);
    const queue = this.#queueOf(record.topic, record.partition);
    queue.waiting.push({ record: { key, value, headers, timestampMs }, pending, bytes, epoch: this.#epoch });
    this.#bufferedBytes += bytes;
    this.#outstanding.set(this.#epoch, (this.#outstanding.get(this.#epoch) ?? 0) + 1);
    this.#dirty.add(queue);
    this.#scheduleDrain();
    return true;
  }

  cancel(pendings: ReadonlySet<Pending>): ReadonlySet<Pending> {
    const cancelled = new Set<Pending>();
    const underWay = new Set<Pending>();
    for (const queue of this.#eachQueue()) {
      for (const { pending } of queue.inFlight) if (pendings.has(pending)) underWay.add(pending);
      const dropped = queue.waiting.filter((e) => pendings.has(e.pending));
      if (dropped.length === 0) continue;
      for (const { pending } of dropped) cancelled.add(pending);
      queue.waiting = queue.waiting.filter((e) => !pendings.has(e.pending));
      if (queue.waiting.length === 0) this.#dirty.delete(queue);
      this.#release(dropped);
    }
    this.#resolveFlushes();
    for (const pending of underWay) cancelled.delete(pending); // It stands for several records, and one of them has gone.
    return cancelled;
  }

  drained(): Promise<void> {
    return this.#room?.promise ?? Promise.resolve();
  }

  flush(signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return Promise.reject(flushAborted(signal));
    const epoch = this.#epoch++;
    this.#drain();
    if (!this.#outstandingUpTo(epoch)) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        this.#flushes = this.#flushes.filter((f) => f !== waiter);
        reject(flushAborted(signal));
      };
      const waiter = {
        epoch,
        resolve: () => {
          signal?.removeEventListener('abort', onAbort);
          resolve();
        },
      };
      signal?.addEventListener('abort', onAbort);
      this.#flushes.push(waiter);
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= (async () => {
      await this.flush(); // Ends: every record has a deadline.
      if (this.#open) await this.#abandon(this.#open);
      this.#sweep?.[Symbol.dispose]();
      this.#wake?.[Symbol.dispose]();
      await this.#driver[Symbol.asyncDispose]();
      this.#onClosed();
    })();
    return this.#closing;
  }

  /** All of a transaction is handed over before it ends, and one of which a record has failed is not committed. */
  #flushing(transaction: TransactionPort): TransactionPort {
    return {
      begin: async () => {
        this.#failed = undefined;
        await transaction.begin();
        this.#open = transaction;
      },
      sendOffsets: (group, offsets) => transaction.sendOffsets(group, offsets),
      commit: async () => {
        await this.flush();
        const cause = this.#failed;
        if (cause)
          throw new TurnpikeError(
            'TRANSACTION_ABORTED',
            `A record of the transaction failed (${cause.code}), so it can't be committed; abort() and begin again.`,
            {
              ...cause.facts,
              cause,
            },
          );
        await transaction.commit();
        this.#open = undefined;
      },
      abort: async () => {
        await this.flush();
        await transaction.abort();
        this.#open = undefined;
      },
    };
  }

  /** What is left open holds back all who read committed records, until its timeout. A coordinator that is gone must not hold up the close: it ends it by that. */
  async #abandon(transaction: TransactionPort): Promise<void> {
    const ended = new AbortController();
    const aborted = transaction.abort().catch(() => {});
    await Promise.race([aborted, pause(this.#context.clock, ABORT_AT_CLOSE_MS, ended.signal)]);
    ended.abort();
  }

  #queueOf(topic: string, partition: number): Queue {
    const byPartition = this.#queues.get(topic) ?? [];
    const found = byPartition[partition];
    if (found) return found;
    const queue: Queue = { topic, partition, waiting: [], inFlight: [], heldUntil: 0, maxBatchBytes: this.#options.maxBatchBytes };
    byPartition[partition] = queue;
    this.#queues.set(topic, byPartition);
    return queue;
  }

  *#eachQueue(): Iterable<Queue> {
    for (const byPartition of this.#queues.values()) for (const queue of byPartition) if (queue) yield queue;
  }

  #scheduleDrain(): void {
    this.#sweep ??= this.#context.clock.after(SWEEP_MS, () => this.#expireWaiting(), { holds: true });
    if (this.#drainScheduled) return;
    this.#drainScheduled = true;
    const run = () => {
      this.#drainScheduled = false;
      this.#drain();
    };
    // A microtask gathers what one turn of the caller sends, and costs an idle sender nothing.
    if (this.#options.minLingerMs > 0) this.#context.clock.after(this.#options.minLingerMs, run);
    else queueMicrotask(run);
  }

  /** Starts a flush on each lane that is idle. */
  #drain(): void {
    const flushes = new Map<number, { readonly parts: Part[]; bytes: number }>();
    const expired: SettledBatch[] = [];
    const now = this.#context.clock.monotonic();
    for (const queue of [...this.#dirty]) {
      if (queue.inFlight.length > 0) continue;
      const lane = this.#driver.lane(queue.topic, queue.partition);
      if (this.#busyLanes.has(lane)) continue;
      const flush = flushes.get(lane) ?? { parts: [], bytes: 0 };
      if (flush.bytes >= MAX_FLUSH_BYTES) continue;
      if (queue.heldUntil > now) {
        this.#wakeIn(queue.heldUntil - now);
        continue;
      }
      this.#expire(queue, now, expired);
      const entries = this.#take(queue, now);
      if (entries.length === 0) continue;
      const batch = {
        topic: queue.topic,
        partition: queue.partition,
        records: entries.map((e) => e.record),
        bytes: bytesOf(entries),
        deadlineMs: deadlineOf(entries),
      };
      flush.parts.push({ batch, queue, entries });
      flush.bytes += batch.bytes;
      flushes.set(lane, flush);
    }
    for (const [lane, { parts }] of flushes) void this.#flushLane(lane, parts);
    this.#tell(expired);
  }

  /** The next batch of a partition, admitted by the quota; empty = it has to wait. */
  #take(queue: Queue, now: number): readonly Entry[] {
    const { gate } = this.#context;
    const burst = gate.burst(queue.topic);
    const maxBytes = Math.min(queue.maxBatchBytes, burst?.bytes ?? Number.POSITIVE_INFINITY);
    const maxRecords = burst?.records ?? Number.POSITIVE_INFINITY;
    let count = 0;
    let bytes = 0;
    const first = queue.waiting[0]?.pending.deadlineMs ?? 0;
    const latest = first - now < this.#options.requestTimeoutMs ? first + HURRY_SPREAD_MS : Number.POSITIVE_INFINITY;
    for (const entry of queue.waiting) {
      if (count > 0 && (count >= maxRecords || bytes + entry.bytes > maxBytes || entry.pending.deadlineMs > latest)) break;
      count++;
      bytes += entry.bytes;
    }
    if (count === 0) return [];
    const waitMs = gate.admit(queue.topic, count, bytes);
    if (waitMs > 0) {
      queue.heldUntil = now + waitMs;
      this.#wakeIn(waitMs);
      return [];
    }
    const entries = queue.waiting.slice(0, count);
    queue.waiting = queue.waiting.slice(count);
    queue.inFlight = entries;
    // To the end of the line: where not all fit into a flush, those that come last must not starve.
    this.#dirty.delete(queue);
    if (queue.waiting.length > 0) this.#dirty.add(queue);
    return entries;
  }

  async #flushLane(lane: number, parts: readonly Part[]): Promise<void> {
    this.#busyLanes.add(lane);
    const startedAtMs = this.#context.clock.now();
    const broken = (cause: unknown): ProduceOutcome => ({
      baseOffset: -1n,
      attempts: 1,
      error: asTurnpikeError(cause, 'INTERNAL', 'The transport failed to send a batch; report this.', { written: 'unknown' }),
    });
    let outcomes: readonly (ProduceOutcome | Promise<ProduceOutcome>)[];
    try {
      outcomes = await this.#driver.produce(
        lane,
        parts.map((p) => p.batch),
      );
    } catch (cause) {
      outcomes = parts.map(() => broken(cause));
    }
    this.#busyLanes.delete(lane);
    const ended: SettledBatch[] = [];
    for (const [i, part] of parts.entries()) {
      const outcome = outcomes[i] ?? broken(new Error('no outcome'));
      if (outcome instanceof Promise)
        void outcome.catch(broken).then((late) => {
          const settled: SettledBatch[] = [];
          this.#end(part, late, settled);
          this.#tell(settled, startedAtMs);
          this.#drain();
        });
      else this.#end(part, outcome, ended);
    }
    this.#tell(ended, startedAtMs);
    this.#drain();
  }

  /** What comes of one partition's batch: records that settle, or go again without those that spoil it. */
  #end({ batch, queue, entries }: Part, outcome: ProduceOutcome, settled: SettledBatch[]): void {
    queue.inFlight = [];
    if (outcome.error?.written === 'no' && entries.length > 1) {
      if (outcome.error.code === 'RECORD_TOO_LARGE') {
        this.#sendSmaller(queue, batch, entries);
        return;
      }
      const rejected = new Set(outcome.rejected);
      if (rejected.size > 0 && rejected.size < entries.length) {
        const bad = entries.filter((_, i) => rejected.has(i));
        this.#sendAgain(
          queue,
          entries.filter((_, i) => !rejected.has(i)),
        );
        this.#context.gate.refund(batch.topic, entries.length - bad.length, batch.bytes - bytesOf(bad));
        settled.push(this.#settle({ ...batch, bytes: bytesOf(bad) }, bad, outcome));
        this.#release(bad);
        return;
      }
    }
    settled.push(this.#settle(batch, entries, outcome));
    this.#release(entries);
  }

  #tell(settled: readonly SettledBatch[], startedAtMs = this.#context.clock.now()): void {
    for (const { error } of settled) this.#failed ??= error;
    if (settled.length > 0) this.#context.events.settled(settled, startedAtMs);
    this.#resolveFlushes();
  }

  /** At the head of their partition, in their order. */
  #sendAgain(queue: Queue, entries: readonly Entry[]): void {
    queue.waiting = [...entries, ...queue.waiting];
    this.#dirty.add(queue);
  }

  /** The topic takes smaller batches than the option says: the same records go again, in the same order, in batches of half the size; a record that is too large alone
   *  fails alone. */
  #sendSmaller(queue: Queue, batch: ProduceBatch, entries: readonly Entry[]): void {
    this.#context.gate.refund(batch.topic, entries.length, batch.bytes);
    queue.maxBatchBytes = Math.max(1, Math.floor(batch.bytes / 2));
    this.#sendAgain(queue, entries);
  }

  #settle(batch: ProduceBatch, entries: readonly Entry[], outcome: ProduceOutcome): SettledBatch {
    const { gate, events } = this.#context;
    for (const { pending } of entries) pending.attempts += outcome.attempts;
    if (outcome.error?.written === 'no') gate.refund(batch.topic, entries.length, batch.bytes);
    if (!outcome.error) events.wrote(batch.topic, batch.bytes, outcome.wireBytes ?? batch.bytes);
    return {
      topic: batch.topic,
      partition: batch.partition,
      pendings: entries.map((e) => e.pending),
      bytes: batch.bytes,
      baseOffset: outcome.baseOffset,
      ...(outcome.logAppendTimeMs === undefined ? {} : { logAppendTimeMs: outcome.logAppendTimeMs }),
      ...(outcome.error ? { error: outcome.error } : {}),
    };
  }

  /** Ends records that wait (for quota, or behind a batch under way) past their deadline. */
  #expireWaiting(): void {
    this.#sweep = undefined;
    const now = this.#context.clock.monotonic();
    const settled: SettledBatch[] = [];
    for (const queue of [...this.#dirty]) this.#expire(queue, now, settled);
    this.#tell(settled);
    if (this.#bufferedBytes > 0) this.#sweep ??= this.#context.clock.after(SWEEP_MS, () => this.#expireWaiting(), { holds: true });
  }

  /** These were never written, whatever became of those before them. */
  #expire(queue: Queue, now: number, settled: SettledBatch[]): void {
    const expired = queue.waiting.filter((e) => e.pending.deadlineMs <= now);
    if (expired.length === 0) return;
    queue.waiting = queue.waiting.filter((e) => e.pending.deadlineMs > now);
    if (queue.waiting.length === 0) this.#dirty.delete(queue);
    const held = queue.heldUntil > now;
    const facts = { topic: queue.topic, partition: queue.partition, written: 'no', retriable: true } as const;
    const error = held
      ? new TurnpikeError(
          'QUOTA_EXCEEDED',
          `${queue.topic}: the quota did not let the record go before its delivery timeout. Send less, raise the quota in turnpike.yaml, or raise deliveryTimeoutMs.`,
          { ...facts, retryAfterMs: Math.ceil(queue.heldUntil - now) },
        )
      : new TurnpikeError(
          'DELIVERY_TIMEOUT',
          `${queue.topic}: the record waited behind others until its delivery timeout. The broker is slow or unreachable; see the errors of the records before it.`,
          facts,
        );
    settled.push({
      topic: queue.topic,
      partition: queue.partition,
      pendings: expired.map((e) => e.pending),
      bytes: bytesOf(expired),
      baseOffset: -1n,
      error,
    });
    this.#release(expired);
  }

  #release(entries: readonly Entry[]): void {
    for (const entry of entries) {
      this.#bufferedBytes -= entry.bytes;
      const left = (this.#outstanding.get(entry.epoch) ?? 1) - 1;
      if (left === 0) this.#outstanding.delete(entry.epoch);
      else this.#outstanding.set(entry.epoch, left);
    }
    this.#room?.resolve();
    this.#room = undefined;
  }

  #wakeIn(ms: number): void {
    const at = this.#context.clock.monotonic() + ms;
    if (at >= this.#wakeAt) return;
    this.#wake?.[Symbol.dispose]();
    this.#wakeAt = at;
    this.#wake = this.#context.clock.after(ms, () => {
      this.#wakeAt = Number.POSITIVE_INFINITY;
      this.#wake = undefined;
      this.#drain();
    });
  }

  #outstandingUpTo(epoch: number): boolean {
    for (const e of this.#outstanding.keys()) if (e <= epoch) return true;
    return false;
  }

  #resolveFlushes(): void {
    if (this.#flushes.length === 0) return;
    const done = this.#flushes.filter((f) => !this.#outstandingUpTo(f.epoch));
    if (done.length === 0) return;
    this.#flushes = this.#flushes.filter((f) => !done.includes(f));
    for (const { resolve } of done) resolve();
  }
}

function sizeOf(record: OutboundRecord): number {
  let bytes = RECORD_OVERHEAD;
  if (record.keyStart >= 0) bytes += record.keyEnd - record.keyStart;
  if (record.valueStart >= 0) bytes += record.valueEnd - record.valueStart;
  if (record.headers) for (const [name, value] of record.headers) bytes += name.length + (value?.length ?? 0) + 2;
  return bytes;
}

const bytesOf = (entries: readonly Entry[]): number => entries.reduce((sum, e) => sum + e.bytes, 0);
const deadlineOf = (entries: readonly Entry[]): number => entries.reduce((min, e) => Math.min(min, e.pending.deadlineMs), Number.POSITIVE_INFINITY);
const flushAborted = (signal: AbortSignal | undefined) =>
  new TurnpikeError('ABORTED', 'flush() was aborted; the records are still under way.', { cause: signal?.reason });
