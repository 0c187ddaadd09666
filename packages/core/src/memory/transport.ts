import { accumulate } from '../accumulator/accumulator.ts';
import { asTurnpikeError, TurnpikeError } from '../errors.ts';
import { RecordHeaders } from '../headers.ts';
import { pause } from '../spi/clock.ts';
import type { ProduceBatch, ProduceDriver, ProduceOutcome } from '../spi/driver.ts';
import type {
  AssignmentListener,
  CommitOffset,
  CompiledConsumerOptions,
  CompiledProducerOptions,
  ConsumerPort,
  FetchedBatch,
  InboundRecord,
  Link,
  LinkContext,
  ProducerPort,
  SeekTarget,
  TopicPartition,
  Transport,
} from '../spi/transport.ts';
import { memoryAdmin } from './admin.ts';
import { MemoryCluster, type StoredRecord } from './cluster.ts';
import type { GroupMember } from './group.ts';

/** A transport without a broker: the same pipeline, the same seams, in memory. For fast tests, and where no broker can be had. */
export function memoryTransport(options: { readonly cluster?: MemoryCluster } = {}): Transport {
  const cluster = options.cluster ?? new MemoryCluster();
  return {
    name: 'memory',
    capabilities: {
      quotaBasis: 'estimate',
      compression: ['none'],
      idempotence: true,
      transactions: false,
      readCommitted: true,
      groupProtocols: ['classic'],
      cooperativeRebalance: true,
      staticMembership: false,
      reauthentication: false,
      throttleTime: false,
      nullHeaders: true,
      admin: true,
    },
    async connect(context) {
      if (context.cluster.id !== undefined && context.cluster.id !== cluster.id)
        throw new TurnpikeError(
          'CLUSTER_MISMATCH',
          `${context.cluster.name} should be cluster ${context.cluster.id}, but ${cluster.id} answers; check TURNPIKE_CLUSTERS.`,
          { cluster: context.cluster.name },
        );
      return new MemoryLink(cluster, context);
    },
  };
}

const RETRY_MS = 50;

class MemoryLink implements Link {
  readonly clusterId: string;
  readonly admin;
  readonly #cluster: MemoryCluster;
  readonly #context: LinkContext;
  readonly #ports = new Set<AsyncDisposable>();

  constructor(cluster: MemoryCluster, context: LinkContext) {
    this.clusterId = cluster.id;
    this.#cluster = cluster;
    this.#context = context;
    this.admin = memoryAdmin(cluster);
  }

  async producer(options: CompiledProducerOptions): Promise<ProducerPort> {
    const driver = new MemoryDriver(this.#cluster, this.#context, options);
    const port: ProducerPort = accumulate(driver, this.#context, options, () => this.#ports.delete(port));
    this.#ports.add(port);
    return port;
  }

  consumer(options: CompiledConsumerOptions): ConsumerPort {
    const port: MemoryConsumer = new MemoryConsumer(this.#cluster, this.#context, options, () => this.#ports.delete(port));
    this.#ports.add(port);
    return port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#ports].map((port) => port[Symbol.asyncDispose]()));
  }
}

function refuseTopic(cluster: MemoryCluster, principal: string, operation: 'read' | 'write' | 'describe', topic: string): void {
  if (cluster.authorized(principal, operation, 'topic', topic)) return;
  throw new TurnpikeError(
    'AUTHORIZATION_FAILED',
    `The broker refuses ${principal} to ${operation} ${topic}: no ACL allows it. Declare the topic in turnpike.yaml and have it applied.`,
    {
      topic,
      principal,
      kafkaError: 'TOPIC_AUTHORIZATION_FAILED',
      written: 'no',
    },
  );
}

/** A broker's own default, and about what a batch and a record cost beside key and value. */
const MAX_MESSAGE_BYTES = 1_048_588;
const BATCH_OVERHEAD = 61;
const RECORD_OVERHEAD = 8;

interface Attempt {
  readonly batch: ProduceBatch;
  attempts: number;
  /** Where it was written. */
  baseOffset: bigint | undefined;
  maybeWritten: boolean;
  lastError: TurnpikeError | undefined;
}

class MemoryDriver implements ProduceDriver {
  readonly #cluster: MemoryCluster;
  readonly #context: LinkContext;
  readonly #options: CompiledProducerOptions;

  constructor(cluster: MemoryCluster, context: LinkContext, options: CompiledProducerOptions) {
    this.#cluster = cluster;
    this.#context = context;
    this.#options = options;
  }

  async warm(topics: readonly string[]): Promise<void> {
    for (const topic of topics) {
      await this.#cluster.fault?.({ operation: 'metadata', topic });
      refuseTopic(this.#cluster, this.#context.identity.principal, 'describe', topic);
      this.#cluster.topic(topic);
    }
  }

  partitions(topic: string): number | undefined {
    return this.#cluster.topics.get(topic)?.partitions.length;
  }

  lane(): number {
    return 0;
  }

  async produce(_lane: number, batches: readonly ProduceBatch[]): Promise<readonly (ProduceOutcome | Promise<ProduceOutcome>)[]> {
    const attempts: Attempt[] = batches.map((batch) => ({ batch, attempts: 0, baseOffset: undefined, maybeWritten: false, lastError: undefined }));
    return Promise.all(
      attempts.map(async (attempt) => {
        const outcome = await this.#try(attempt);
        // What is tried again holds up nobody but its own partition.
        return outcome ?? { later: this.#retry(attempt) };
      }),
    ).then((outcomes) => outcomes.map((o) => ('later' in o ? o.later : o)));
  }

  async #retry(attempt: Attempt): Promise<ProduceOutcome> {
    const { clock, events } = this.#context;
    const { batch } = attempt;
    for (;;) {
      if (clock.monotonic() + RETRY_MS >= batch.deadlineMs) {
        const { topic, partition } = batch;
        const { attempts, lastError, maybeWritten } = attempt;
        const written = maybeWritten ? 'unknown' : (lastError?.written ?? 'no');
        const text = `${topic}: not acknowledged within the delivery timeout after ${attempts === 1 ? '1 try' : `${attempts} tries`}; the last: ${lastError?.message}`;
        return {
          baseOffset: -1n,
          attempts,
          error: new TurnpikeError('DELIVERY_TIMEOUT', text, { cause: lastError, topic, partition, retriable: true, written }),
        };
      }
      events.retried(batch.topic, batch.bytes);
      await pause(clock, RETRY_MS);
      const outcome = await this.#try(attempt);
      if (outcome) return outcome;
    }
  }

  /** undefined = it may be tried again. */
  async #try(attempt: Attempt): Promise<ProduceOutcome | undefined> {
    const { batch } = attempt;
    const { topic, partition } = batch;
    attempt.attempts++;
    try {
      await this.#cluster.fault?.({ operation: 'produce', topic, partition });
      // The broker knows a sequence again that it has written: a retry is no duplicate (KIP-98).
      if (attempt.baseOffset === undefined || !this.#options.idempotent) attempt.baseOffset = this.#write(batch);
      attempt.maybeWritten = true;
      await this.#cluster.fault?.({ operation: 'acknowledge', topic, partition });
      return { baseOffset: attempt.baseOffset, attempts: attempt.attempts };
    } catch (cause) {
      const error = asTurnpikeError(cause, 'INTERNAL', `${topic}: the fault threw what is no TurnpikeError.`, { topic, partition });
      attempt.lastError = error;
      if (error.retriable) return undefined;
      const written = attempt.maybeWritten ? 'unknown' : (error.written ?? 'no');
      return { baseOffset: -1n, attempts: attempt.attempts, error: error.withWritten(written) };
    }
  }

  #write(batch: ProduceBatch): bigint {
    const { topic, partition, records } = batch;
    refuseTopic(this.#cluster, this.#context.identity.principal, 'write', topic);
    const most = Number(this.#cluster.topic(topic).configs.get('max.message.bytes') ?? MAX_MESSAGE_BYTES);
    const bytes = records.reduce((sum, r) => sum + RECORD_OVERHEAD + (r.key?.length ?? 0) + (r.value?.length ?? 0), BATCH_OVERHEAD);
    if (bytes > most)
      throw new TurnpikeError(
        'RECORD_TOO_LARGE',
        `${topic}: ${bytes} bytes are more than its max.message.bytes (${most}). Make the event smaller, or raise it.`,
        {
          topic,
          partition,
          kafkaError: 'MESSAGE_TOO_LARGE',
          written: 'no',
        },
      );
    // The log outlives the accumulator's chunks, of which one small record would hold all.
    const own = (bytes: Buffer | null) => bytes && Buffer.from(bytes);
    return this.#cluster.append(
      topic,
      partition,
      records.map((r) => ({ ...r, key: own(r.key), value: own(r.value) })),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

const keyOf = (tp: TopicPartition) => `${tp.topic}/${tp.partition}`;
/** Records of one partition in one poll: so that a big backlog doesn't starve the others. */
const BATCH_RECORDS = 500;

interface Position {
  offset: bigint;
}

class MemoryConsumer implements ConsumerPort {
  readonly #cluster: MemoryCluster;
  readonly #context: LinkContext;
  readonly #options: CompiledConsumerOptions;
  /** One for each assignment: what was read under an earlier one isn't delivered under the next. */
  readonly #positions = new Map<string, Position>();
  readonly #paused = new Set<string>();
  readonly #onClosed: () => void;
  #member: GroupMember | undefined;
  #closing: Promise<void> | undefined;

  constructor(cluster: MemoryCluster, context: LinkContext, options: CompiledConsumerOptions, onClosed: () => void) {
    this.#onClosed = onClosed;
    this.#cluster = cluster;
    this.#context = context;
    this.#options = options;
  }

  async subscribe(topics: readonly string[], listener: AssignmentListener): Promise<void> {
    const { principal } = this.#context.identity;
    const { group } = this.#options;
    this.#refuseGroup();
    for (const topic of topics) {
      await this.#cluster.fault?.({ operation: 'metadata', topic });
      refuseTopic(this.#cluster, principal, 'read', topic);
      this.#cluster.topic(topic);
    }
    if (this.#closing) throw new TurnpikeError('CLOSED', `${group}: the consumer was closed while it joined.`, { group });
    const onAssigned = (tps: readonly TopicPartition[]) => this.#position(tps, listener);
    const { clientId, clock } = this.#context;
    const { rebalanceTimeoutMs } = this.#options;
    const { member, joined } = this.#cluster.group(group).join({ clientId, topics, listener, onAssigned, rebalanceTimeoutMs, clock });
    this.#member = member;
    await joined;
  }

  /** Asked again with each poll and commit: a right may be withdrawn. */
  #refuseGroup(): void {
    const { principal } = this.#context.identity;
    const { group } = this.#options;
    if (this.#cluster.authorized(principal, 'read', 'group', group)) return;
    throw new TurnpikeError(
      'AUTHORIZATION_FAILED',
      `The broker refuses ${principal} the group ${group}: no ACL allows it. Declare it in turnpike.yaml and have it applied.`,
      { group, principal, kafkaError: 'GROUP_AUTHORIZATION_FAILED' },
    );
  }

  #position(partitions: readonly TopicPartition[], listener: AssignmentListener): void {
    for (const tp of partitions) {
      this.#paused.delete(keyOf(tp)); // That was of an assignment before.
      const committed = this.#cluster.group(this.#options.group).committed.get(keyOf(tp))?.offset;
      if (committed === undefined && this.#options.startAt === 'fail')
        listener.failed(
          new TurnpikeError('OFFSET_OUT_OF_RANGE', `${keyOf(tp)}: ${this.#options.group} has no committed offset and consumer.startAt is "fail".`, {
            ...tp,
            group: this.#options.group,
          }),
        );
      this.#positions.set(keyOf(tp), { offset: committed ?? (this.#options.startAt === 'latest' ? this.#end(tp) : 0n) });
    }
  }

  #end(tp: TopicPartition): bigint {
    return BigInt(this.#cluster.topic(tp.topic).partitions[tp.partition]?.length ?? 0);
  }

  async poll(maxWaitMs: number, signal?: AbortSignal): Promise<readonly FetchedBatch[]> {
    const { clock } = this.#context;
    const until = clock.monotonic() + maxWaitMs;
    for (;;) {
      if (this.#closing) return [];
      const fetchedAtMs = clock.now();
      let heldMs = Number.POSITIVE_INFINITY;
      const fetched: { readonly position: Position; readonly batch: FetchedBatch }[] = [];
      if (this.#member) this.#refuseGroup();
      const batches = () => fetched.filter(({ position, batch }) => this.#holds(batch, position)).map((f) => f.batch);
      for (const tp of [...(this.#member?.owned.values() ?? [])]) {
        const position = this.#positionIn(tp);
        if (position === undefined || this.#paused.has(keyOf(tp))) continue;
        const behind = position.offset < this.#end(tp);
        const waitMs = behind ? this.#context.fetchGate.permit(tp.topic, this.#options.group) : 0;
        if (waitMs > 0) {
          heldMs = Math.min(heldMs, waitMs);
          continue;
        }
        try {
          refuseTopic(this.#cluster, this.#context.identity.principal, 'read', tp.topic);
          const batch = behind ? await this.#fetch(tp, position, fetchedAtMs) : undefined;
          if (batch) fetched.push({ position, batch });
        } catch (error) {
          // What was read of other partitions is delivered; the error comes again with the next poll, if it lasts.
          if (fetched.length > 0) return batches();
          throw error;
        }
      }
      const leftMs = until - clock.monotonic();
      if (fetched.length > 0 || leftMs <= 0 || signal?.aborted) return batches();
      await this.#changeWithin(Math.min(leftMs, heldMs), signal);
    }
  }

  /** Whether the partition is still this member's, under the assignment that the position is of. */
  #holds(tp: TopicPartition, position: Position): boolean {
    return this.#member?.owned.has(keyOf(tp)) === true && this.#positions.get(keyOf(tp)) === position;
  }

  /** Where to read on; undefined = the topic is gone. @throws TurnpikeError OFFSET_OUT_OF_RANGE. */
  #positionIn(tp: TopicPartition): Position | undefined {
    const position = this.#positions.get(keyOf(tp));
    if (!position || !this.#cluster.topics.has(tp.topic)) return undefined;
    const { group, startAt } = this.#options;
    if (position.offset <= this.#end(tp)) return position;
    if (startAt === 'fail')
      throw new TurnpikeError('OFFSET_OUT_OF_RANGE', `${keyOf(tp)}: offset ${position.offset} is past its end; set consumer.startAt, or seek.`, {
        ...tp,
        group,
        offset: position.offset,
      });
    position.offset = startAt === 'latest' ? this.#end(tp) : 0n;
    return position;
  }

  /** undefined = it was revoked, or sought elsewhere, meanwhile. */
  async #fetch(tp: TopicPartition, position: Position, fetchedAtMs: number): Promise<FetchedBatch | undefined> {
    const { offset } = position;
    await this.#cluster.fault?.({ operation: 'fetch', ...tp });
    if (!this.#holds(tp, position) || position.offset !== offset) return undefined;
    const log = this.#cluster.topics.get(tp.topic)?.partitions[tp.partition] ?? [];
    const stored = log.slice(Number(offset), Number(offset) + BATCH_RECORDS);
    const bytes = stored.reduce((sum, r) => sum + (r.key?.length ?? 0) + (r.value?.length ?? 0), 0);
    const nextOffset = offset + BigInt(stored.length);
    position.offset = nextOffset;
    this.#context.fetchGate.charge(tp.topic, this.#options.group, stored.length, bytes);
    return { ...tp, records: stored.map((r) => inbound(tp, r)), nextOffset, highWatermark: BigInt(log.length), bytes, fetchedAtMs };
  }

  #changeWithin(ms: number, signal: AbortSignal | undefined): Promise<void> {
    const wake = new AbortController();
    const either = signal ? AbortSignal.any([wake.signal, signal]) : wake.signal;
    const listener = this.#cluster.onChange(() => wake.abort());
    return pause(this.#context.clock, ms, either).finally(() => listener[Symbol.dispose]());
  }

  pause(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) this.#paused.add(keyOf(tp));
  }

  resume(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) this.#paused.delete(keyOf(tp));
    this.#cluster.changed();
  }

  async seek(tp: TopicPartition, target: SeekTarget): Promise<void> {
    const { group } = this.#options;
    if (!this.#member?.owned.has(keyOf(tp)))
      throw new TurnpikeError('MEMBERSHIP_LOST', `${keyOf(tp)} is not assigned to this member; seek after it was.`, { ...tp, group });
    const [found] = await memoryAdmin(this.#cluster).offsets([tp], target);
    this.#positions.set(keyOf(tp), { offset: found?.offset ?? 0n });
    this.#cluster.changed();
  }

  async commit(offsets: readonly CommitOffset[]): Promise<void> {
    await this.#cluster.fault?.({ operation: 'commit' });
    this.#refuseGroup();
    if (!this.#member) throw new TurnpikeError('MEMBERSHIP_LOST', `${this.#options.group}: not a member.`, { group: this.#options.group });
    this.#cluster.group(this.#options.group).commit(this.#member, offsets);
  }

  async committed(partitions: readonly TopicPartition[]): Promise<readonly CommitOffset[]> {
    const { committed } = this.#cluster.group(this.#options.group);
    return partitions.flatMap((tp) => committed.get(keyOf(tp)) ?? []);
  }

  async endOffsets(partitions: readonly TopicPartition[]): Promise<readonly CommitOffset[]> {
    return partitions.map((tp) => ({ ...tp, offset: this.#end(tp) }));
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= (async () => {
      this.#cluster.changed();
      if (this.#member) await this.#cluster.group(this.#options.group).leave(this.#member);
      this.#onClosed();
    })();
    return this.#closing;
  }
}

function inbound(tp: TopicPartition, stored: StoredRecord): InboundRecord {
  return {
    topic: tp.topic,
    partition: tp.partition,
    offset: stored.offset,
    timestampMs: stored.timestampMs,
    key: stored.key,
    value: stored.value,
    headers: RecordHeaders.of([...(stored.headers ?? [])]),
  };
}
