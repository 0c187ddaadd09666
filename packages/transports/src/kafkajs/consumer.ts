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
import { partitionKey } from '../wire/assignor.ts';
import { Connections } from '../wire/connections.ts';
import type { Control } from '../wire/control.ts';
import { Coordinator } from '../wire/coordinator.ts';
import { brokerError } from '../wire/errors.ts';
import { decodeBatches } from '../wire/record-batch.ts';
import type { LibraryFetch } from './answers.ts';
import type { LibraryModule } from './library.ts';
import { GroupMember, type MemberListener } from './member.ts';

/** One assigned partition, from its assignment to its revocation. */
interface Position {
  readonly tp: TopicPartition;
  /** Where the next fetch must begin; undefined = not known yet. */
  offset: bigint | undefined;
  /** How often it was sought. */
  seeks: number;
  paused: boolean;
  /** Whether kafkajs may fetch it. */
  flowing: boolean;
  queued: FetchedBatch[];
  queuedBytes: number;
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

const RETRY_MS = 200;

/** What kafkajs pushes, to be pulled: a bounded amount read ahead, and positions of our own. kafkajs is told where each partition begins, and fetches none of which enough waits or for which the gate has no permit. Committing, and
 *  looking up offsets, is not its business: it says too little about how that went. */
export class KafkajsConsumer implements ConsumerPort, MemberListener {
  readonly #parts: ConsumerParts;
  readonly #context: LinkContext;
  readonly #options: CompiledConsumerOptions;
  readonly #connections: Connections;
  readonly #coordinator: Coordinator;
  readonly #positions = new Map<string, Position>();
  readonly #stop = new AbortController();
  readonly #waiters = new Set<() => void>();
  #listener: AssignmentListener | undefined;
  #member: GroupMember | undefined;
  #queuedBytes = 0;
  /** What a poll rejects with. */
  #refusal: TurnpikeError | undefined;
  #permitted: Disposable | undefined;
  #closing: Promise<void> | undefined;

  constructor(parts: ConsumerParts) {
    this.#parts = parts;
    this.#context = parts.context;
    this.#options = parts.options;
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
    for (const position of this.#of(partitions)) position.paused = true;
    this.#regulate();
  }

  resume(partitions: readonly TopicPartition[]): void {
    for (const position of this.#of(partitions)) position.paused = false;
    this.#regulate();
    this.#wake();
  }

  async seek(tp: TopicPartition, target: SeekTarget): Promise<void> {
    const [position] = this.#of([tp]);
    if (!position)
      throw new TurnpikeError('MEMBERSHIP_LOST', `${partitionKey(tp)} is not assigned to this member; seek after it was.`, {
        ...tp,
        group: this.#options.group,
      });
    const ticket = ++position.seeks;
    const [found] = await this.#listOffsets([tp], target);
    // A later seek wins; and until the target is known all stays as it was, so that a seek that fails skips nothing.
    if (position.seeks !== ticket || this.#positions.get(partitionKey(tp)) !== position || !found) return;
    this.#forget(position);
    this.#moveTo(position, found.offset);
  }

  async commit(offsets: readonly CommitOffset[]): Promise<void> {
    const held = offsets.map((o) => this.#positions.get(partitionKey(o)));
    // Asked before each try. A partition that was lost and has come back is another's progress by now: what was handled before must not be put in its place.
    const member = () => {
      const gone = offsets.find((o, i) => held[i] === undefined || held[i] !== this.#positions.get(partitionKey(o)) || !this.#member?.owns(o));
      if (gone === undefined && this.#member) return this.#member.member();
      const { group } = this.#options;
      const where = gone === undefined ? group : `${group}: ${partitionKey(gone)}`;
      const facts = gone === undefined ? { group } : { group, topic: gone.topic, partition: gone.partition };
      throw new TurnpikeError('MEMBERSHIP_LOST', `${where} is not this member's any more; whoever has it reads on from the last commit.`, facts);
    };
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
      this.#wake();
      await this.#member?.leave();
      await this.#connections[Symbol.asyncDispose]();
      this.#parts.onClosed();
    })();
    return this.#closing;
  }

  assigned(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) {
      const position: Position = { tp, offset: undefined, seeks: 0, paused: false, flowing: false, queued: [], queuedBytes: 0 };
      this.#positions.set(partitionKey(tp), position);
      this.#member?.pause(tp); // Until it is known where it begins.
    }
    this.#listener?.assigned(partitions);
    void this.#findPositions(this.#of(partitions));
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
    this.#wake();
  }

  /** Records are decoded here, and not by kafkajs: of transactions that were aborted side by side it lets records through, or holds back committed ones; a key of four zeros
   *  is an abort to it; it keeps no order among headers; and one partition's error takes the records of all others with it. */
  fetched({ topic, partition, fetchOffset, errorCode, records: bytes, aborted, highWatermark }: LibraryFetch): void {
    const position = this.#positions.get(partitionKey({ topic, partition }));
    if (!position || position.offset !== fetchOffset) return; // Of before a seek.
    if (errorCode !== 0) {
      this.#refused(position, errorCode);
      return;
    }
    try {
      const { records, nextOffset } = decodeBatches(bytes, { topic, partition, fetchOffset }, this.#options.isolation === 'read_committed' ? aborted : []);
      if (nextOffset === undefined) return;
      this.#context.fetchGate.charge(topic, this.#options.group, records.length, bytes.length);
      position.queued.push({ topic, partition, records, nextOffset, highWatermark, bytes: bytes.length, fetchedAtMs: this.#member?.startedFetchAtMs ?? 0 });
      position.queuedBytes += bytes.length;
      this.#queuedBytes += bytes.length;
      this.#moveTo(position, nextOffset);
    } catch (error) {
      this.failed(asTurnpikeError(error, 'INTERNAL', `${topic}/${partition}: the broker's answer could not be read.`, { topic, partition }));
    }
  }

  /** What may pass kafkajs deals with: it asks for the leaders again. */
  #refused(position: Position, errorCode: number): void {
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

  /** From the group's commits, else from where the options say. */
  async #findPositions(positions: readonly Position[]): Promise<void> {
    const { group, startAt, requestTimeoutMs } = this.#options;
    await this.#find(positions, async (tps) => {
      const committed = await this.#coordinator.committed(tps, requestTimeoutMs);
      const without = tps.filter((tp) => !committed.some((c) => partitionKey(c) === partitionKey(tp)));
      const [first] = without;
      if (first && startAt === 'fail')
        throw new TurnpikeError('OFFSET_OUT_OF_RANGE', `${partitionKey(first)}: ${group} has no committed offset and consumer.startAt is "fail".`, {
          ...first,
          group,
        });
      const started = without.length === 0 ? [] : await this.#listOffsets(without, startAt === 'latest' ? 'end' : 'beginning');
      return [...committed, ...started];
    });
  }

  /** For those of these assignments, and no later ones of the same partitions, that have not been sought meanwhile. */
  async #find(positions: readonly Position[], look: (tps: readonly TopicPartition[]) => Promise<readonly CommitOffset[]>): Promise<void> {
    const { logger, clock } = this.#context;
    const { group } = this.#options;
    const seeks = new Map(positions.map((p) => [p, p.seeks]));
    const waits = (p: Position) => this.#positions.get(partitionKey(p.tp)) === p && p.offset === undefined && p.seeks === seeks.get(p);
    for (let asked = positions.filter(waits); !this.#stop.signal.aborted && asked.length > 0; asked = asked.filter(waits)) {
      try {
        const offsets = await look(asked.map((p) => p.tp));
        const found = new Map(offsets.map((o) => [partitionKey(o), o.offset]));
        for (const position of asked.filter(waits)) {
          const offset = found.get(partitionKey(position.tp));
          if (offset !== undefined) this.#moveTo(position, offset);
        }
      } catch (error) {
        const ours = asTurnpikeError(error, 'INTERNAL', `${group}: its offsets could not be read.`, { group });
        if (this.#stop.signal.aborted) return;
        if (!ours.retriable) return this.failed(ours);
        logger.debug('consumer.offsets_unavailable', { group, message: ours.message });
        await pause(clock, RETRY_MS, this.#stop.signal);
      }
    }
  }

  #moveTo(position: Position, offset: bigint): void {
    position.offset = offset;
    this.#member?.seek(position.tp, offset);
    this.#regulate();
    this.#wake();
  }

  #hold(position: Position): void {
    position.offset = undefined;
    position.flowing = false;
    this.#member?.pause(position.tp);
  }

  #drop(partitions: readonly TopicPartition[]): void {
    for (const position of this.#of(partitions)) {
      this.#forget(position);
      this.#positions.delete(partitionKey(position.tp));
    }
    this.#regulate();
  }

  #forget(position: Position): void {
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
      for (const position of this.#positions.values()) {
        const wanted =
          position.offset !== undefined && !position.paused && this.#queuedBytes < maxPrefetchBytes && position.queuedBytes < maxPartitionFetchBytes;
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

  #of(partitions: readonly TopicPartition[]): Position[] {
    return partitions.flatMap((tp) => this.#positions.get(partitionKey(tp)) ?? []);
  }

  #listOffsets(partitions: readonly TopicPartition[], target: SeekTarget): Promise<readonly CommitOffset[]> {
    return this.#parts.control.offsets(partitions, target, this.#options.isolation === 'read_committed', this.#options.requestTimeoutMs);
  }

  #wake(): void {
    for (const wake of this.#waiters) wake();
  }

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
