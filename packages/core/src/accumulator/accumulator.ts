import { asTurnpikeError, TurnpikeError } from '../errors.ts';
import type { ProduceDriver, ProduceOutcome } from '../spi/driver.ts';
import type { CompiledProducerOptions, LinkContext, OutboundRecord, Pending, ProducerPort, SettledBatch, TransactionPort } from '../spi/transport.ts';
import { Flushes } from './flushes.ts';
import { PartitionQueue } from './queue.ts';
import { RECORD_OVERHEAD, type Slab, type SlabLimits, SlabMemory } from './slab.ts';
import { FlushedTransaction } from './transaction.ts';

/** How often records that wait are looked through for one whose deadline has passed. */
const SWEEP_MS = 250;
/** No more is added to a flush that holds so much: a broker cuts the connection at 100 MiB (`socket.request.max.bytes`), for every retry again. */
const MAX_FLUSH_BYTES = 16 * 1024 * 1024;
/** A batch that is in a hurry takes no record with it that has more time than this beyond the first one's, in ms: all of a batch ends with its first deadline. */
const HURRY_SPREAD_MS = 1_000;

interface Lane {
  inFlight: number;
}

/** What goes to one lane together. */
interface Flush {
  readonly lane: Lane;
  readonly parts: Part[];
  bytes: number;
}

/** One partition's part of a flush. */
interface Part {
  readonly slab: Slab;
  readonly queue: PartitionQueue;
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
  readonly #driver: ProduceDriver;
  readonly #context: Pick<LinkContext, 'clock' | 'gate' | 'events'>;
  readonly #options: CompiledProducerOptions;
  readonly #onClosed: () => void;
  readonly #memory = new SlabMemory();
  readonly #queues = new Map<string, (PartitionQueue | undefined)[]>();
  /** Queues with records waiting, in the order in which they became so. */
  readonly #dirty = new Set<PartitionQueue>();
  readonly #lanes = new Map<number, Lane>();
  readonly #flushes = new Flushes();
  readonly #transaction: FlushedTransaction | undefined;
  #taken = 0;
  #bufferedBytes = 0;
  /** There while an append has been refused and nothing has been released since. */
  #room: PromiseWithResolvers<void> | undefined;
  #drainScheduled = false;
  #wake: Disposable | undefined;
  #wakeAt = Number.POSITIVE_INFINITY;
  #sweep: Disposable | undefined;
  #closing: Promise<void> | undefined;

  constructor(driver: ProduceDriver, context: Pick<LinkContext, 'clock' | 'gate' | 'events'>, options: CompiledProducerOptions, onClosed: () => void) {
    this.#onClosed = onClosed;
    this.#driver = driver;
    this.#context = context;
    this.#options = options;
    this.#transaction = driver.transaction && new FlushedTransaction(driver.transaction, () => this.flush(), context.clock);
  }

  get transaction(): TransactionPort | undefined {
    return this.#transaction;
  }

  warm(topics: readonly string[]): Promise<void> {
    return this.#driver.warm(topics);
  }

  partitions(topic: string): number | undefined {
    return this.#driver.partitions(topic);
  }

  isLed(topic: string, partition: number): boolean {
    return this.#driver.lane(topic, partition) >= 0;
  }

  append(record: OutboundRecord, pending: Pending): boolean {
    if (this.#closing) throw new TurnpikeError('CLOSED', 'The producer is closed; connect() again before sending.', { written: 'no', topic: record.topic });
    this.#transaction?.admit(record.topic);
    // A record larger than the whole buffer still goes when it is alone: otherwise it would wait for ever.
    if (this.#bufferedBytes > 0 && this.#bufferedBytes + sizeOf(record) > this.#options.maxBufferBytes) {
      this.#room ??= Promise.withResolvers<void>();
      return false;
    }
    const queue = this.#queueOf(record.topic, record.partition);
    const open = queue.waiting.at(-1);
    const before = open?.memoryBytes ?? 0;
    if (open?.append(record, pending)) this.#bufferedBytes += open.memoryBytes - before;
    else {
      const { epoch } = this.#flushes;
      this.#bufferedBytes += queue.open(this.#limits(queue), epoch, record, pending).memoryBytes;
      this.#flushes.opened(epoch);
      this.#dirty.add(queue);
    }
    if (!this.#drainScheduled) this.#scheduleDrain();
    return true;
  }

  cancel(pendings: ReadonlySet<Pending>): ReadonlySet<Pending> {
    const cancelled = new Set<Pending>();
    const underWay = new Set<Pending>();
    for (const queue of this.#eachQueue()) {
      for (const slab of queue.inFlight) for (const pending of slab.pendings) if (pendings.has(pending)) underWay.add(pending);
      for (const slab of [...queue.waiting]) {
        const dropped = slab.pendings.filter((pending) => pendings.has(pending));
        if (dropped.length === 0) continue;
        for (const pending of dropped) cancelled.add(pending);
        this.#replace(queue, slab, (pending) => !pendings.has(pending));
      }
    }
    this.#flushes.resolve();
    for (const pending of underWay) cancelled.delete(pending); // It stands for several records, and one of them has gone.
    return cancelled;
  }

  drained(): Promise<void> {
    return this.#room?.promise ?? Promise.resolve();
  }

  flush(signal?: AbortSignal): Promise<void> {
    return this.#flushes.wait(() => this.#drain(), signal);
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= (async () => {
      await this.flush(); // Ends: every record has a deadline.
      await this.#transaction?.abandon();
      this.#sweep?.[Symbol.dispose]();
      this.#wake?.[Symbol.dispose]();
      await this.#driver[Symbol.asyncDispose]();
      this.#onClosed();
    })();
    return this.#closing;
  }

  #queueOf(topic: string, partition: number): PartitionQueue {
    const byPartition = this.#queues.get(topic) ?? [];
    const found = byPartition[partition];
    if (found) return found;
    const queue = new PartitionQueue(topic, partition, this.#options.maxBatchBytes, this.#memory);
    byPartition[partition] = queue;
    this.#queues.set(topic, byPartition);
    return queue;
  }

  #lane(number: number): Lane {
    const lane = this.#lanes.get(number) ?? { inFlight: 0 };
    this.#lanes.set(number, lane);
    return lane;
  }

  *#eachQueue(): Iterable<PartitionQueue> {
    for (const byPartition of this.#queues.values()) for (const queue of byPartition) if (queue) yield queue;
  }

  /** What one batch may hold now: what the quota admits at once is less where its burst is. */
  #limits(queue: PartitionQueue): SlabLimits {
    const burst = this.#context.gate.burst(queue.topic);
    return { bytes: Math.min(queue.maxBatchBytes, burst?.bytes ?? Number.POSITIVE_INFINITY), records: burst?.records ?? Number.POSITIVE_INFINITY };
  }

  #scheduleDrain(): void {
    this.#sweep ??= this.#context.clock.after(SWEEP_MS, () => this.#expireWaiting(), { holds: true });
    this.#drainScheduled = true;
    // A microtask gathers what one turn of the caller sends, and costs an idle sender nothing.
    if (this.#options.minLingerMs > 0) this.#context.clock.after(this.#options.minLingerMs, this.#scheduled);
    else queueMicrotask(this.#scheduled);
  }

  readonly #scheduled = (): void => {
    this.#drainScheduled = false;
    this.#drain();
  };

  #drain(): void {
    let more = this.#dirty.size > 0;
    while (more) more = this.#drainOnce();
  }

  /** Starts a flush on each lane that is idle, and on one that is busy where a batch is full; false = on none. */
  #drainOnce(): boolean {
    const flushes = new Map<number, Flush>();
    const expired: SettledBatch[] = [];
    const now = this.#context.clock.monotonic();
    for (const queue of [...this.#dirty]) {
      const number = this.#driver.lane(queue.topic, queue.partition);
      const lane = this.#lane(number);
      if (!this.#mayGo(queue, lane)) continue;
      const flush = flushes.get(number) ?? { lane, parts: [], bytes: 0 };
      if (flush.bytes >= MAX_FLUSH_BYTES) continue;
      if (queue.heldUntil > now) {
        this.#wakeIn(queue.heldUntil - now);
        continue;
      }
      this.#expire(queue, now, expired);
      const slab = this.#take(queue, now);
      if (slab === undefined) continue;
      flush.parts.push({ slab, queue });
      flush.bytes += slab.bytes;
      flushes.set(number, flush);
    }
    for (const [number, flush] of flushes) void this.#send(number, flush);
    if (expired.length > 0) this.#tell(expired);
    return flushes.size > 0;
  }

  #mayGo(queue: PartitionQueue, lane: Lane): boolean {
    const { maxInFlight } = this.#options;
    const full = queue.waiting.length > 1;
    if (lane.inFlight > 0 && !(full && lane.inFlight < maxInFlight)) return false;
    if (queue.inFlight.length === 0) return true;
    // One that goes again waits until those behind it have come back.
    if (queue.waiting[0]?.order !== Number.POSITIVE_INFINITY || queue.inFlight.length >= maxInFlight) return false;
    return this.#driver.pipelines?.(queue.topic, queue.partition, queue.inFlight.length) ?? false;
  }

  /** The next batch of a partition, admitted by the quota; undefined = it has to wait. */
  #take(queue: PartitionQueue, now: number): Slab | undefined {
    const slab = this.#fitting(queue, now);
    if (slab === undefined) return undefined;
    const bytes = this.#wireBytes(queue, slab);
    if (bytes === undefined) return undefined;
    const waitMs = this.#context.gate.admit(slab.topic, slab.count, bytes);
    if (waitMs > 0) {
      queue.heldUntil = now + waitMs;
      this.#wakeIn(waitMs);
      return undefined;
    }
    queue.take(++this.#taken);
    // To the end of the line: where not all fit into a flush, those that come last must not starve.
    this.#dirty.delete(queue);
    if (queue.waiting.length > 0) this.#dirty.add(queue);
    return slab;
  }

  /** The first batch, cut where the quota's burst has become smaller, or where its first records have little time left. */
  #fitting(queue: PartitionQueue, now: number): Slab | undefined {
    const [slab] = queue.waiting;
    if (slab === undefined || slab.count === 1 || slab.preparing) return slab;
    const limits = this.#limits(queue);
    const latest = slab.deadlineMs - now < this.#options.requestTimeoutMs ? slab.deadlineMs + HURRY_SPREAD_MS : Number.POSITIVE_INFINITY;
    if (slab.latestDeadlineMs > latest) {
      const first = slab.pendings.findIndex((pending) => pending.deadlineMs > latest);
      const cut = Math.max(first, 1);
      const slabs = [...queue.repack(slab, limits, (_, i) => i < cut), ...queue.repack(slab, limits, (_, i) => i >= cut)];
      this.#exchange(queue, slab, slabs);
    } else if (slab.wireBytes === undefined && (slab.count > limits.records || slab.bytes > limits.bytes))
      this.#exchange(
        queue,
        slab,
        queue.repack(slab, limits, () => true),
      );
    return queue.waiting[0];
  }

  /** Its size as it goes out; undefined = it is being compressed, and drains when that has ended. */
  #wireBytes(queue: PartitionQueue, slab: Slab): number | undefined {
    if (slab.wireBytes !== undefined || slab.preparing) return slab.wireBytes;
    slab.sealed = true;
    const bytes = this.#driver.prepare?.(slab) ?? slab.bytes;
    if (typeof bytes === 'number') {
      slab.wireBytes = bytes;
      return bytes;
    }
    slab.preparing = true;
    void bytes.then((known) => {
      slab.preparing = false;
      slab.wireBytes = known;
      if (queue.waiting.includes(slab)) this.#drain();
    });
    return undefined;
  }

  async #send(number: number, { lane, parts }: Flush): Promise<void> {
    lane.inFlight++;
    const startedAtMs = this.#context.clock.now();
    let outcomes: readonly (ProduceOutcome | Promise<ProduceOutcome>)[];
    try {
      outcomes = await this.#driver.produce(
        number,
        parts.map((p) => p.slab),
      );
    } catch (cause) {
      outcomes = parts.map(() => broken(cause));
    }
    lane.inFlight--;
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

  /** What comes of one partition's batch: records that settle, or go again, without those that spoil it. */
  #end({ slab, queue }: Part, outcome: ProduceOutcome, settled: SettledBatch[]): void {
    queue.inFlight.splice(queue.inFlight.indexOf(slab), 1);
    if (outcome.again) {
      this.#refund(slab);
      this.#goAgain(queue, outcome, [slab]);
      return;
    }
    if (outcome.error?.written === 'no' && slab.count > 1) {
      if (outcome.error.code === 'RECORD_TOO_LARGE') {
        this.#sendSmaller(queue, slab, outcome);
        return;
      }
      const rejected = new Set(outcome.rejected);
      if (rejected.size > 0 && rejected.size < slab.count) {
        this.#sendWithout(queue, slab, rejected, outcome, settled);
        return;
      }
    }
    settled.push(this.#settle(slab, outcome));
    this.#release(slab);
  }

  #goAgain(queue: PartitionQueue, { attempts }: ProduceOutcome, slabs: readonly Slab[]): void {
    for (const slab of slabs) for (const pending of slab.pendings) pending.attempts += attempts;
    queue.putBack(slabs);
    this.#dirty.add(queue);
  }

  /** The topic takes smaller batches than the option says: the same records go again, in the same order, in batches of half the size; a record that is too large alone
   *  fails alone. */
  #sendSmaller(queue: PartitionQueue, slab: Slab, outcome: ProduceOutcome): void {
    this.#refund(slab);
    queue.maxBatchBytes = Math.max(1, Math.floor(slab.bytes / 2));
    this.#goAgain(
      queue,
      outcome,
      this.#count(
        slab,
        queue.repack(slab, this.#limits(queue), () => true),
      ),
    );
  }

  #sendWithout(queue: PartitionQueue, slab: Slab, rejected: ReadonlySet<number>, outcome: ProduceOutcome, settled: SettledBatch[]): void {
    this.#refund(slab);
    const limits = this.#limits(queue);
    const bad = slab.pendings.filter((_, i) => rejected.has(i));
    settled.push({
      topic: slab.topic,
      partition: slab.partition,
      pendings: bad,
      bytes: 0,
      baseOffset: -1n,
      ...(outcome.error ? { error: outcome.error } : {}),
    });
    this.#goAgain(
      queue,
      outcome,
      this.#count(
        slab,
        queue.repack(slab, limits, (_, i) => !rejected.has(i)),
      ),
    );
  }

  /** Others stand for the slab from now on. */
  #count(slab: Slab, slabs: readonly Slab[]): readonly Slab[] {
    for (const { epoch, memoryBytes } of slabs) {
      this.#flushes.opened(epoch);
      this.#bufferedBytes += memoryBytes;
    }
    this.#release(slab);
    return slabs;
  }

  #exchange(queue: PartitionQueue, slab: Slab, slabs: readonly Slab[]): void {
    queue.waiting.splice(queue.waiting.indexOf(slab), 1, ...this.#count(slab, slabs));
    if (queue.waiting.length === 0) this.#dirty.delete(queue);
  }

  #replace(queue: PartitionQueue, slab: Slab, keeps: (pending: Pending, index: number) => boolean): void {
    this.#exchange(queue, slab, queue.repack(slab, slab.limits, keeps));
  }

  #tell(settled: readonly SettledBatch[], startedAtMs = this.#context.clock.now()): void {
    if (this.#transaction) for (const { error } of settled) this.#transaction.recordFailed(error);
    if (settled.length > 0) this.#context.events.settled(settled, startedAtMs);
    this.#flushes.resolve();
  }

  #refund({ topic, count, wireBytes, bytes }: Slab): void {
    this.#context.gate.refund(topic, count, wireBytes ?? bytes);
  }

  #settle(slab: Slab, { baseOffset, attempts, error, wireBytes, logAppendTimeMs }: ProduceOutcome): SettledBatch {
    const { topic, partition, pendings, bytes } = slab;
    if (attempts > 1) for (const pending of pendings) pending.attempts += attempts;
    if (error?.written === 'no') this.#refund(slab);
    if (!error) this.#context.events.wrote(topic, bytes, wireBytes ?? slab.wireBytes ?? bytes);
    return { topic, partition, pendings, bytes, baseOffset, ...(logAppendTimeMs === undefined ? {} : { logAppendTimeMs }), ...(error ? { error } : {}) };
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
  #expire(queue: PartitionQueue, now: number, settled: SettledBatch[]): void {
    for (const slab of [...queue.waiting]) {
      if (slab.deadlineMs > now) continue;
      const pendings = slab.pendings.filter((pending) => pending.deadlineMs <= now);
      this.#replace(queue, slab, (pending) => pending.deadlineMs > now);
      settled.push({ topic: slab.topic, partition: slab.partition, pendings, bytes: slab.bytes, baseOffset: -1n, error: expired(queue, now) });
    }
  }

  #release(slab: Slab): void {
    this.#bufferedBytes -= slab.memoryBytes;
    this.#flushes.closed(slab.epoch);
    if (this.#driver.copies) slab.recycle();
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
}

const broken = (cause: unknown): ProduceOutcome => ({
  baseOffset: -1n,
  attempts: 1,
  error: asTurnpikeError(cause, 'INTERNAL', 'The transport failed to send a batch; report this.', { written: 'unknown' }),
});

function expired({ topic, partition, heldUntil }: PartitionQueue, now: number): TurnpikeError {
  const facts = { topic, partition, written: 'no', retriable: true } as const;
  if (heldUntil > now)
    return new TurnpikeError(
      'QUOTA_EXCEEDED',
      `${topic}: the quota did not let the record go before its delivery timeout. Send less, raise the quota in turnpike.yaml, or raise deliveryTimeoutMs.`,
      { ...facts, retryAfterMs: Math.ceil(heldUntil - now) },
    );
  return new TurnpikeError(
    'DELIVERY_TIMEOUT',
    `${topic}: the record waited behind others until its delivery timeout. The broker is slow or unreachable; see the errors of the records before it.`,
    facts,
  );
}

/** About what a record will hold of the memory. */
function sizeOf(record: OutboundRecord): number {
  let bytes = RECORD_OVERHEAD;
  if (record.keyStart >= 0) bytes += record.keyEnd - record.keyStart;
  if (record.valueStart >= 0) bytes += record.valueEnd - record.valueStart;
  // By index: taking a pair apart costs an iterator each.
  if (record.headers) for (const header of record.headers) bytes += header[0].length + (header[1]?.length ?? 0) + 2;
  return bytes;
}
