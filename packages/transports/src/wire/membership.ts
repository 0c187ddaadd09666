import type { API } from '@platformatic/kafka';
import { TurnpikeError } from '@turnpike/core';
import { type AssignmentListener, type CompiledConsumerOptions, type LinkContext, pause, type TopicPartition } from '@turnpike/core/spi';
import { partitionKey } from './assignor.ts';
import type { Coordinator, GroupMember } from './coordinator.ts';
import { isKafkaError } from './errors.ts';
import type { Metadata } from './metadata.ts';

/** A member of a group, from its join to its end: classic-group.ts, or consumer-group.ts for KIP-848. */
export interface Membership {
  /** Resolves with the first assignment. Rejects where the broker refuses the group. */
  start(): Promise<void>;
  /** As the broker has it, for commits. */
  member(): GroupMember;
  owns(tp: TopicPartition): boolean;
  /** Ends it; a member without an instance id leaves the group, so that the others need not wait for the session's end. */
  leave(): Promise<void>;
  /** Resolves when nothing of it runs any more; close its connections first. */
  ended(): Promise<void>;
}

export interface MembershipListener extends AssignmentListener {
  /** Given up, drained or not: nothing more of them is ours. */
  revoked(partitions: readonly TopicPartition[]): void;
}

export interface MembershipParts {
  readonly context: LinkContext;
  readonly coordinator: Coordinator;
  readonly metadata: Metadata;
  readonly options: CompiledConsumerOptions;
  readonly topics: readonly string[];
  readonly listener: MembershipListener;
}

export const BACKOFF_MS = 200;
/** How long leaving may take at close, in ms: a broker that is gone finds out by the session's end. */
const LEAVE_MS = 3_000;

/** What a member has of the group's partitions; whoever reads them hears of every change of it. */
export class Holdings {
  readonly #parts: MembershipParts;
  readonly #closing: AbortSignal;
  readonly #owned = new Map<string, TopicPartition>();

  constructor(parts: MembershipParts, closing: AbortSignal) {
    this.#parts = parts;
    this.#closing = closing;
  }

  get all(): readonly TopicPartition[] {
    return [...this.#owned.values()];
  }

  owns(tp: TopicPartition): boolean {
    return this.#owned.has(partitionKey(tp));
  }

  take(coming: readonly TopicPartition[]): void {
    for (const tp of coming) this.#owned.set(partitionKey(tp), tp);
    if (coming.length > 0) this.#parts.listener.assigned(coming);
  }

  /** Has them drained, for no longer than the rebalance timeout, then gives them up. */
  async giveUp(leaving: readonly TopicPartition[]): Promise<void> {
    const { context, listener, options } = this.#parts;
    const held = leaving.map((tp) => this.#owned.get(partitionKey(tp)));
    const drained = new AbortController();
    const stop = AbortSignal.any([drained.signal, this.#closing]);
    await Promise.race([listener.revoking(leaving).catch(() => {}), pause(context.clock, options.rebalanceTimeoutMs, stop)]);
    drained.abort();
    // Some may have been lost meanwhile, and assigned anew.
    const gone = leaving.filter((tp, i) => held[i] !== undefined && this.#owned.get(partitionKey(tp)) === held[i]);
    for (const tp of gone) this.#owned.delete(partitionKey(tp));
    if (gone.length > 0) listener.revoked(gone);
  }

  /** Others have them by now. */
  lose(): void {
    const lost = this.all;
    this.clear();
    if (lost.length > 0) this.#parts.listener.lost(lost);
  }

  clear(): void {
    this.#owned.clear();
  }
}

/** Says farewell, again where the group's coordinator has moved, but waits for no broker that doesn't answer. */
export async function farewell<Args extends unknown[], R>({ context, coordinator }: MembershipParts, api: API<Args, R>, args: Args): Promise<void> {
  const late = new AbortController();
  const doing = `leave the group ${coordinator.group}`;
  const said = coordinator.persist('offsets', api, () => args, { doing, forMs: LEAVE_MS, signal: late.signal }).catch(() => {});
  await Promise.race([said, pause(context.clock, LEAVE_MS, late.signal)]);
  late.abort();
}

/** Why a static member is over: there is another one of its name. */
export function instanceTaken(error: TurnpikeError, { group, instanceId }: CompiledConsumerOptions): TurnpikeError {
  const text = isKafkaError(error, 'UNRELEASED_INSTANCE_ID')
    ? `another member has the instance id ${instanceId}, and its session has not ended within consumer.sessionTimeoutMs. Stop it, or give each its own.`
    : `another member has taken the instance id ${instanceId}; this one is over. Give each its own.`;
  return new TurnpikeError('MEMBERSHIP_LOST', `${group}: ${text}`, {
    group,
    cause: error,
    ...(error.facts.kafkaError ? { kafkaError: error.facts.kafkaError } : {}),
  });
}

export function closedWhileJoining(group: string): TurnpikeError {
  return new TurnpikeError('CLOSED', `${group}: the consumer was closed while it joined.`, { group });
}
