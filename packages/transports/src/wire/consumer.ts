import type { TurnpikeError } from '@turnpike/core';
import type {
  AssignmentListener,
  CommitOffset,
  CompiledConsumerOptions,
  ConsumerPort,
  FetchedBatch,
  LinkContext,
  SeekTarget,
  TopicPartition,
} from '@turnpike/core/spi';
import { ClassicMembership } from './classic-group.ts';
import type { Connections } from './connections.ts';
import { ConsumerMembership } from './consumer-group.ts';
import { Coordinator, type GroupMember } from './coordinator.ts';
import { isKafkaError } from './errors.ts';
import { Fetcher, type FetchPosition, newFetchPosition } from './fetcher.ts';
import type { Membership } from './membership.ts';
import type { Metadata } from './metadata.ts';
import { listOffsets, offsetsAtHand } from './offsets.ts';
import { ReadAhead } from './read-ahead.ts';

/** A group member: its membership, where it reads, and what it commits. Fetching is the Fetcher's. */
export class WireConsumer implements ConsumerPort {
  readonly group: string;
  readonly #context: LinkContext;
  readonly #metadata: Metadata;
  readonly #connections: Connections;
  readonly #options: CompiledConsumerOptions;
  readonly #coordinator: Coordinator;
  readonly #onClosed: () => void;
  readonly #ahead: ReadAhead<FetchPosition>;
  readonly #fetcher: Fetcher;
  readonly #stop = new AbortController();
  #listener: AssignmentListener | undefined;
  #membership: Membership | undefined;
  /** What a poll rejects with: the fetch gate's refusal. */
  #refusal: TurnpikeError | undefined;
  #refreshed: Disposable | undefined;
  #closing: Promise<void> | undefined;

  constructor(context: LinkContext, metadata: Metadata, connections: Connections, options: CompiledConsumerOptions, onClosed: () => void) {
    this.group = options.group;
    this.#onClosed = onClosed;
    this.#context = context;
    this.#metadata = metadata;
    this.#connections = connections;
    this.#options = options;
    this.#ahead = new ReadAhead(context, options, this.#stop.signal);
    this.#coordinator = new Coordinator(options.group, context, metadata, connections);
    this.#fetcher = new Fetcher({
      context,
      metadata,
      connections,
      options,
      ahead: this.#ahead,
      closed: this.#stop.signal,
      reset: (position, target) =>
        void this.#find(
          [position],
          (tps) => offsetsAtHand(this.#offsetsParts(), tps, target),
          (failure) => this.#fail(failure),
        ),
      failed: (error) => this.#fail(error),
    });
  }

  get isMember(): boolean {
    return this.#membership !== undefined;
  }

  /** Who commits these offsets, asked before each try. The answer throws MEMBERSHIP_LOST. */
  committer(offsets: readonly CommitOffset[]): () => GroupMember {
    return this.#ahead.committer(offsets, this.#membership);
  }

  owns(tp: TopicPartition): boolean {
    return this.#membership?.owns(tp) ?? false;
  }

  async subscribe(topics: readonly string[], listener: AssignmentListener): Promise<void> {
    const { requestTimeoutMs } = this.#options;
    this.#listener = listener;
    await this.#metadata.require(topics);
    // Asked first: it tells a refused group, and a cluster whose coordinator isn't ready yet, before a member exists.
    await this.#coordinator.committed([], requestTimeoutMs);
    this.#refreshed = this.#metadata.onRefresh(() => this.#fetcher.ensureLoops());
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
    position.epoch = -1;
    this.#fetcher.ensureLoops();
    this.#ahead.changes.tell();
  }

  waiting(bytes: number): void {
    this.#fetcher.backlog = bytes;
  }

  async commit(offsets: readonly CommitOffset[]): Promise<void> {
    const member = this.committer(offsets);
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
      await this.#fetcher.ended();
      this.#onClosed();
    })();
    return this.#closing;
  }

  #assigned(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) this.#ahead.add(newFetchPosition(tp));
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
          (of, target) => offsetsAtHand(this.#offsetsParts(), of, target),
        ),
      (error) => this.#listener?.failed(error),
    );
  }

  #find(
    positions: readonly FetchPosition[],
    look: (tps: readonly TopicPartition[]) => Promise<readonly CommitOffset[]>,
    failed: (error: TurnpikeError) => void,
  ): Promise<void> {
    const found = (position: FetchPosition, { offset, leaderEpoch = -1 }: CommitOffset) => {
      position.offset = offset;
      position.epoch = leaderEpoch;
      this.#fetcher.ensureLoops();
      this.#ahead.changes.tell();
    };
    return this.#ahead.find(positions, look, { found, failed });
  }

  #drop(partitions: readonly TopicPartition[]): void {
    for (const position of this.#ahead.of(partitions)) position.version++;
    this.#ahead.drop(partitions);
  }

  /** What was read ahead of a position that is no longer the one. */
  #forget(position: FetchPosition): void {
    position.version++;
    this.#ahead.forget(position);
  }

  #take(): readonly FetchedBatch[] {
    if (this.#refusal) throw this.#refusal;
    const batches = this.#ahead.take();
    if (batches.length > 0) this.#ahead.changes.tell();
    return batches;
  }

  #fail(error: TurnpikeError): void {
    if (this.#stop.signal.aborted) return;
    this.#refusal ??= error;
    this.#listener?.failed(error);
    this.#ahead.changes.tell();
  }

  #listOffsets(partitions: readonly TopicPartition[], target: SeekTarget): Promise<readonly CommitOffset[]> {
    return listOffsets(this.#offsetsParts(), partitions, target, this.#options.requestTimeoutMs);
  }

  #offsetsParts(): Parameters<typeof listOffsets>[0] {
    return {
      context: this.#context,
      metadata: this.#metadata,
      connections: this.#connections,
      readCommitted: this.#options.isolation === 'read_committed',
    };
  }
}
