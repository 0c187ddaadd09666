import { heartbeatV4, joinGroupV9, leaveGroupV5, syncGroupV5 } from '@platformatic/kafka';
import { asTurnpikeError, type TurnpikeError } from '@turnpike/core';
import { pause, type TopicPartition } from '@turnpike/core/spi';
import { assign, decodeAssignment, decodeSubscription, encodeAssignment, encodeSubscription, PROTOCOL, partitionKey } from './assignor.ts';
import type { GroupMember } from './coordinator.ts';
import { isKafkaError, responseIn } from './errors.ts';
import { BACKOFF_MS, closedWhileJoining, farewell, Holdings, instanceTaken, type Membership, type MembershipParts } from './membership.ts';

type Round = 'rejoin' | 'closed';
type Joined = Awaited<ReturnType<typeof joinGroupV9.api.async>>;

/** A member of a classic group with cooperative rebalancing (KIP-429): what it keeps it goes on reading; what it gives up is drained and committed first, while heartbeats go on.
 *  With an instance id (KIP-345) it doesn't leave at its end: whoever comes back with that id within the session finds its partitions as they were. */
export class ClassicMembership implements Membership {
  readonly #parts: MembershipParts;
  readonly #closing = new AbortController();
  readonly #holdings: Holdings;
  readonly #joined = Promise.withResolvers<void>();
  #memberId = '';
  /** As the broker has it, for commits and heartbeats. */
  #generation = -1;
  /** Of the assignment that we have: what is owned dates from it (KIP-792). */
  #assignedIn = -1;
  #isLeader = false;
  /** The leader's: the topics of all members, and the numbers of partitions that its last assignment was made with. */
  #watched: readonly string[] = [];
  #counts = '';
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
    return { id: this.#memberId, generation: this.#generation, instanceId: this.#parts.options.instanceId };
  }

  owns(tp: TopicPartition): boolean {
    return this.#holdings.owns(tp);
  }

  async leave(): Promise<void> {
    const { group, instanceId } = this.#parts.options;
    this.#closing.abort();
    this.#joined.reject(closedWhileJoining(group)); // No effect once joined.
    this.#joined.promise.catch(() => {});
    const member = { memberId: this.#memberId, reason: 'the consumer is closed' };
    if (this.#memberId !== '' && instanceId === undefined) await farewell(this.#parts, leaveGroupV5.api, [group, [member]]);
    this.#holdings.clear();
  }

  async ended(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    const { context } = this.#parts;
    while (!this.#closing.signal.aborted) {
      try {
        await this.#join();
        this.#joined.resolve();
        if ((await this.#beMember()) === 'closed') return;
      } catch (error) {
        const ours = asTurnpikeError(error, 'INTERNAL', 'the membership failed.');
        if (this.#closing.signal.aborted || !this.#recover(ours)) return;
        await pause(context.clock, isKafkaError(ours, 'MEMBER_ID_REQUIRED', 'REBALANCE_IN_PROGRESS') ? 0 : BACKOFF_MS, this.#closing.signal);
      }
    }
  }

  /** What an error makes of the membership; false = it is over. */
  #recover(error: TurnpikeError): boolean {
    const { context, options } = this.#parts;
    if (isKafkaError(error, 'MEMBER_ID_REQUIRED')) {
      this.#memberId = responseIn<{ memberId: string }>(error)?.memberId ?? '';
      return true;
    }
    if (isKafkaError(error, 'REBALANCE_IN_PROGRESS')) return true;
    if (isKafkaError(error, 'FENCED_INSTANCE_ID')) {
      this.#memberId = '';
      this.#lose();
      return this.#end(instanceTaken(error, options));
    }
    if (isLoss(error)) {
      context.logger.warn('consumer.membership_lost', { group: options.group, kafkaError: error.facts.kafkaError });
      if (isKafkaError(error, 'UNKNOWN_MEMBER_ID')) this.#memberId = '';
      this.#lose();
      return true;
    }
    if (error.retriable) {
      context.logger.debug('consumer.coordinator_unavailable', { group: options.group, message: error.message });
      return true;
    }
    return this.#end(error);
  }

  #end(error: TurnpikeError): false {
    this.#joined.reject(error);
    this.#joined.promise.catch(() => {});
    this.#parts.listener.failed(error);
    return false;
  }

  #lose(): void {
    this.#generation = -1;
    this.#assignedIn = -1;
    this.#holdings.lose();
  }

  async #join(): Promise<void> {
    const { coordinator, options, topics } = this.#parts;
    const { group } = options;
    const instanceId = options.instanceId ?? null;
    const metadata = encodeSubscription({ topics, owned: this.#holdings.all, generation: this.#assignedIn });
    const joined = await coordinator.call(
      'group',
      joinGroupV9.api,
      [group, options.sessionTimeoutMs, options.rebalanceTimeoutMs, this.#memberId, instanceId, 'consumer', [{ name: PROTOCOL, metadata }], null],
      `join the group ${group}`,
    );
    this.#memberId = joined.memberId;
    // From here on the broker knows the old one no more, though the new assignment is still to come: until then it answers a commit with REBALANCE_IN_PROGRESS, which is tried again.
    this.#generation = joined.generationId;
    this.#isLeader = joined.leader === joined.memberId;
    const assignments = this.#isLeader ? await this.#assign(joined) : [];
    const synced = await coordinator.call(
      'group',
      syncGroupV5.api,
      [group, joined.generationId, joined.memberId, instanceId, 'consumer', joined.protocolName ?? PROTOCOL, assignments],
      `take part in the group ${group}`,
    );
    this.#assignedIn = joined.generationId;
    this.#take(decodeAssignment(synced.assignment));
  }

  async #assign({ members, skipAssignment }: Joined): Promise<{ memberId: string; assignment: Buffer }[]> {
    const { metadata } = this.#parts;
    const subscribed = members.map((m) => ({ id: m.memberId, ...decodeSubscription(m.metadata) }));
    this.#watched = [...new Set(subscribed.flatMap((m) => m.topics))];
    await metadata.refresh(this.#watched);
    this.#counts = this.#countPartitions();
    // A static leader that comes back: the group's assignment stands, it only watches again (KIP-814).
    if (skipAssignment) return [];
    const assigned = assign(subscribed, (topic) => metadata.topic(topic)?.partitions.length ?? 0);
    return [...assigned].map(([memberId, partitions]) => ({ memberId, assignment: encodeAssignment(partitions) }));
  }

  /** What is new is told at once; what is gone stays until #beMember() has had it drained. */
  #take(assignment: readonly TopicPartition[]): void {
    this.#leaving = this.#holdings.all.filter((tp) => !assignment.some((a) => partitionKey(a) === partitionKey(tp)));
    this.#holdings.take(assignment.filter((tp) => !this.#holdings.owns(tp)));
  }

  #leaving: readonly TopicPartition[] = [];

  /** Heartbeats until something calls for another round. */
  async #beMember(): Promise<Round> {
    const done = new AbortController();
    const revoked = this.#leaving.length > 0 ? this.#revoke(this.#leaving) : undefined;
    try {
      const why = await Promise.race([this.#beat(done.signal), ...(revoked ? [revoked.then((): Round => 'rejoin')] : [])]);
      // A rebalance may be called while partitions are drained: they are given up before this member joins without them.
      await revoked;
      return why;
    } catch (error) {
      // Others have the partitions already: handlers that still drain hear of it now.
      if (isLoss(error)) this.#lose();
      await revoked;
      throw error;
    } finally {
      done.abort();
    }
  }

  async #revoke(leaving: readonly TopicPartition[]): Promise<void> {
    await this.#holdings.giveUp(leaving);
    this.#leaving = [];
  }

  async #beat(done: AbortSignal): Promise<Round> {
    const { context, coordinator, options } = this.#parts;
    const { clock } = context;
    const stop = AbortSignal.any([done, this.#closing.signal]);
    let lastMs = clock.monotonic();
    for (;;) {
      await pause(clock, options.heartbeatIntervalMs, stop);
      if (this.#closing.signal.aborted || done.aborted) return 'closed';
      if (this.#isLeader && this.#leaving.length === 0 && this.#counts !== this.#countPartitions()) return 'rejoin';
      try {
        const args: Parameters<typeof heartbeatV4.createRequest> = [options.group, this.#generation, this.#memberId, options.instanceId ?? null];
        await coordinator.call('offsets', heartbeatV4.api, args, `stay in the group ${options.group}`);
        lastMs = clock.monotonic();
      } catch (error) {
        const ours = asTurnpikeError(error, 'INTERNAL', 'the heartbeat failed.');
        if (isKafkaError(ours, 'REBALANCE_IN_PROGRESS')) {
          // Partitions that are drained are given up first, however long that takes; meanwhile the broker must go on hearing from us.
          if (this.#leaving.length > 0) continue;
          return 'rejoin';
        }
        if (!ours.retriable) throw ours;
        if (clock.monotonic() - lastMs > options.sessionTimeoutMs) {
          // Nobody has heard from us for a session: others have the partitions by now.
          context.logger.warn('consumer.session_expired', { group: options.group, sessionTimeoutMs: options.sessionTimeoutMs });
          this.#lose();
          return 'rejoin';
        }
      }
    }
  }

  #countPartitions(): string {
    const { metadata } = this.#parts;
    return this.#watched.map((t) => metadata.topic(t)?.partitions.length ?? 0).join();
  }
}

const isLoss = (error: unknown): boolean => isKafkaError(error as TurnpikeError, 'UNKNOWN_MEMBER_ID', 'ILLEGAL_GENERATION', 'FENCED_INSTANCE_ID');
