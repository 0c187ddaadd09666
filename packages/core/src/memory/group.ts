import { TurnpikeError } from '../errors.ts';
import { type Clock, pause } from '../spi/clock.ts';
import type { AssignmentListener, CommitOffset, TopicPartition } from '../spi/transport.ts';
import type { MemoryCluster } from './cluster.ts';

const keyOf = (tp: TopicPartition) => `${tp.topic}/${tp.partition}`;

export interface GroupMember {
  readonly id: string;
  readonly clientId: string;
  readonly topics: readonly string[];
  readonly listener: AssignmentListener;
  readonly owned: Map<string, TopicPartition>;
  /** Told before `listener.assigned`, so that a position is there when records are asked for. */
  readonly onAssigned: (partitions: readonly TopicPartition[]) => void;
  /** How long it may take to give partitions up, in ms, by this clock. */
  readonly rebalanceTimeoutMs: number;
  readonly clock: Clock;
  left: boolean;
}

/** A consumer group with cooperative rebalancing: a partition moves only after its old owner has drained and committed. */
export class MemoryGroup {
  readonly name: string;
  readonly committed = new Map<string, CommitOffset>();
  readonly members = new Map<string, GroupMember>();
  readonly #cluster: MemoryCluster;
  #rebalancing: Promise<void> = Promise.resolve();
  #nextId = 1;

  constructor(name: string, cluster: MemoryCluster) {
    this.name = name;
    this.#cluster = cluster;
  }

  /** A member from now on; `joined` resolves with its first assignment. */
  join(init: Omit<GroupMember, 'id' | 'owned' | 'left'>): { readonly member: GroupMember; readonly joined: Promise<void> } {
    const member: GroupMember = { ...init, id: `${init.clientId}-${this.#nextId++}`, owned: new Map(), left: false };
    this.members.set(member.id, member);
    return { member, joined: this.#rebalance() };
  }

  async leave(member: GroupMember): Promise<void> {
    member.left = true;
    if (!this.members.delete(member.id)) return;
    await this.#rebalance();
  }

  topicsChanged(): void {
    void this.#rebalance();
  }

  topicDeleted(topic: string): void {
    for (const [key, offset] of this.committed) if (offset.topic === topic) this.committed.delete(key);
    this.topicsChanged();
  }

  /** Puts a member out as an expired session does: it is told afterwards, its commits are refused, and it joins again. Resolves when it has. */
  async expire(member: GroupMember): Promise<void> {
    if (!this.members.delete(member.id)) return;
    const gone = [...member.owned.values()];
    member.owned.clear();
    member.listener.lost(gone);
    await this.#rebalance();
    if (member.left) return;
    this.members.set(member.id, member);
    await this.#rebalance();
  }

  commit(member: GroupMember, offsets: readonly CommitOffset[]): void {
    for (const offset of offsets) {
      if (this.members.has(member.id) && member.owned.has(keyOf(offset))) continue;
      throw new TurnpikeError(
        'MEMBERSHIP_LOST',
        `${this.name}: ${keyOf(offset)} is not this member's any more; whoever has it reads on from the last commit.`,
        { topic: offset.topic, partition: offset.partition, group: this.name },
      );
    }
    for (const offset of offsets) this.committed.set(keyOf(offset), offset);
  }

  #rebalance(): Promise<void> {
    this.#rebalancing = this.#rebalancing.then(() => this.#move());
    return this.#rebalancing;
  }

  async #move(): Promise<void> {
    const target = this.#target();
    await Promise.all(
      [...this.members.values()].map(async (member) => {
        const leaving = [...member.owned.values()].filter((tp) => target.get(keyOf(tp)) !== member.id);
        if (leaving.length === 0) return;
        // As with a broker: who can't drain, or not in time, loses the partition all the same.
        const drained = new AbortController();
        await Promise.race([member.listener.revoking(leaving).catch(() => {}), pause(member.clock, member.rebalanceTimeoutMs, drained.signal)]);
        drained.abort();
        for (const tp of leaving) member.owned.delete(keyOf(tp));
      }),
    );
    for (const member of this.members.values()) {
      const coming = this.#partitions(member.topics).filter((tp) => target.get(keyOf(tp)) === member.id && !member.owned.has(keyOf(tp)));
      if (coming.length === 0) continue;
      for (const tp of coming) member.owned.set(keyOf(tp), tp);
      member.onAssigned(coming);
      member.listener.assigned(coming);
    }
    this.#cluster.changed();
  }

  #partitions(topics: readonly string[]): TopicPartition[] {
    return topics.flatMap((topic) => (this.#cluster.topics.get(topic)?.partitions ?? []).map((_, partition) => ({ topic, partition })));
  }

  /** Partition -> member: what a member has it keeps, up to its fair share; the rest goes to whoever has least. */
  #target(): Map<string, string> {
    const members = [...this.members.values()];
    const target = new Map<string, string>();
    const load = new Map(members.map((m) => [m.id, 0]));
    const all = this.#partitions([...new Set(members.flatMap((m) => m.topics))]);
    const fairShare = Math.ceil(all.length / Math.max(members.length, 1));
    const give = (tp: TopicPartition, id: string) => {
      target.set(keyOf(tp), id);
      load.set(id, (load.get(id) ?? 0) + 1);
    };
    for (const tp of all) {
      const owner = members.find((m) => m.owned.has(keyOf(tp)) && m.topics.includes(tp.topic));
      if (owner && (load.get(owner.id) ?? 0) < fairShare) give(tp, owner.id);
    }
    for (const tp of all) {
      if (target.has(keyOf(tp))) continue;
      const least = members.filter((m) => m.topics.includes(tp.topic)).sort((a, b) => (load.get(a.id) ?? 0) - (load.get(b.id) ?? 0))[0];
      if (least) give(tp, least.id);
    }
    return target;
  }
}
