import { randomUUID } from 'node:crypto';
import { consumerGroupHeartbeatV1 } from '@platformatic/kafka';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { pause, type TopicPartition } from '@turnpike/core/spi';
import { partitionKey } from './assignor.ts';
import type { GroupMember } from './coordinator.ts';
import { isKafkaError } from './errors.ts';
import { BACKOFF_MS, closedWhileJoining, farewell, Holdings, instanceTaken, type Membership, type MembershipParts } from './membership.ts';

const { api } = consumerGroupHeartbeatV1;
type Heartbeat = Parameters<typeof consumerGroupHeartbeatV1.createRequest>;
type Answer = Awaited<ReturnType<typeof api.async>>;
type TopicPartitions = NonNullable<Heartbeat[9]>;

/** Member epochs with a meaning of their own (KIP-848). */
const EPOCH = { join: 0, leave: -1, leaveForNow: -2 } as const;
/** How much longer the broker waits for a partition than the member does, in ms: its clock begins before the member hears of it, and ends when it has heard from the member. */
const ON_THE_WAY_MS = 2_000;
/** How long until metadata is asked again for a topic of the assignment that it doesn't have, in ms. */
const UNKNOWN_TOPIC_MS = 500;

interface Assigned {
  readonly tp: TopicPartition;
  readonly topicId: string;
}

/** A member of a group that the broker shares out (KIP-848). Each heartbeat says what the member has, each answer what it shall have: what is new is taken at once; what it shall not have is drained, committed and given
 *  up while heartbeats go on, and the next one says so. */
export class ConsumerMembership implements Membership {
  readonly #parts: MembershipParts;
  readonly #closing = new AbortController();
  readonly #holdings: Holdings;
  readonly #joined = Promise.withResolvers<void>();
  readonly #id = randomUUID();
  #epoch: number = EPOCH.join;
  /** The broker may count us in. */
  #isKnown = false;
  /** The broker's. */
  #intervalMs = BACKOFF_MS;
  /** Monotonic ms: when the broker last answered. */
  #heardAtMs = 0;
  /** As the broker last said. */
  #target: Answer['assignment'] = null;
  /** Of the partitions that we have; a topic that was made anew has another. */
  readonly #topicIds = new Map<string, string>();
  /** Topic id -> name; kept, since a topic may be missing in metadata for a moment. */
  readonly #names = new Map<string, string>();
  /** What the broker has heard of our partitions; undefined = it may have heard nothing, so that the next heartbeat says all. */
  #told: string | undefined;
  /** Aborted when the next heartbeat is due at once. */
  #hurry = new AbortController();
  #draining: Promise<void> | undefined;
  #naming: Promise<void> | undefined;
  /** Monotonic ms: since when another member has our instance id. */
  #takenSinceMs: number | undefined;
  #running: Promise<void> | undefined;

  constructor(parts: MembershipParts) {
    this.#parts = parts;
    this.#holdings = new Holdings(parts, this.#closing.signal);
  }

  start(): Promise<void> {
    this.#running = this.#run();
    return this.#joined.promise;
  }

  member(): GroupMember {
    return { id: this.#id, generation: this.#epoch, instanceId: this.#parts.options.instanceId, protocol: 'consumer' };
  }

  owns(tp: TopicPartition): boolean {
    return this.#holdings.owns(tp);
  }

  async leave(): Promise<void> {
    const { group, instanceId } = this.#parts.options;
    this.#closing.abort();
    this.#joined.reject(closedWhileJoining(group)); // No effect once joined.
    this.#joined.promise.catch(() => {});
    const epoch = instanceId === undefined ? EPOCH.leave : EPOCH.leaveForNow;
    if (this.#isKnown) await farewell(this.#parts, api, [group, this.#id, epoch, instanceId ?? null, null, -1, null, null, null, null]);
    this.#holdings.clear();
  }

  async ended(): Promise<void> {
    await this.#running;
    await Promise.all([this.#draining, this.#naming]);
  }

  async #run(): Promise<void> {
    const { context } = this.#parts;
    const { signal } = this.#closing;
    while (!signal.aborted) {
      try {
        if (this.#epoch === EPOCH.join) await this.#requireProtocol();
        await this.#beat();
        this.#joined.resolve();
        await pause(context.clock, this.#intervalMs, AbortSignal.any([signal, this.#hurry.signal]));
      } catch (error) {
        const ours = asTurnpikeError(error, 'INTERNAL', 'the membership failed.');
        if (signal.aborted || !this.#recover(ours)) return;
        // Handlers that still drain what was lost must not meet those that get it anew.
        if (this.#epoch === EPOCH.join) await this.#draining;
        await pause(context.clock, BACKOFF_MS, signal);
      }
    }
  }

  async #requireProtocol(): Promise<void> {
    const { coordinator, options } = this.#parts;
    if (!(await coordinator.speaks('offsets', api, `join the group ${options.group}`))) throw lacking(options.group);
  }

  async #beat(): Promise<void> {
    const { context, coordinator, options, topics } = this.#parts;
    const { group, instanceId, rebalanceTimeoutMs } = options;
    this.#hurry = new AbortController();
    const has = this.#has();
    const now = JSON.stringify(has);
    const says = this.#told === undefined ? 'all' : this.#told === now ? 'nothing new' : 'what it has';
    const args: Heartbeat = [
      group,
      this.#id,
      this.#epoch,
      instanceId ?? null,
      null,
      says === 'all' ? rebalanceTimeoutMs + ON_THE_WAY_MS : -1,
      says === 'all' ? [...topics] : null,
      null,
      null, // The broker's own assignor: which there are is its configuration.
      says === 'nothing new' ? null : has,
    ];
    this.#told = undefined; // Until it has answered.
    this.#isKnown = true;
    const answer = await coordinator.call('offsets', api, args, `${this.#epoch === EPOCH.join ? 'join' : 'stay in'} the group ${group}`);
    if (this.#closing.signal.aborted) return;
    this.#told = now;
    this.#takenSinceMs = undefined;
    this.#heardAtMs = context.clock.monotonic();
    this.#epoch = answer.memberEpoch;
    this.#intervalMs = answer.heartbeatIntervalMs;
    if (answer.assignment) this.#target = answer.assignment;
    this.#reconcile();
  }

  #has(): TopicPartitions {
    const byTopic = Map.groupBy(this.#holdings.all, (tp) => this.#topicIds.get(partitionKey(tp)) ?? '');
    return [...byTopic].map(([topicId, of]) => ({ topicId, partitions: of.map((tp) => tp.partition).sort((a, b) => a - b) }));
  }

  #reconcile(): void {
    const { assigned, isComplete } = this.#assigned();
    const idOf = (tp: TopicPartition) => this.#topicIds.get(partitionKey(tp));
    const coming = assigned.filter(({ tp }) => !this.#holdings.owns(tp));
    const leaving = this.#holdings.all.filter((tp) => !assigned.some((a) => a.topicId === idOf(tp) && partitionKey(a.tp) === partitionKey(tp)));
    for (const { tp, topicId } of coming) this.#topicIds.set(partitionKey(tp), topicId);
    this.#holdings.take(coming.map(({ tp }) => tp));
    if (coming.length > 0) this.#hurry.abort();
    if (leaving.length > 0) this.#draining ??= this.#giveUp(leaving);
    if (!isComplete) this.#naming ??= this.#learnNames();
  }

  /** The broker's assignment, as far as the names of its topics are known. */
  #assigned(): { readonly assigned: readonly Assigned[]; readonly isComplete: boolean } {
    const { metadata, topics } = this.#parts;
    for (const name of topics) {
      const known = metadata.topic(name);
      if (known) this.#names.set(known.id, name);
    }
    const given = this.#target?.topicPartitions ?? [];
    const assigned = given.flatMap(({ topicId, partitions }) => {
      const topic = this.#names.get(topicId);
      return topic === undefined ? [] : partitions.map((partition) => ({ topicId, tp: { topic, partition } }));
    });
    return { assigned, isComplete: given.every(({ topicId }) => this.#names.has(topicId)) };
  }

  async #giveUp(leaving: readonly TopicPartition[]): Promise<void> {
    await this.#holdings.giveUp(leaving);
    this.#draining = undefined;
    if (this.#closing.signal.aborted) return;
    this.#reconcile(); // The broker may have asked for more of them meanwhile.
    this.#hurry.abort();
  }

  async #learnNames(): Promise<void> {
    const { context, metadata, topics } = this.#parts;
    await metadata.refresh(topics).catch(() => {});
    if (!this.#assigned().isComplete) await pause(context.clock, UNKNOWN_TOPIC_MS, this.#closing.signal);
    this.#naming = undefined;
    if (!this.#closing.signal.aborted) this.#reconcile();
  }

  /** What an error makes of the membership; false = it is over. */
  #recover(error: TurnpikeError): boolean {
    const { context, options } = this.#parts;
    const { group, sessionTimeoutMs } = options;
    const now = context.clock.monotonic();
    if (isKafkaError(error, 'UNKNOWN_MEMBER_ID', 'FENCED_MEMBER_EPOCH')) {
      context.logger.warn('consumer.membership_lost', { group, kafkaError: error.facts.kafkaError });
      this.#lose();
      return true;
    }
    if (isKafkaError(error, 'UNRELEASED_INSTANCE_ID')) {
      // Most often it is our own predecessor, which was killed: it ends with its session.
      if (this.#takenSinceMs === undefined) context.logger.warn('consumer.instance_taken', { group, instanceId: options.instanceId, sessionTimeoutMs });
      this.#takenSinceMs ??= now;
      return now - this.#takenSinceMs < sessionTimeoutMs + ON_THE_WAY_MS || this.#end(instanceTaken(error, options));
    }
    if (isKafkaError(error, 'FENCED_INSTANCE_ID')) {
      this.#lose();
      return this.#end(instanceTaken(error, options));
    }
    if (isKafkaError(error, 'UNSUPPORTED_VERSION')) return this.#end(lacking(group, error));
    if (!error.retriable) return this.#end(error);
    context.logger.debug('consumer.coordinator_unavailable', { group, message: error.message });
    if (this.#epoch !== EPOCH.join && now - this.#heardAtMs > sessionTimeoutMs) {
      // Nobody has heard from us for a session: others have the partitions by now.
      context.logger.warn('consumer.session_expired', { group, sessionTimeoutMs });
      this.#lose();
    }
    return true;
  }

  #end(error: TurnpikeError): false {
    if (this.#epoch === EPOCH.join) this.#isKnown = false;
    this.#joined.reject(error);
    this.#joined.promise.catch(() => {});
    this.#parts.listener.failed(error);
    return false;
  }

  /** The next heartbeat joins again. */
  #lose(): void {
    this.#epoch = EPOCH.join;
    this.#target = null;
    this.#holdings.lose();
  }
}

function lacking(group: string, cause?: TurnpikeError): TurnpikeError {
  return new TurnpikeError(
    'CAPABILITY_MISSING',
    `${group}: the broker has no KIP-848 groups (ConsumerGroupHeartbeat version ${api.version}); leave out consumer.groupProtocol, or use Apache Kafka 4.0 or newer with group.version 1.`,
    { group, ...(cause ? { cause } : {}) },
  );
}
