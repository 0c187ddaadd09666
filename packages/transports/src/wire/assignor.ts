import { Reader, Writer } from '@platformatic/kafka';
import type { TopicPartition } from '@turnpike/core/spi';

/** The name that Java's CooperativeStickyAssignor goes by: members of both kinds share a group. */
export const PROTOCOL = 'cooperative-sticky';

/** What a member tells the group's leader. */
export interface Subscription {
  readonly topics: readonly string[];
  readonly owned: readonly TopicPartition[];
  /** Of its last assignment; -1 = none yet. */
  readonly generation: number;
}

export interface Member extends Subscription {
  readonly id: string;
}

export const partitionKey = (tp: TopicPartition): string => `${tp.topic}/${tp.partition}`;

/** ConsumerProtocolSubscription, version 2: with what is owned (KIP-429) and since when (KIP-792). */
export function encodeSubscription({ topics, owned, generation }: Subscription): Buffer {
  const writer = Writer.create()
    .appendInt16(2)
    .appendArray([...topics], (w, topic) => w.appendString(topic, false), false, false)
    .appendBytes(null, false);
  return appendPartitions(writer, owned).appendInt32(generation).buffer;
}

export function decodeSubscription(bytes: Buffer): Subscription {
  const reader = Reader.from(bytes);
  const version = reader.readInt16();
  const topics = reader.readArray((r) => r.readString(false), false, false);
  reader.readNullableBytes(false);
  const owned = version >= 1 ? readPartitions(reader) : [];
  return { topics, owned, generation: version >= 2 ? reader.readInt32() : -1 };
}

/** ConsumerProtocolAssignment, version 0: later ones add nothing that is used. */
export function encodeAssignment(partitions: readonly TopicPartition[]): Buffer {
  return appendPartitions(Writer.create().appendInt16(0), partitions).appendBytes(null, false).buffer;
}

export function decodeAssignment(bytes: Buffer): readonly TopicPartition[] {
  if (bytes.length === 0) return []; // What the broker gives a member that the leader has left out.
  const reader = Reader.from(bytes);
  reader.readInt16();
  return readPartitions(reader);
}

function appendPartitions(writer: Writer, partitions: readonly TopicPartition[]): Writer {
  const byTopic = [...Map.groupBy(partitions, (tp) => tp.topic)];
  return writer.appendArray(
    byTopic,
    (w, [topic, of]) => {
      w.appendString(topic, false).appendArray(of, (w, tp) => w.appendInt32(tp.partition), false, false);
    },
    false,
    false,
  );
}

function readPartitions(reader: Reader): TopicPartition[] {
  return reader
    .readArray((r) => ({ topic: r.readString(false), partitions: r.readArray((r) => r.readInt32(), false, false) }), false, false)
    .flatMap(({ topic, partitions }) => partitions.map((partition) => ({ topic, partition })));
}

/** Balanced, and sticky: a member keeps what it has as far as the balance allows. A partition that another member still holds is given to nobody in this round; its
 *  holder gives it up and joins again, and then it is free (KIP-429). */
export function assign(members: readonly Member[], partitionsOf: (topic: string) => number): Map<string, readonly TopicPartition[]> {
  const holders = holdersOf(members);
  const target = balance(members, partitionsOf, holders);
  const result = new Map<string, TopicPartition[]>(members.map((m) => [m.id, []]));
  for (const { tp, member } of target.values()) {
    const holder = holders.get(partitionKey(tp));
    if (holder === undefined || holder === member) result.get(member)?.push(tp);
  }
  return result;
}

/** Who holds what; where two claim the same, the one of the later generation. */
function holdersOf(members: readonly Member[]): Map<string, string> {
  const holders = new Map<string, { id: string; generation: number }>();
  for (const { id, owned, generation } of members)
    for (const tp of owned) {
      const other = holders.get(partitionKey(tp));
      if (!other || other.generation < generation) holders.set(partitionKey(tp), { id, generation });
    }
  return new Map([...holders].map(([key, { id }]) => [key, id]));
}

interface Placement {
  readonly tp: TopicPartition;
  member: string;
}

function balance(members: readonly Member[], partitionsOf: (topic: string) => number, holders: ReadonlyMap<string, string>): Map<string, Placement> {
  const wants = new Map(members.map((m) => [m.id, new Set(m.topics)]));
  const topics = [...new Set(members.flatMap((m) => m.topics))].sort();
  const all = topics.flatMap((topic) => Array.from({ length: partitionsOf(topic) }, (_, partition) => ({ topic, partition })));
  const load = new Map(members.map((m) => [m.id, 0]).sort() as [string, number][]);
  const placed = new Map<string, Placement>();
  const place = (tp: TopicPartition, member: string) => {
    placed.set(partitionKey(tp), { tp, member });
    load.set(member, (load.get(member) ?? 0) + 1);
  };
  for (const tp of all) {
    const holder = holders.get(partitionKey(tp));
    if (holder !== undefined && wants.get(holder)?.has(tp.topic)) place(tp, holder);
  }
  for (const tp of all) {
    if (placed.has(partitionKey(tp))) continue;
    const least = leastLoaded(load, (id) => wants.get(id)?.has(tp.topic) ?? false);
    if (least !== undefined) place(tp, least);
  }
  // Moves one at a time from who has most to who has least, while that makes it more even.
  for (let moved = true; moved; ) {
    moved = false;
    for (const placement of placed.values()) {
      const to = leastLoaded(load, (id) => wants.get(id)?.has(placement.tp.topic) ?? false);
      if (to === undefined || (load.get(placement.member) ?? 0) - (load.get(to) ?? 0) < 2) continue;
      load.set(placement.member, (load.get(placement.member) ?? 0) - 1);
      load.set(to, (load.get(to) ?? 0) + 1);
      placement.member = to;
      moved = true;
    }
  }
  return placed;
}

function leastLoaded(load: ReadonlyMap<string, number>, eligible: (id: string) => boolean): string | undefined {
  let least: string | undefined;
  for (const [id, n] of load) if (eligible(id) && (least === undefined || n < (load.get(least) ?? 0))) least = id;
  return least;
}
