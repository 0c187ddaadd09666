import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import {
  type Clock,
  type CommitOffset,
  type CompiledConsumerOptions,
  type FetchedBatch,
  type LinkContext,
  pause,
  type TopicPartition,
} from '@turnpike/core/spi';
import { partitionKey } from './assignor.ts';

const RETRY_MS = 200;

/** One assigned partition, from its assignment to its revocation. */
export interface Position {
  readonly tp: TopicPartition;
  /** Where the next fetch begins; undefined = not known yet. */
  offset: bigint | undefined;
  /** How often it was sought. */
  seeks: number;
  paused: boolean;
  queued: FetchedBatch[];
  queuedBytes: number;
}

export const newPosition = (tp: TopicPartition): Position => ({ tp, offset: undefined, seeks: 0, paused: false, queued: [], queuedBytes: 0 });

/** Something has changed, for whoever waits: polls for records, loops for room or partitions. */
export class Changes {
  readonly #clock: Clock;
  readonly #waiters = new Set<() => void>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  tell(): void {
    for (const wake of [...this.#waiters]) wake();
  }

  /** Resolves at the next change, after `ms`, or when the signal aborts. Listeners and not a race of promises: a wait that ends leaves nothing behind, however seldom something changes. */
  within(ms: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        timer[Symbol.dispose]();
        this.#waiters.delete(done);
        signal.removeEventListener('abort', done);
        resolve();
      };
      const timer = this.#clock.after(ms, done, { holds: true });
      this.#waiters.add(done);
      signal.addEventListener('abort', done);
    });
  }

  /** What `take` gives as soon as it gives something; [] after `maxWaitMs`, when the poller's signal aborts, or when the port is closed (which must tell()). */
  async poll(
    take: () => readonly FetchedBatch[],
    maxWaitMs: number,
    signals: { readonly poller: AbortSignal | undefined; readonly closed: AbortSignal },
  ): Promise<readonly FetchedBatch[]> {
    const { poller, closed } = signals;
    const until = this.#clock.monotonic() + maxWaitMs;
    for (;;) {
      if (closed.aborted) {
        // Whoever polls on must not keep the event loop for himself, which would never let him hear of the close.
        await new Promise((resolve) => setImmediate(resolve));
        return []; // What was read ahead is another member's.
      }
      const batches = take();
      const leftMs = until - this.#clock.monotonic();
      if (batches.length > 0 || leftMs <= 0 || poller?.aborted) return batches;
      await this.within(leftMs, poller ?? closed);
    }
  }
}

/** Where each partition of a group member is, and what was fetched of it and not yet polled. */
export class ReadAhead<P extends Position> {
  readonly changes: Changes;
  readonly #context: LinkContext;
  readonly #options: CompiledConsumerOptions;
  readonly #closed: AbortSignal;
  readonly #positions = new Map<string, P>();
  queuedBytes = 0;

  constructor(context: LinkContext, options: CompiledConsumerOptions, closed: AbortSignal) {
    this.#context = context;
    this.#options = options;
    this.#closed = closed;
    this.changes = new Changes(context.clock);
  }

  all(): Iterable<P> {
    return this.#positions.values();
  }

  at(tp: TopicPartition): P | undefined {
    return this.#positions.get(partitionKey(tp));
  }

  of(partitions: readonly TopicPartition[]): P[] {
    return partitions.flatMap((tp) => this.at(tp) ?? []);
  }

  /** Of an assignment that has not been given up since. */
  holds(position: P): boolean {
    return this.at(position.tp) === position;
  }

  add(position: P): void {
    this.#positions.set(partitionKey(position.tp), position);
  }

  push(position: P, batch: FetchedBatch): void {
    position.queued.push(batch);
    position.queuedBytes += batch.bytes;
    this.queuedBytes += batch.bytes;
  }

  /** All that may be polled now. */
  take(): readonly FetchedBatch[] {
    const batches: FetchedBatch[] = [];
    for (const position of this.#positions.values()) {
      if (position.paused || position.queued.length === 0) continue;
      batches.push(...position.queued);
      this.#empty(position);
    }
    return batches;
  }

  /** Drops what was read ahead of a position that is no longer the one. */
  forget(position: P): void {
    this.#empty(position);
    this.changes.tell();
  }

  drop(partitions: readonly TopicPartition[]): void {
    for (const position of this.of(partitions)) {
      this.forget(position);
      this.#positions.delete(partitionKey(position.tp));
    }
  }

  /** Counts a seek; false afterwards = a later one has come, or the partition has been given up. @throws TurnpikeError MEMBERSHIP_LOST. */
  seeking(tp: TopicPartition): { readonly position: P; isLast(): boolean } {
    const position = this.at(tp);
    if (!position)
      throw new TurnpikeError('MEMBERSHIP_LOST', `${partitionKey(tp)} is not assigned to this member; seek after it was.`, {
        ...tp,
        group: this.#options.group,
      });
    const ticket = ++position.seeks;
    return { position, isLast: () => position.seeks === ticket && this.holds(position) };
  }

  /** Who commits these offsets, asked before each try: a partition that was lost and has come back is another's progress by now, and what was handled before must not be put in its
   *  place. The answer throws MEMBERSHIP_LOST. */
  committer<M>(offsets: readonly CommitOffset[], membership: { owns(tp: TopicPartition): boolean; member(): M } | undefined): () => M {
    const held = offsets.map((o) => this.at(o));
    return () => {
      const gone = offsets.find((o, i) => held[i] === undefined || held[i] !== this.at(o) || !membership?.owns(o));
      if (gone === undefined && membership) return membership.member();
      const { group } = this.#options;
      const where = gone === undefined ? group : `${group}: ${partitionKey(gone)}`;
      const facts = gone === undefined ? { group } : { group, topic: gone.topic, partition: gone.partition };
      throw new TurnpikeError('MEMBERSHIP_LOST', `${where} is not this member's any more; whoever has it reads on from the last commit.`, facts);
    };
  }

  /** The group's commits of these partitions, and where there is none what the options say. Rejects with OFFSET_OUT_OF_RANGE where they say "fail". */
  async start(
    partitions: readonly TopicPartition[],
    committedOf: (tps: readonly TopicPartition[]) => Promise<readonly CommitOffset[]>,
    offsetsAt: (tps: readonly TopicPartition[], target: 'beginning' | 'end') => Promise<readonly CommitOffset[]>,
  ): Promise<readonly CommitOffset[]> {
    const { group, startAt } = this.#options;
    const committed = await committedOf(partitions);
    const without = partitions.filter((tp) => !committed.some((c) => partitionKey(c) === partitionKey(tp)));
    const [first] = without;
    if (first === undefined) return committed;
    if (startAt === 'fail')
      throw new TurnpikeError('OFFSET_OUT_OF_RANGE', `${partitionKey(first)}: ${group} has no committed offset and consumer.startAt is "fail".`, {
        ...first,
        group,
      });
    return [...committed, ...(await offsetsAt(without, startAt === 'latest' ? 'end' : 'beginning'))];
  }

  /** Looks offsets up until there are some, for those of these assignments (and no later ones of the same partitions) that have none and are not sought meanwhile. */
  async find(
    positions: readonly P[],
    look: (tps: readonly TopicPartition[]) => Promise<readonly CommitOffset[]>,
    { found, failed }: { found(position: P, at: CommitOffset): void; failed(error: TurnpikeError): void },
  ): Promise<void> {
    const { logger, clock } = this.#context;
    const { group } = this.#options;
    const seeks = new Map(positions.map((p) => [p, p.seeks]));
    const waits = (p: P) => this.holds(p) && p.offset === undefined && p.seeks === seeks.get(p);
    for (let asked = positions.filter(waits); !this.#closed.aborted && asked.length > 0; asked = asked.filter(waits)) {
      try {
        const offsets = new Map((await look(asked.map((p) => p.tp))).map((o) => [partitionKey(o), o]));
        for (const position of asked.filter(waits)) {
          const at = offsets.get(partitionKey(position.tp));
          if (at !== undefined) found(position, at);
        }
        // The leader of the others can't be asked at the moment.
        if (asked.some(waits)) await pause(clock, RETRY_MS, this.#closed);
      } catch (error) {
        const ours = asTurnpikeError(error, 'INTERNAL', `${group}: its offsets could not be read.`, { group });
        if (this.#closed.aborted) return;
        if (!ours.retriable) return failed(ours);
        logger.debug('consumer.offsets_unavailable', { group, message: ours.message });
        await pause(clock, RETRY_MS, this.#closed);
      }
    }
  }

  #empty(position: P): void {
    this.queuedBytes -= position.queuedBytes;
    position.queued = [];
    position.queuedBytes = 0;
  }
}
