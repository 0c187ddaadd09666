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
import { ClassicMembership } from './classic-group.ts';
import type { Connections } from './connections.ts';
import { ConsumerMembership } from './consumer-group.ts';
import { Coordinator } from './coordinator.ts';
import { brokerError, isKafkaError } from './errors.ts';
import { type FetchedPartition, fetchApi } from './fetch.ts';
import type { Membership } from './membership.ts';
import type { Metadata } from './metadata.ts';
import { listOffsets } from './offsets.ts';
import { newPosition, type Position, ReadAhead } from './read-ahead.ts';
import { decodeBatches } from './record-batch.ts';

interface WirePosition extends Position {
  /** Raised by a seek: a fetch that was sent before it is thrown away. */
  version: number;
  fetching: boolean;
  /** Monotonic ms before which it is not asked for again: its leader has refused it. */
  notBeforeMs: number;
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
  readonly #ahead: ReadAhead<WirePosition>;
  readonly #loops = new Map<number, Promise<void>>();
  readonly #stop = new AbortController();
  #listener: AssignmentListener | undefined;
  #membership: Membership | undefined;
  /** What a poll rejects with: the fetch gate's refusal. */
  #refusal: TurnpikeError | undefined;
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
    this.#ahead = new ReadAhead(context, options, this.#stop.signal);
    this.#coordinator = new Coordinator(options.group, context, metadata, connections);
  }

  async subscribe(topics: readonly string[], listener: AssignmentListener): Promise<void> {
    const { requestTimeoutMs } = this.#options;
    this.#listener = listener;
    await this.#metadata.require(topics);
    // Asked first: it tells a refused group, and a cluster whose coordinator isn't ready yet, before a member exists.
    await this.#coordinator.committed([], requestTimeoutMs);
    this.#refreshed = this.#metadata.onRefresh(() => this.#ensureLoops());
    const Member = this.#options.groupProtocol === 'consumer' ? ConsumerMembership : ClassicMembership;
    this.#membership = new Member({
      context: this.#context,
      coordinator: this.#coordinator,
      metadata: this.#metadata,
      options: this.#options,
      topics,
      listener: {
        assigned: (tps) => this.#assigned(tps),
        revoking: (tps) => listener.revoking(tps),
        revoked: (tps) => this.#drop(tps),
        lost: (tps) => {
          this.#drop(tps);
          listener.lost(tps);
        },
        failed: (error) => listener.failed(error),
      },
    });
    await this.#membership.start();
  }

  poll(maxWaitMs: number, signal?: AbortSignal): Promise<readonly FetchedBatch[]> {
    return this.#ahead.changes.poll(() => this.#take(), maxWaitMs, { poller: signal, closed: this.#stop.signal });
  }

  pause(partitions: readonly TopicPartition[]): void {
    for (const position of this.#ahead.of(partitions)) position.paused = true;
  }

  resume(partitions: readonly TopicPartition[]): void {
    for (const position of this.#ahead.of(partitions)) position.paused = false;
    this.#ahead.changes.tell();
  }

  async seek(tp: TopicPartition, target: SeekTarget): Promise<void> {
    const { position, isLast } = this.#ahead.seeking(tp);
    const [found] = await this.#listOffsets([tp], target);
    // A later seek wins; and until the target is known all stays as it was, so that a seek that fails skips nothing.
    if (!isLast()) return;
    this.#forget(position);
    position.offset = found?.offset;
    this.#ensureLoops();
    this.#ahead.changes.tell();
  }

  async commit(offsets: readonly CommitOffset[]): Promise<void> {
    const member = this.#ahead.committer(offsets, this.#membership);
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
      this.#ahead.changes.tell();
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
    for (const tp of partitions) this.#ahead.add({ ...newPosition(tp), version: 0, fetching: false, notBeforeMs: 0 });
    this.#listener?.assigned(partitions);
    // A seek that came first has its own way to a position.
    const positions = this.#ahead.of(partitions).filter((p) => p.seeks === 0);
    const { requestTimeoutMs } = this.#options;
    void this.#find(
      positions,
      (tps) =>
        this.#ahead.start(
          tps,
          (of) => this.#coordinator.committed(of, requestTimeoutMs, () => this.#membership?.member()),
          (of, target) => this.#listOffsets(of, target),
        ),
      (error) => this.#listener?.failed(error),
    );
  }

  #find(
    positions: readonly WirePosition[],
    look: (tps: readonly TopicPartition[]) => Promise<readonly CommitOffset[]>,
    failed: (error: TurnpikeError) => void,
  ): Promise<void> {
    const found = (position: WirePosition, offset: bigint) => {
      position.offset = offset;
      this.#ensureLoops();
      this.#ahead.changes.tell();
    };
    return this.#ahead.find(positions, look, { found, failed });
  }

  #drop(partitions: readonly TopicPartition[]): void {
    for (const position of this.#ahead.of(partitions)) position.version++;
    this.#ahead.drop(partitions);
  }

  /** What was read ahead of a position that is no longer the one. */
  #forget(position: WirePosition): void {
    position.version++;
    this.#ahead.forget(position);
  }

  #take(): readonly FetchedBatch[] {
    if (this.#refusal) throw this.#refusal;
    const batches = this.#ahead.take();
    if (batches.length > 0) this.#ahead.changes.tell();
    return batches;
  }

  /** A loop for each broker that leads one of our partitions; it ends when it leads none. */
  #ensureLoops(): void {
    let leaderless = false;
    for (const { tp } of this.#ahead.all()) {
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
      this.#ahead.changes.tell();
    })();
  }

  async #fetchFrom(leader: number): Promise<void> {
    const { clock, logger } = this.#context;
    while (!this.#stop.signal.aborted) {
      const led = [...this.#ahead.all()].filter(({ tp }) => this.#metadata.leader(tp.topic, tp.partition) === leader);
      if (led.length === 0) {
        this.#loops.delete(leader); // At once: the next assignment may come before this function's end is seen.
        this.#ensureLoops();
        return;
      }
      try {
        const { due, waitMs } = this.#due(led);
        if (due.length === 0) await this.#ahead.changes.within(waitMs, this.#stop.signal);
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
  #due(led: readonly WirePosition[]): { readonly due: readonly WirePosition[]; readonly waitMs: number } {
    const { group, maxPrefetchBytes, maxPartitionFetchBytes } = this.#options;
    const now = this.#context.clock.monotonic();
    const due: WirePosition[] = [];
    let waitMs = this.#options.requestTimeoutMs;
    if (this.#ahead.queuedBytes >= maxPrefetchBytes) return { due, waitMs };
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

  async #fetch(leader: number, due: readonly WirePosition[]): Promise<void> {
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
            maxBytes: Math.max(1, Math.min(maxFetchBytes, maxPrefetchBytes - this.#ahead.queuedBytes)),
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

  #arrived(position: WirePosition, fetchOffset: bigint, fetched: FetchedPartition, fetchedAtMs: number): void {
    const { topic, partition } = position.tp;
    const bytes = fetched.records.length;
    if (bytes === 0) return;
    const aborted = this.#options.isolation === 'read_committed' ? fetched.aborted : [];
    const { records, nextOffset } = decodeBatches(fetched.records, { topic, partition, fetchOffset }, aborted);
    if (nextOffset === undefined) return;
    this.#context.fetchGate.charge(topic, this.#options.group, records.length, bytes);
    position.offset = nextOffset;
    this.#ahead.push(position, { topic, partition, records, nextOffset, highWatermark: fetched.highWatermark, bytes, fetchedAtMs });
    this.#ahead.changes.tell();
  }

  /** An error for one partition: it is left out for a while, the others of its broker go on. */
  #refused(position: WirePosition, { errorCode }: FetchedPartition): void {
    const { topic, partition } = position.tp;
    const { group } = this.#options;
    const { clock, logger } = this.#context;
    const error = brokerError(errorCode, { doing: `consume ${topic}`, topic, partition, group, principal: this.#context.identity.principal });
    if (error.code === 'OFFSET_OUT_OF_RANGE' && this.#options.startAt !== 'fail') {
      const target = this.#options.startAt === 'latest' ? 'end' : 'beginning';
      logger.warn('consumer.offset_reset', { topic, partition, group, from: String(position.offset), to: target });
      // What was fetched before is still delivered: by now it may be nowhere else.
      position.offset = undefined;
      void this.#find(
        [position],
        (tps) => this.#listOffsets(tps, target),
        (failure) => this.#fail(failure),
      );
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

  #fail(error: TurnpikeError): void {
    if (this.#stop.signal.aborted) return;
    this.#refusal ??= error;
    this.#listener?.failed(error);
    this.#ahead.changes.tell();
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
}
