import { type API, findCoordinatorV4, offsetCommitV8, offsetCommitV9, offsetFetchV8, offsetFetchV9 } from '@platformatic/kafka';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type CommitOffset, type LinkContext, pause, type TopicPartition, withoutCode } from '@turnpike/core/spi';
import type { Address, Connections, Purpose } from './connections.ts';
import { brokerError, isKafkaError, responseIn, type Where } from './errors.ts';
import type { Metadata } from './metadata.ts';

const BACKOFF_MS = 100;
/** Errors of a member that is between two generations: with the next one the same request is good. */
const BETWEEN = ['REBALANCE_IN_PROGRESS', 'STALE_MEMBER_EPOCH'];

/** Who commits, as the broker has it. */
export interface GroupMember {
  readonly id: string;
  /** Of a KIP-848 member: its epoch. */
  readonly generation: number;
  readonly instanceId?: string | undefined;
  /** Default "classic". */
  readonly protocol?: 'classic' | 'consumer';
}

/** Where a coordinator is: found, remembered, found again when it has moved. */
export class CoordinatorAddress {
  readonly #find: () => Promise<Address>;
  #address: Promise<Address> | undefined;

  constructor(find: () => Promise<Address>) {
    this.#find = find;
  }

  get(): Promise<Address> {
    this.#address ??= this.#find().catch((error: unknown) => {
      this.#address = undefined;
      throw error;
    });
    return this.#address;
  }

  /** What came of a request to it: it may have moved, or be gone. */
  failed(error: TurnpikeError): void {
    if (error.code === 'BROKER_UNAVAILABLE') this.#address = undefined;
  }
}

/** The broker that keeps one group. */
export class Coordinator {
  readonly group: string;
  readonly #context: LinkContext;
  readonly #connections: Connections;
  readonly #address: CoordinatorAddress;

  constructor(group: string, context: LinkContext, metadata: Metadata, connections: Connections) {
    this.group = group;
    this.#context = context;
    this.#connections = connections;
    this.#address = new CoordinatorAddress(() => findCoordinator(metadata, connections, 'group', group, context.identity.principal));
  }

  /** One request to the coordinator. Rejects with our error; after one that says that it has moved, or that it is gone, the next call looks for it again. */
  call<Args extends unknown[], R>(purpose: Purpose, api: API<Args, R>, args: Args, doing: string): Promise<R> {
    return this.#ask(doing, (address, where) => this.#connections.call(address, purpose, api, args, where));
  }

  /** Whether it has this version of an API. */
  speaks<Args extends unknown[], R>(purpose: Purpose, api: API<Args, R>, doing: string): Promise<boolean> {
    return this.#ask(doing, (address, where) => this.#connections.speaks(address, purpose, api, where));
  }

  async #ask<R>(doing: string, ask: (address: Address, where: Where) => Promise<R>): Promise<R> {
    const where: Where = { doing, group: this.group, principal: this.#context.identity.principal };
    try {
      return await ask(await this.#address.get(), where);
    } catch (error) {
      const ours = asTurnpikeError(error, 'INTERNAL', doing);
      this.#address.failed(ours);
      throw ours;
    }
  }

  /** As call(), again and again until the deadline, while the error may pass. */
  async persist<Args extends unknown[], R>(
    purpose: Purpose,
    api: API<Args, R>,
    args: () => Args,
    { doing, forMs, signal }: { readonly doing: string; readonly forMs: number; readonly signal?: AbortSignal },
  ): Promise<R> {
    const { clock } = this.#context;
    const until = clock.monotonic() + forMs;
    for (;;) {
      try {
        return await this.call(purpose, api, args(), doing);
      } catch (error) {
        const ours = error as TurnpikeError;
        const passes = ours.retriable || isKafkaError(ours, ...BETWEEN);
        if (!passes || signal?.aborted || clock.monotonic() + BACKOFF_MS >= until) throw ours;
        await pause(clock, BACKOFF_MS, signal);
      }
    }
  }

  async commit(offsets: readonly CommitOffset[], member: () => GroupMember, forMs: number): Promise<void> {
    const topics = offsetsByTopic(offsets);
    const args = (): Parameters<typeof offsetCommitV8.createRequest> => {
      const { id, generation, instanceId } = member();
      return [this.group, generation, id, (instanceId ?? null) as string, topics];
    };
    const { api } = member().protocol === 'consumer' ? offsetCommitV9 : offsetCommitV8;
    await this.persist('offsets', api, args, { doing: `commit offsets of the group ${this.group}`, forMs });
  }

  /** null = all partitions that have one. As a member of a KIP-848 group where there is one: the broker answers those that it counts in (otherwise retriable, as MEMBERSHIP_LOST). */
  async committed(partitions: readonly TopicPartition[] | null, forMs: number, member?: () => GroupMember | undefined): Promise<readonly CommitOffset[]> {
    const topics = partitions && [...Map.groupBy(partitions, (tp) => tp.topic)].map(([name, of]) => ({ name, partitionIndexes: of.map((tp) => tp.partition) }));
    const doing = `read the committed offsets of the group ${this.group}`;
    const args = (): Parameters<typeof offsetFetchV9.createRequest> => {
      const as = member?.();
      return [
        [{ groupId: this.group, ...(as?.protocol === 'consumer' ? { memberId: as.id, memberEpoch: as.generation } : { memberEpoch: -1 }), topics }],
        true,
      ];
    };
    const { api } = member?.()?.protocol === 'consumer' ? offsetFetchV9 : offsetFetchV8;
    const { groups } = await this.persist('offsets', api, args, { doing, forMs }).catch((error: TurnpikeError) => {
      if (error.code !== 'MEMBERSHIP_LOST') throw error;
      // Not the reader's end: the next heartbeat tells the member what has become of its partitions.
      throw new TurnpikeError(error.code, withoutCode(error), { ...error.facts, cause: error, retriable: true });
    });
    return groups.flatMap((g) => g.topics.flatMap((t) => t.partitions.flatMap((p) => (p.committedOffset < 0n ? [] : [committedOffset(t.name, p)]))));
  }
}

/** As OffsetCommit and TxnOffsetCommit have them. */
export const offsetsByTopic = (offsets: readonly CommitOffset[]) =>
  [...Map.groupBy(offsets, (o) => o.topic)].map(([name, of]) => ({
    name,
    partitions: of.map((o) => ({
      partitionIndex: o.partition,
      committedOffset: o.offset,
      committedLeaderEpoch: o.leaderEpoch ?? -1,
      committedMetadata: o.metadata ?? '',
    })),
  }));

/** With the epoch of the record before it, where that is known. */
const committedOffset = (
  topic: string,
  {
    partitionIndex,
    committedOffset,
    committedLeaderEpoch,
  }: { readonly partitionIndex: number; readonly committedOffset: bigint; readonly committedLeaderEpoch: number },
): CommitOffset => ({ topic, partition: partitionIndex, offset: committedOffset, ...(committedLeaderEpoch < 0 ? {} : { leaderEpoch: committedLeaderEpoch }) });

const KEY_TYPES = { group: 0, 'transactional id': 1 } as const;

/** The broker that keeps a group or a transactional id. Rejects with AUTHORIZATION_FAILED where this identity may not see it; asking changes nothing. */
export async function findCoordinator(
  metadata: Metadata,
  connections: Connections,
  what: keyof typeof KEY_TYPES,
  name: string,
  principal: string,
): Promise<Address> {
  const where: Where = { doing: `find the coordinator of the ${what} ${name}`, principal, ...(what === 'group' ? { group: name } : { transactionalId: name }) };
  let last: unknown;
  for (const address of metadata.addresses()) {
    try {
      const { coordinators } = await connections.call(address, 'offsets', findCoordinatorV4.api, [KEY_TYPES[what], [name]], where);
      const [found] = coordinators;
      if (found) return { host: found.host, port: found.port };
    } catch (error) {
      const answer = responseIn<Awaited<ReturnType<typeof findCoordinatorV4.api.async>>>(error)?.coordinators[0];
      if (answer) throw brokerError(answer.errorCode, where, answer.errorMessage);
      last = error;
      if (!asTurnpikeError(error, 'INTERNAL', where.doing).retriable) throw error;
    }
  }
  throw last;
}
