import type { Reader, Writer } from '@platformatic/kafka';

const UNKNOWN_MEMBER_ID = 25;
const FENCED_MEMBER_EPOCH = 110;
const UNRELEASED_INSTANCE_ID = 111;
const STALE_MEMBER_EPOCH = 113;

/** As it came; null = not said. */
export interface MemberHeartbeat {
  readonly member: string;
  readonly epoch: number;
  readonly instanceId: string | null;
  readonly rebalanceTimeoutMs: number;
  readonly topics: readonly string[] | null;
  /** Topic id / partition. */
  readonly owned: readonly string[] | null;
}

interface Member {
  readonly id: string;
  instanceId: string | null;
  epoch: number;
  previousEpoch: number;
  topics: readonly string[];
  /** What it may have at the moment, and what it shall have. */
  assigned: Set<string>;
  target: Set<string>;
  /** A static one that has said that it comes back. */
  away: boolean;
  heardAtMs: number;
}

/** "lost": heard and done, but the connection ends before the answer. */
export type HeartbeatOutcome = number | 'cut' | 'lost' | 'silence';

/** A KIP-848 group as Kafka's GroupCoordinator keeps one: epochs, a target for each member, and a partition that goes to nobody before its member has said that it is without it. */
export class FakeConsumerGroup {
  readonly members = new Map<string, Member>();
  readonly heartbeats: MemberHeartbeat[] = [];
  intervalMs = 30;
  /** A member that is not heard for so long is put out with the next heartbeat of another one. */
  sessionMs = Number.POSITIVE_INFINITY;
  epoch = 0;
  onHeartbeat: (heartbeat: MemberHeartbeat) => HeartbeatOutcome = () => 0;
  readonly #partitions: (topics: readonly string[]) => readonly string[];

  /** `partitions`: of these topics, as topic id / partition. */
  constructor(partitions: (topics: readonly string[]) => readonly string[]) {
    this.#partitions = partitions;
  }

  /** Who may commit: 0, or the error. */
  check(id: string, epoch: number): number {
    const member = this.members.get(id);
    if (!member) return UNKNOWN_MEMBER_ID;
    return member.epoch === epoch ? 0 : STALE_MEMBER_EPOCH;
  }

  /** Who has it. */
  ownerOf(partition: string): string | undefined {
    return [...this.members.values()].find((m) => m.assigned.has(partition))?.id;
  }

  /** As after a session without a heartbeat. */
  expel(id: string): void {
    if (this.members.delete(id)) this.rebalance();
  }

  rebalance(): void {
    this.epoch++;
    const members = [...this.members.values()];
    for (const m of members) m.target = new Set();
    const all = this.#partitions([...new Set(members.flatMap((m) => m.topics))]);
    const most = Math.ceil(all.length / Math.max(members.length, 1));
    const open = all.filter((p) => {
      const holder = members.find((m) => m.assigned.has(p) && m.target.size < most);
      holder?.target.add(p);
      return !holder;
    });
    for (const p of open) [...members].sort((a, b) => a.target.size - b.target.size)[0]?.target.add(p);
  }

  answer(r: Reader, w: Writer): Writer | 'cut' | 'silence' {
    r.readString();
    const heartbeat: MemberHeartbeat = {
      member: r.readString(),
      epoch: r.readInt32(),
      instanceId: r.readNullableString(),
      ...skip(r.readNullableString()),
      rebalanceTimeoutMs: r.readInt32(),
      topics: r.readNullableArray((r) => r.readString(), true, false),
      ...skip(r.readNullableString()),
      ...skip(r.readNullableString()),
      owned:
        r
          .readNullableArray((r) => {
            const id = r.readUUID();
            return r.readArray((r) => `${id}/${r.readInt32()}`, true, false);
          })
          ?.flat() ?? null,
    };
    this.heartbeats.push(heartbeat);
    const outcome = this.onHeartbeat(heartbeat);
    if (outcome === 'cut' || outcome === 'silence') return outcome;
    const code = typeof outcome === 'number' && outcome !== 0 ? outcome : this.#take(heartbeat);
    if (outcome === 'lost') return 'cut';
    const member = code === 0 ? this.members.get(heartbeat.member) : undefined;
    const saysAll = heartbeat.topics !== null && heartbeat.owned !== null;
    const due = member && (saysAll || this.#shown.get(member) !== shownOf(member));
    if (member) this.#shown.set(member, shownOf(member));
    w.appendInt32(0)
      .appendInt16(code)
      .appendString(null)
      .appendString(heartbeat.member)
      .appendInt32(member?.epoch ?? heartbeat.epoch)
      .appendInt32(this.intervalMs)
      .appendInt8(due ? 1 : -1);
    if (due) {
      const byTopic = [...Map.groupBy(may(member), (p) => p.split('/')[0] ?? '')];
      w.appendArray(byTopic, (w, [id, of]) =>
        w.appendUUID(id).appendArray(of, (w, p) => w.appendInt32(Number(p.split('/')[1])), true, false),
      ).appendTaggedFields();
    }
    return w.appendTaggedFields();
  }

  readonly #shown = new WeakMap<Member, string>();

  #take({ member: id, epoch, instanceId, topics, owned }: MemberHeartbeat): number {
    const now = performance.now();
    for (const m of this.members.values()) if (m.id !== id && now - m.heardAtMs > this.sessionMs) this.expel(m.id);
    if (epoch < 0) {
      const member = this.members.get(id);
      if (!member) return UNKNOWN_MEMBER_ID;
      if (epoch === -2) member.away = true;
      else this.expel(id);
      return 0;
    }
    if (epoch === 0) {
      const twin = instanceId === null ? undefined : [...this.members.values()].find((m) => m.instanceId === instanceId && m.id !== id);
      if (twin && !twin.away) return UNRELEASED_INSTANCE_ID;
      const before = twin ?? this.members.get(id);
      if (before) this.members.delete(before.id);
      const held = twin ? { assigned: twin.assigned, target: twin.target } : { assigned: new Set<string>(), target: new Set<string>() };
      this.members.set(id, { id, instanceId, epoch: 0, previousEpoch: 0, topics: topics ?? [], away: false, heardAtMs: now, ...held });
      if (!twin) this.rebalance();
    }
    const member = this.members.get(id);
    if (!member) return UNKNOWN_MEMBER_ID;
    member.heardAtMs = now;
    const isRetry = epoch === member.previousEpoch && owned !== null && owned.every((p) => member.assigned.has(p));
    if (epoch !== 0 && epoch !== member.epoch && !isRetry) return FENCED_MEMBER_EPOCH;
    const leaving = [...member.assigned].filter((p) => !member.target.has(p));
    if (leaving.length > 0 && (owned === null || owned.some((p) => leaving.includes(p)))) return 0;
    for (const p of leaving) member.assigned.delete(p);
    if (member.epoch !== this.epoch) {
      member.previousEpoch = member.epoch;
      member.epoch = this.epoch;
    }
    for (const p of member.target) if (this.ownerOf(p) === undefined) member.assigned.add(p);
    return 0;
  }
}

const skip = (_: unknown) => ({});
/** What a member is told: without what it must give up. */
const may = (m: Member): string[] => [...m.assigned].filter((p) => m.target.has(p)).sort();
const shownOf = (m: Member): string => may(m).join();
