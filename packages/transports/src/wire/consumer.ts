import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import {
  type AssignmentListener,
  type CommitOffset,
  type CompiledConsumerOptions,
  type ConsumerPort,
  type FetchedBatch,
  type LinkContext,
  pause,
  type SeekTarget,
  type TopicPartition,
} from '@turnpike/core/spi';
import { partitionKey } from './assignor.ts';
import type { Connections } from './connections.ts';
import { Coordinator } from './coordinator.ts';
import { brokerError, isKafkaError } from './errors.ts';
import { type FetchedPartition, fetchApi } from './fetch.ts';
import { Membership } from './membership.ts';
import type { Metadata } from './metadata.ts';
import { listOffsets } from './offsets.ts';
import { decodeBatches } from './record-batch.ts';

/** One assigned partition, from its assignment to its revocation. */
interface Position {
  readonly tp: TopicPartition;
  /** Where the next fetch begins; undefined = not known yet. */
  offset: bigint | undefined;
  /** Raised by a seek: a fetch that was sent before it is thrown away. */
  version: number;
  /** How often it was sought. */
  seeks: number;
  paused: boolean;
  fetching: boolean;
  /** Monotonic ms before which it is not asked for again: its leader has refused it. */
  notBeforeMs: number;
  queued: FetchedBatch[];
  queuedBytes: number;
}

const RETRY_MS = 200;
/** How long until fresh metadata is asked for where a partition has no leader, or one that refuses it, in ms. */
const LEADER_RETRY_MS = { first: 100, most: 1_000 };

/** A group member's fetches: one loop for each broker that leads partitions of ours, each with a bounded amount read ahead. */
export class WireConsumer implements ConsumerPort {
  readonly #context: LinkContext;
  readonly #metadata: Metadata;
  readonly #connections: Connections;
  readonly #options: CompiledConsumerOptions;
  readonly #coordinator: Coordinator;
  readonly #onClosed: () => void;
  readonly #positions = new Map<string, Position>();
  readonly #loops = new Map<number, Promise<void>>();
  readonly #stop = new AbortController();
  #listener: AssignmentListener | undefined;
  #membership: Membership | undefined;
  #queuedBytes = 0;
  /** What a poll rejects with: the fetch gate's refusal. */
  #refusal: TurnpikeError | undefined;
  /** Polls that wait for records, and loops that wait for room or partitions. */
  readonly #waiters = new Set<() => void>();
  /** Where the next fetch begins among the partitions of its broker: an answer has room for some, and those must not always be the same. */
  #turn = 0;
  #looking: Promise<void> | undefined;
  #lookAfterMs = LEADER_RETRY_MS.first;
  #refreshed: Disposable | undefined;
  #closing: Promise<void> | undefined;

  constructor(context: LinkContext, metadata: Metadata, connections: Connections, options: CompiledConsumerOptions, onClosed: () => void) {
    this.#onClosed = onClosed;
    this.#context = context;
    this.#metadata = metadata;
    this.#connections = connections;
    this.#options = options;
    this.#coordinator = new Coordinator(options.group, context, metadata, connections);
  }

  async subscribe(topics: readonly string[], listener: AssignmentListener): Promise<void> {
    const { requestTimeoutMs } = this.#options;
    this.#listener = listener;
    await this.#metadata.require(topics);
    // Asked first: it tells a refused group, and a cluster whose coordinator isn't ready yet, before a member exists.
    await this.#coordinator.committed([], requestTimeoutMs);
    this.#refreshed = this.#metadata.onRefresh(() => this.#ensureLoops());
    this.#membership = new Membership({
      context: this.#context,
      coordinator: this.#coordinator,
      metadata: this.#metadata,
      options: this.#options,
      topics,
      listener: {
        assigned: (tps) => this.#assigned(tps),
        revoking: async (tps) => {
          await listener.revoking(tps);
          this.#drop(tps);
        },
        lost: (tps) => {
          this.#drop(tps);
          listener.lost(tps);
        },
        failed: (error) => listener.failed(error),
      },
    });
    await this.#membership.start();
  }

  async poll(maxWaitMs: number, signal?: AbortSignal): Promise<readonly FetchedBatch[]> {
    const { clock } = this.#context;
    const until = clock.monotonic() + maxWaitMs;
    for (;;) {
      if (this.#refusal) throw this.#refusal;
      const batches = this.#takeQueued();
      const leftMs = until - clock.monotonic();
      if (batches.length > 0 || leftMs <= 0 || signal?.aborted || this.#stop.signal.aborted) return batches;
      await this.#changeWithin(leftMs, signal);
    }
  }

  pause(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) {
      const position = this.#positions.get(partitionKey(tp));
      if (position) position.paused = true;
    }
  }

  resume(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) {
      const position = this.#positions.get(partitionKey(tp));
      if (position) position.paused = false;
    }
    this.#wake();
  }

  async seek(tp: TopicPartition, target: SeekTarget): Promise<void> {
    const position = this.#positions.get(partitionKey(tp));
    if (!position)
      throw new TurnpikeError('MEMBERSHIP_LOST', `${partitionKey(tp)} is not assigned to this member; seek after it was.`, {
        ...tp,
        group: this.#options.group,
      });
    const ticket = ++position.seeks;
    const [found] = await this.#listOffsets([tp], target);
    // A later seek wins; and until the target is known all stays as it was, so that a seek that fails skips nothing.
    if (position.seeks !== ticket || this.#positions.get(partitionKey(tp)) !== position) return;
    this.#forget(position);
    position.offset = found?.offset;
    this.#ensureLoops();
    this.#wake();
  }

  async commit(offsets: readonly CommitOffset[]): Promise<void> {
    const membership = this.#membership;
    const held = offsets.map((o) => this.#positions.get(partitionKey(o)));
    // Asked before each try. A partition that was lost and has come back is another's progress by now: what was handled before must not be put in its place.
    const member = () => {
      const gone = offsets.find((o, i) => held[i] === undefined || held[i] !== this.#positions.get(partitionKey(o)) || !membership?.owns(o));
      if (gone === undefined && membership) return membership.member();
      const { group } = this.#options;
      const where = gone === undefined ? `${group}` : `${group}: ${partitionKey(gone)}`;
      const text = `${where} is not this member's any more; whoever has it reads on from the last commit.`;
      throw new TurnpikeError('MEMBERSHIP_LOST', text, gone === undefined ? { group } : { group, topic: gone.topic, partition: gone.partition });
    };
    const sent = member().generation;
    try {
      await this.#coordinator.commit(offsets, member, this.#options.requestTimeoutMs);
    } catch (error) {
      // The group went on to a new generation while the request was under way; whether these partitions are still ours, member() tells.
      if (!isKafkaError(error as TurnpikeError, 'ILLEGAL_GENERATION') || member().generation <= sent) throw error;
      await this.#coordinator.commit(offsets, member, this.#options.requestTimeoutMs);
    }
  }

  committed(partitions: readonly TopicPartition[]): Promise<readonly CommitOffset[]> {
    return this.#coordinator.committed(partitions, this.#options.requestTimeoutMs);
  }

  endOffsets(partitions: readonly TopicPartition[]): Promise<readonly CommitOffset[]> {
    return this.#listOffsets(partitions, 'end');
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= (async () => {
      this.#stop.abort();
      this.#wake();
      this.#refreshed?.[Symbol.dispose]();
      await this.#membership?.leave();
      await this.#connections[Symbol.asyncDispose](); // Ends the fetches and the join that wait at a broker.
      await this.#membership?.ended();
      await Promise.all([...this.#loops.values(), this.#looking]);
      this.#onClosed();
    })();
    return this.#closing;
  }

  #assigned(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions)
      this.#positions.set(partitionKey(tp), {
        tp,
        offset: undefined,
        version: 0,
        seeks: 0,
        paused: false,
        fetching: false,
        notBeforeMs: 0,
        queued: [],
        queuedBytes: 0,
      });
    this.#listener?.assigned(partitions);
    void this.#findPositions(partitions);
  }

  /** From the group's commits, else from where the options say. */
  async #findPositions(partitions: readonly TopicPartition[]): Promise<void> {
    const { group, requestTimeoutMs } = this.#options;
    const { logger, clock } = this.#context;
    // These assignments and no later ones of the same partitions: an answer that comes late is not for those.
    const positions = partitions.flatMap((tp) => this.#positions.get(partitionKey(tp)) ?? []);
    // A seek that came first has its own way to a position.
    const waits = (p: Position) => this.#positions.get(partitionKey(p.tp)) === p && p.offset === undefined && p.seeks === 0;
    for (let asked = positions.filter(waits); !this.#stop.signal.aborted && asked.length > 0; asked = positions.filter(waits)) {
      try {
        const tps = asked.map((p) => p.tp);
        const committed = await this.#coordinator.committed(tps, requestTimeoutMs);
        const without = tps.filter((tp) => !committed.some((c) => partitionKey(c) === partitionKey(tp)));
        const [first] = without;
        if (first && this.#options.startAt === 'fail')
          throw new TurnpikeError('OFFSET_OUT_OF_RANGE', `${partitionKey(first)}: ${group} has no committed offset and consumer.startAt is "fail".`, {
            ...first,
            group,
          });
        const started = without.length === 0 ? [] : await this.#listOffsets(without, this.#options.startAt === 'latest' ? 'end' : 'beginning');
        const found = new Map([...committed, ...started].map((o) => [partitionKey(o), o.offset]));
        for (const position of asked.filter(waits)) position.offset = found.get(partitionKey(position.tp));
        this.#ensureLoops();
        this.#wake();
      } catch (error) {
        const ours = asTurnpikeError(error, 'INTERNAL', `${group}: its offsets could not be read.`, { group });
        if (this.#stop.signal.aborted) return;
        if (!ours.retriable) return this.#listener?.failed(ours);
        logger.debug('consumer.offsets_unavailable', { group, message: ours.message });
        await pause(clock, RETRY_MS, this.#stop.signal);
      }
    }
  }

  #drop(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) {
      const position = this.#positions.get(partitionKey(tp));
      if (position) this.#forget(position);
      this.#positions.delete(partitionKey(tp));
    }
  }

  /** What was read ahead of a position that is no longer the one. */
  #forget(position: Position): void {
    position.version++;
    this.#queuedBytes -= position.queuedBytes;
    position.queued = [];
    position.queuedBytes = 0;
    this.#wake();
  }

  #takeQueued(): readonly FetchedBatch[] {
    const batches: FetchedBatch[] = [];
    for (const position of this.#positions.values()) {
      if (position.paused || position.queued.length === 0) continue;
      batches.push(...position.queued);
      this.#queuedBytes -= position.queuedBytes;
      position.queued = [];
      position.queuedBytes = 0;
    }
    if (batches.length > 0) this.#wake();
    return batches;
  }

  /** A loop for each broker that leads one of our partitions; it ends when it leads none. */
  #ensureLoops(): void {
    let leaderless = false;
    for (const { tp } of this.#positions.values()) {
      const leader = this.#metadata.leader(tp.topic, tp.partition);
      if (leader < 0) leaderless = true;
      if (leader < 0 || this.#loops.has(leader) || this.#stop.signal.aborted) continue;
      this.#loops.set(leader, this.#fetchFrom(leader));
    }
    if (leaderless) this.#lookForLeaders();
    else this.#lookAfterMs = LEADER_RETRY_MS.first;
  }

  /** No loop asks for a partition without a leader, so no error of it would refresh the metadata. */
  #lookForLeaders(): void {
    if (this.#looking || this.#stop.signal.aborted) return;
    this.#looking = (async () => {
      await pause(this.#context.clock, this.#lookAfterMs, this.#stop.signal);
      this.#lookAfterMs = Math.min(this.#lookAfterMs * 2, LEADER_RETRY_MS.most);
      if (!this.#stop.signal.aborted) await this.#metadata.refresh().catch(() => {});
      this.#looking = undefined;
      this.#ensureLoops();
      this.#wake();
    })();
  }

  async #fetchFrom(leader: number): Promise<void> {
    const { clock, logger } = this.#context;
    while (!this.#stop.signal.aborted) {
      const led = [...this.#positions.values()].filter(({ tp }) => this.#metadata.leader(tp.topic, tp.partition) === leader);
      if (led.length === 0) {
        this.#loops.delete(leader); // At once: the next assignment may come before this function's end is seen.
        this.#ensureLoops();
        return;
      }
      try {
        const { due, waitMs } = this.#due(led);
        if (due.length === 0) await this.#changeWithin(waitMs);
        else await this.#fetch(leader, due);
      } catch (error) {
        const ours = asTurnpikeError(error, 'INTERNAL', 'fetching failed.');
        if (this.#stop.signal.aborted) return;
        if (!ours.retriable) return this.#fail(ours);
        logger.debug('consumer.fetch_failed', { broker: leader, message: ours.message });
        await pause(clock, RETRY_MS, this.#stop.signal);
        await this.#metadata.refresh().catch(() => {});
        this.#ensureLoops();
      }
    }
  }

  /** The partitions to ask for now, and how long to wait where there are none: no permit, no fetch. */
  #due(led: readonly Position[]): { readonly due: readonly Position[]; readonly waitMs: number } {
    const { group, maxPrefetchBytes, maxPartitionFetchBytes } = this.#options;
    const now = this.#context.clock.monotonic();
    const due: Position[] = [];
    let waitMs = this.#options.requestTimeoutMs;
    if (this.#queuedBytes >= maxPrefetchBytes) return { due, waitMs };
    for (const position of led) {
      if (position.offset === undefined || position.paused || position.fetching || position.queuedBytes >= maxPartitionFetchBytes) continue;
      const heldMs = Math.max(position.notBeforeMs - now, this.#context.fetchGate.permit(position.tp.topic, group));
      if (heldMs > 0) waitMs = Math.min(waitMs, heldMs);
      else due.push(position);
    }
    if (due.length < 2) return { due, waitMs };
    const from = this.#turn++ % due.length;
    return { due: [...due.slice(from), ...due.slice(0, from)], waitMs };
  }

  async #fetch(leader: number, due: readonly Position[]): Promise<void> {
    const { clock, events } = this.#context;
    const { group, fetchWaitMs, maxFetchBytes, maxPrefetchBytes, maxPartitionFetchBytes, isolation } = this.#options;
    const broker = this.#metadata.broker(leader);
    if (!broker) throw new TurnpikeError('BROKER_UNAVAILABLE', `The broker ${leader} is not known at the moment.`, { retriable: true });
    const asked = due.map((position) => ({ position, version: position.version, offset: position.offset as bigint }));
    const fetchedAtMs = clock.now();
    for (const { position } of asked) position.fetching = true;
    try {
      const response = await this.#connections.call(
        broker,
        'fetch',
        fetchApi,
        [
          {
            maxWaitMs: fetchWaitMs,
            maxBytes: Math.max(1, Math.min(maxFetchBytes, maxPrefetchBytes - this.#queuedBytes)),
            maxPartitionBytes: maxPartitionFetchBytes,
            readCommitted: isolation === 'read_committed',
            partitions: asked.map(({ position, offset }) => ({ topic: position.tp.topic, partition: position.tp.partition, offset })),
          },
        ],
        { doing: 'fetch', group },
      );
      if (response.errorCode !== 0) throw brokerError(response.errorCode, { doing: 'fetch', group });
      for (const fetched of response.partitions) {
        const question = asked.find(({ position: { tp } }) => tp.topic === fetched.topic && tp.partition === fetched.partition);
        if (!question || question.position.version !== question.version) continue;
        if (fetched.errorCode === 0) this.#arrived(question.position, question.offset, fetched, fetchedAtMs);
        else this.#refused(question.position, fetched);
      }
      if (response.throttleTimeMs > 0) {
        events.throttled(leader, response.throttleTimeMs);
        // The broker hears nothing from this connection meanwhile (KIP-219): a request would only run into its timeout.
        await pause(clock, response.throttleTimeMs, this.#stop.signal);
      }
    } finally {
      for (const { position } of asked) position.fetching = false;
    }
  }

  #arrived(position: Position, fetchOffset: bigint, fetched: FetchedPartition, fetchedAtMs: number): void {
    const { topic, partition } = position.tp;
    const bytes = fetched.records.length;
    if (bytes === 0) return;
    const aborted = this.#options.isolation === 'read_committed' ? fetched.aborted : [];
    const { records, nextOffset } = decodeBatches(fetched.records, { topic, partition, fetchOffset }, aborted);
    if (nextOffset === undefined) return;
    this.#context.fetchGate.charge(topic, this.#options.group, records.length, bytes);
    position.offset = nextOffset;
    position.queued.push({ topic, partition, records, nextOffset, highWatermark: fetched.highWatermark, bytes, fetchedAtMs });
    position.queuedBytes += bytes;
    this.#queuedBytes += bytes;
    this.#wake();
  }

  /** An error for one partition: it is left out for a while, the others of its broker go on. */
  #refused(position: Position, { errorCode }: FetchedPartition): void {
    const { topic, partition } = position.tp;
    const { group } = this.#options;
    const { clock, logger } = this.#context;
    const error = brokerError(errorCode, { doing: `consume ${topic}`, topic, partition, group, principal: this.#context.identity.principal });
    if (error.code === 'OFFSET_OUT_OF_RANGE' && this.#options.startAt !== 'fail') {
      const target = this.#options.startAt === 'latest' ? 'end' : 'beginning';
      logger.warn('consumer.offset_reset', { topic, partition, group, from: String(position.offset), to: target });
      void this.#reset(position, target);
      return;
    }
    if (!error.retriable) {
      this.#fail(error);
      return;
    }
    logger.debug('consumer.partition_unavailable', { topic, partition, group, message: error.message });
    position.notBeforeMs = clock.monotonic() + RETRY_MS;
    // Most such errors mean that its leader is another, or that it is gone.
    this.#lookForLeaders();
  }

  /** What was fetched before is still delivered: by now it may be nowhere else. */
  async #reset(position: Position, target: SeekTarget): Promise<void> {
    const { seeks } = position;
    position.offset = undefined;
    while (!this.#stop.signal.aborted && this.#positions.get(partitionKey(position.tp)) === position && position.seeks === seeks) {
      try {
        const [found] = await this.#listOffsets([position.tp], target);
        if (position.seeks !== seeks) return;
        position.offset = found?.offset;
        this.#ensureLoops();
        this.#wake();
        return;
      } catch (error) {
        const ours = asTurnpikeError(error, 'INTERNAL', `${partitionKey(position.tp)}: its offsets could not be read.`, position.tp);
        if (!ours.retriable) {
          this.#fail(ours);
          return;
        }
        await pause(this.#context.clock, RETRY_MS, this.#stop.signal);
      }
    }
  }

  #fail(error: TurnpikeError): void {
    if (this.#stop.signal.aborted) return;
    this.#refusal ??= error;
    this.#listener?.failed(error);
    this.#wake();
  }

  #listOffsets(partitions: readonly TopicPartition[], target: SeekTarget): Promise<readonly CommitOffset[]> {
    const parts = {
      context: this.#context,
      metadata: this.#metadata,
      connections: this.#connections,
      readCommitted: this.#options.isolation === 'read_committed',
    };
    return listOffsets(parts, partitions, target, this.#options.requestTimeoutMs);
  }

  #wake(): void {
    for (const wake of this.#waiters) wake();
  }

  /** Listeners and not a race of promises: a wait that ends leaves nothing behind, however seldom something changes. */
  #changeWithin(ms: number, signal: AbortSignal = this.#stop.signal): Promise<void> {
    if (signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        timer[Symbol.dispose]();
        this.#waiters.delete(done);
        signal.removeEventListener('abort', done);
        resolve();
      };
      const timer = this.#context.clock.after(ms, done, { holds: true });
      this.#waiters.add(done);
      signal.addEventListener('abort', done);
    });
  }
}
