import { asTurnpikeError, type TurnpikeError } from '@turnpike/core';
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
import { decodeBatches } from '../wire/batch-reader.ts';
import { Connections } from '../wire/connections.ts';
import type { Control } from '../wire/control.ts';
import { Coordinator } from '../wire/coordinator.ts';
import { brokerError } from '../wire/errors.ts';
import { newPosition, type Position, ReadAhead } from '../wire/read-ahead.ts';
import type { LibraryFetch } from './answers.ts';
import type { LibraryModule } from './library.ts';
import { GroupMember, type MemberListener } from './member.ts';

interface KafkajsPosition extends Position {
  /** Whether kafkajs may fetch it. */
  flowing: boolean;
}

export interface ConsumerParts {
  readonly library: LibraryModule;
  readonly context: LinkContext;
  readonly control: Control;
  readonly addresses: () => readonly string[];
  readonly brokerAt: (host: string, port: number) => number | undefined;
  readonly options: CompiledConsumerOptions;
  readonly metadataMaxAgeMs: number;
  readonly onClosed: () => void;
}

/** What kafkajs pushes, to be pulled: a bounded amount read ahead, and positions of our own. kafkajs is told where each partition begins, and fetches none of which enough waits or for which the gate has no permit. Committing, and
 *  looking up offsets, is not its business: it says too little about how that went. */
export class KafkajsConsumer implements ConsumerPort, MemberListener {
  readonly #parts: ConsumerParts;
  readonly #context: LinkContext;
  readonly #options: CompiledConsumerOptions;
  readonly #connections: Connections;
  readonly #coordinator: Coordinator;
  readonly #ahead: ReadAhead<KafkajsPosition>;
  readonly #stop = new AbortController();
  #listener: AssignmentListener | undefined;
  #member: GroupMember | undefined;
  /** What a poll rejects with. */
  #refusal: TurnpikeError | undefined;
  #permitted: Disposable | undefined;
  #closing: Promise<void> | undefined;

  constructor(parts: ConsumerParts) {
    this.#parts = parts;
    this.#context = parts.context;
    this.#options = parts.options;
    this.#ahead = new ReadAhead(parts.context, parts.options, this.#stop.signal);
    this.#connections = new Connections(parts.context, () => parts.options.requestTimeoutMs);
    this.#coordinator = new Coordinator(parts.options.group, parts.context, parts.control.metadata, this.#connections);
  }

  async subscribe(topics: readonly string[], listener: AssignmentListener): Promise<void> {
    const { control } = this.#parts;
    this.#listener = listener;
    await control.metadata.require(topics);
    // kafkajs calls a denied group one without a coordinator.
    await control.requireGroup(this.#options.group);
    if (this.#stop.signal.aborted) return;
    this.#member = new GroupMember({ ...this.#parts, coordinator: this.#coordinator, topics, listener: this });
    await this.#member.start();
  }

  poll(maxWaitMs: number, signal?: AbortSignal): Promise<readonly FetchedBatch[]> {
    return this.#ahead.changes.poll(() => this.#take(), maxWaitMs, { poller: signal, closed: this.#stop.signal });
  }

  pause(partitions: readonly TopicPartition[]): void {
    for (const position of this.#ahead.of(partitions)) position.paused = true;
    this.#regulate();
  }

  resume(partitions: readonly TopicPartition[]): void {
    for (const position of this.#ahead.of(partitions)) position.paused = false;
    this.#regulate();
    this.#ahead.changes.tell();
  }

  async seek(tp: TopicPartition, target: SeekTarget): Promise<void> {
    const { position, isLast } = this.#ahead.seeking(tp);
    const [found] = await this.#listOffsets([tp], target);
    // A later seek wins; and until the target is known all stays as it was, so that a seek that fails skips nothing.
    if (!isLast() || !found) return;
    this.#ahead.forget(position);
    this.#moveTo(position, found.offset);
  }

  async commit(offsets: readonly CommitOffset[]): Promise<void> {
    const member = this.#ahead.committer(offsets, this.#member);
    await this.#coordinator.commit(offsets, member, this.#options.requestTimeoutMs);
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
      this.#permitted?.[Symbol.dispose]();
      this.#ahead.changes.tell();
      await this.#member?.leave();
      await this.#connections[Symbol.asyncDispose]();
      this.#parts.onClosed();
    })();
    return this.#closing;
  }

  assigned(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) {
      this.#ahead.add({ ...newPosition(tp), flowing: false });
      this.#member?.pause(tp); // Until it is known where it begins.
    }
    this.#listener?.assigned(partitions);
    // A seek that came first has its own way to a position.
    const positions = this.#ahead.of(partitions).filter((p) => p.seeks === 0);
    void this.#find(positions, (tps) =>
      this.#ahead.start(
        tps,
        (of) => this.committed(of),
        (of, target) => this.#listOffsets(of, target),
      ),
    );
  }

  async revoking(partitions: readonly TopicPartition[]): Promise<void> {
    await this.#listener?.revoking(partitions);
    this.#drop(partitions);
  }

  lost(partitions: readonly TopicPartition[]): void {
    this.#drop(partitions);
    this.#listener?.lost(partitions);
  }

  failed(error: TurnpikeError): void {
    if (this.#stop.signal.aborted) return;
    this.#refusal ??= error;
    this.#listener?.failed(error);
    this.#ahead.changes.tell();
  }

  /** Records are decoded here, and not by kafkajs: of transactions that were aborted side by side it lets records through, or holds back committed ones; a key of four zeros
   *  is an abort to it; it keeps no order among headers; and one partition's error takes the records of all others with it. */
  fetched({ topic, partition, fetchOffset, errorCode, records: bytes, aborted, highWatermark }: LibraryFetch): void {
    const position = this.#ahead.at({ topic, partition });
    if (!position || position.offset !== fetchOffset) return; // Of before a seek.
    if (errorCode !== 0) {
      this.#refused(position, errorCode);
      return;
    }
    try {
      const { records, nextOffset } = decodeBatches(bytes, { topic, partition, fetchOffset }, this.#options.isolation === 'read_committed' ? aborted : []);
      if (nextOffset === undefined) return;
      this.#context.fetchGate.charge(topic, this.#options.group, records.length, bytes.length);
      const fetchedAtMs = this.#member?.startedFetchAtMs ?? 0;
      this.#ahead.push(position, { topic, partition, records, nextOffset, highWatermark, bytes: bytes.length, fetchedAtMs });
      this.#moveTo(position, nextOffset);
    } catch (error) {
      this.failed(asTurnpikeError(error, 'INTERNAL', `${topic}/${partition}: the broker's answer could not be read.`, { topic, partition }));
    }
  }

  /** What may pass kafkajs deals with: it asks for the leaders again. */
  #refused(position: KafkajsPosition, errorCode: number): void {
    const { group, startAt } = this.#options;
    const { topic } = position.tp;
    const { offset: from } = position;
    const error = brokerError(errorCode, { doing: `consume ${topic}`, ...position.tp, group, principal: this.#context.identity.principal });
    if (error.code !== 'OFFSET_OUT_OF_RANGE' || startAt === 'fail') {
      if (!error.retriable) this.failed(error);
      return;
    }
    this.#hold(position);
    const target = startAt === 'latest' ? 'end' : 'beginning';
    this.#context.logger.warn('consumer.offset_reset', { ...position.tp, group, from: String(from), to: target });
    void this.#find([position], (tps) => this.#listOffsets(tps, target));
  }

  #find(positions: readonly KafkajsPosition[], look: (tps: readonly TopicPartition[]) => Promise<readonly CommitOffset[]>): Promise<void> {
    return this.#ahead.find(positions, look, { found: (position, { offset }) => this.#moveTo(position, offset), failed: (error) => this.failed(error) });
  }

  #moveTo(position: KafkajsPosition, offset: bigint): void {
    position.offset = offset;
    this.#member?.seek(position.tp, offset);
    this.#regulate();
    this.#ahead.changes.tell();
  }

  #hold(position: KafkajsPosition): void {
    position.offset = undefined;
    position.flowing = false;
    this.#member?.pause(position.tp);
  }

  #drop(partitions: readonly TopicPartition[]): void {
    this.#ahead.drop(partitions);
    this.#regulate();
  }

  #take(): readonly FetchedBatch[] {
    if (this.#refusal) throw this.#refusal;
    const batches = this.#ahead.take();
    if (batches.length > 0) this.#regulate();
    return batches;
  }

  /** Tells kafkajs which partitions it may fetch: those that are not paused, of which not enough waits, and for which there is a permit. */
  #regulate(): void {
    const { group, maxPrefetchBytes, maxPartitionFetchBytes } = this.#options;
    const { clock, fetchGate } = this.#context;
    if (this.#stop.signal.aborted || this.#refusal) return;
    this.#permitted?.[Symbol.dispose]();
    let waitMs = Number.POSITIVE_INFINITY;
    try {
      for (const position of this.#ahead.all()) {
        const wanted =
          position.offset !== undefined && !position.paused && this.#ahead.queuedBytes < maxPrefetchBytes && position.queuedBytes < maxPartitionFetchBytes;
        const heldMs = wanted ? fetchGate.permit(position.tp.topic, group) : 0;
        if (heldMs > 0) waitMs = Math.min(waitMs, heldMs);
        const flowing = wanted && heldMs === 0;
        if (flowing === position.flowing) continue;
        position.flowing = flowing;
        if (flowing) this.#member?.resume(position.tp);
        else this.#member?.pause(position.tp);
      }
    } catch (error) {
      this.failed(asTurnpikeError(error, 'INTERNAL', `${group}: no permit to fetch.`, { group }));
      return;
    }
    if (waitMs < Number.POSITIVE_INFINITY) this.#permitted = clock.after(waitMs, () => this.#regulate());
  }

  #listOffsets(partitions: readonly TopicPartition[], target: SeekTarget): Promise<readonly CommitOffset[]> {
    return this.#parts.control.offsets(partitions, target, this.#options.isolation === 'read_committed', this.#options.requestTimeoutMs);
  }
}
