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

const CAPABILITY_HINT = 'use the wire transport, or drop the option.';
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
    if (options.transactionalId !== undefined) throw new TurnpikeError('CAPABILITY_MISSING', `The memory transport has no transactions; ${CAPABILITY_HINT}`);
    if (options.compression !== 'none')
      throw new TurnpikeError('CAPABILITY_MISSING', `The memory transport has no ${options.compression} compression; ${CAPABILITY_HINT}`);
    const port = accumulate(new MemoryDriver(this.#cluster, this.#context), this.#context, options);
    this.#ports.add(port);
    return port;
  }

  consumer(options: CompiledConsumerOptions): ConsumerPort {
    if (options.groupProtocol !== 'classic') throw new TurnpikeError('CAPABILITY_MISSING', `The memory transport has no KIP-848 groups; ${CAPABILITY_HINT}`);
    if (options.instanceId !== undefined) throw new TurnpikeError('CAPABILITY_MISSING', `The memory transport has no static membership; ${CAPABILITY_HINT}`);
    const port = new MemoryConsumer(this.#cluster, this.#context, options);
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

class MemoryDriver implements ProduceDriver {
  readonly #cluster: MemoryCluster;
  readonly #context: LinkContext;

  constructor(cluster: MemoryCluster, context: LinkContext) {
    this.#cluster = cluster;
    this.#context = context;
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

  produce(_lane: number, batches: readonly ProduceBatch[]): Promise<readonly ProduceOutcome[]> {
    return Promise.all(batches.map((batch) => this.#produceOne(batch)));
  }

  async #produceOne(batch: ProduceBatch): Promise<ProduceOutcome> {
    const { topic, partition } = batch;
    const { clock, identity, events } = this.#context;
    for (let attempts = 1; ; attempts++) {
      try {
        await this.#cluster.fault?.({ operation: 'produce', topic, partition });
        refuseTopic(this.#cluster, identity.principal, 'write', topic);
        return { baseOffset: this.#cluster.append(topic, partition, batch.records), attempts };
      } catch (cause) {
        // A fault strikes before the append, so nothing was written unless it says otherwise.
        const error = asTurnpikeError(cause, 'INTERNAL', `${topic}: the fault threw what is no TurnpikeError.`, { topic, partition });
        const written = error.written ?? 'no';
        if (!error.retriable) return { baseOffset: -1n, attempts, error: error.withWritten(written) };
        if (clock.monotonic() + RETRY_MS >= batch.deadlineMs) {
          const timeout = new TurnpikeError(
            'DELIVERY_TIMEOUT',
            `${topic}: not acknowledged within the delivery timeout after ${attempts} tries; the last: ${error.message}`,
            { cause: error, topic, partition, retriable: true, written },
          );
          return { baseOffset: -1n, attempts, error: timeout };
        }
        events.retried(topic, batch.bytes);
        await pause(clock, RETRY_MS);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

const keyOf = (tp: TopicPartition) => `${tp.topic}/${tp.partition}`;
/** Records of one partition in one poll: so that a big backlog doesn't starve the others. */
const BATCH_RECORDS = 500;

class MemoryConsumer implements ConsumerPort {
  readonly #cluster: MemoryCluster;
  readonly #context: LinkContext;
  readonly #options: CompiledConsumerOptions;
  readonly #positions = new Map<string, bigint>();
  readonly #paused = new Set<string>();
  #member: GroupMember | undefined;
  #closing: Promise<void> | undefined;

  constructor(cluster: MemoryCluster, context: LinkContext, options: CompiledConsumerOptions) {
    this.#cluster = cluster;
    this.#context = context;
    this.#options = options;
  }

  async subscribe(topics: readonly string[], listener: AssignmentListener): Promise<void> {
    const { principal } = this.#context.identity;
    const { group } = this.#options;
    if (!this.#cluster.authorized(principal, 'read', 'group', group))
      throw new TurnpikeError(
        'AUTHORIZATION_FAILED',
        `The broker refuses ${principal} the group ${group}: no ACL allows it. Declare it in turnpike.yaml and have it applied.`,
        { group, principal, kafkaError: 'GROUP_AUTHORIZATION_FAILED' },
      );
    for (const topic of topics) {
      refuseTopic(this.#cluster, principal, 'read', topic);
      this.#cluster.topic(topic);
    }
    this.#member = await this.#cluster
      .group(group)
      .join({ clientId: this.#context.clientId, topics, listener, onAssigned: (tps) => this.#position(tps, listener) });
  }

  #position(partitions: readonly TopicPartition[], listener: AssignmentListener): void {
    for (const tp of partitions) {
      const committed = this.#cluster.group(this.#options.group).committed.get(keyOf(tp))?.offset;
      if (committed === undefined && this.#options.startAt === 'fail')
        listener.failed(
          new TurnpikeError('OFFSET_OUT_OF_RANGE', `${keyOf(tp)}: ${this.#options.group} has no committed offset and consumer.startAt is "fail".`, {
            ...tp,
            group: this.#options.group,
          }),
        );
      this.#positions.set(keyOf(tp), committed ?? (this.#options.startAt === 'latest' ? this.#end(tp) : 0n));
    }
  }

  #end(tp: TopicPartition): bigint {
    return BigInt(this.#cluster.topic(tp.topic).partitions[tp.partition]?.length ?? 0);
  }

  async poll(maxWaitMs: number, signal?: AbortSignal): Promise<readonly FetchedBatch[]> {
    const { clock } = this.#context;
    const until = clock.monotonic() + maxWaitMs;
    for (;;) {
      const fetchedAtMs = clock.now();
      let heldMs = Number.POSITIVE_INFINITY;
      const batches: FetchedBatch[] = [];
      for (const tp of this.#member?.owned.values() ?? []) {
        const position = this.#positions.get(keyOf(tp)) ?? 0n;
        if (this.#paused.has(keyOf(tp)) || position >= this.#end(tp)) continue;
        const waitMs = this.#context.fetchGate.permit(tp.topic, this.#options.group);
        if (waitMs > 0) heldMs = Math.min(heldMs, waitMs);
        else batches.push(await this.#fetch(tp, position, fetchedAtMs));
      }
      const leftMs = until - clock.monotonic();
      if (batches.length > 0 || leftMs <= 0 || this.#closing || signal?.aborted) return batches;
      await this.#changeWithin(Math.min(leftMs, heldMs), signal);
    }
  }

  async #fetch(tp: TopicPartition, position: bigint, fetchedAtMs: number): Promise<FetchedBatch> {
    await this.#cluster.fault?.({ operation: 'fetch', ...tp });
    const log = this.#cluster.topic(tp.topic).partitions[tp.partition] ?? [];
    const stored = log.slice(Number(position), Number(position) + BATCH_RECORDS);
    const bytes = stored.reduce((sum, r) => sum + (r.key?.length ?? 0) + (r.value?.length ?? 0), 0);
    const nextOffset = position + BigInt(stored.length);
    this.#positions.set(keyOf(tp), nextOffset);
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
    const [found] = await memoryAdmin(this.#cluster).offsets([tp], target);
    this.#positions.set(keyOf(tp), found?.offset ?? 0n);
    this.#cluster.changed();
  }

  async commit(offsets: readonly CommitOffset[]): Promise<void> {
    await this.#cluster.fault?.({ operation: 'commit' });
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
