import { describe, expect, it } from 'vitest';
import { assign, decodeAssignment, decodeSubscription, encodeAssignment, encodeSubscription, type Member, partitionKey } from './assignor.ts';

/** A group that lives by its assignor: each round is a rebalance, until nothing moves. */
class Group {
  members: Member[] = [];
  generation = 0;
  readonly topics = new Map<string, number>();

  join(id: string, topics: readonly string[] = [...this.topics.keys()]): void {
    this.members.push({ id, topics, owned: [], generation: -1 });
  }

  /** One rebalance: every member gives up what it isn't assigned before the next. Returns how many partitions were taken from a member. */
  round(): number {
    const assigned = assign(this.members, (t) => this.topics.get(t) ?? 0);
    this.generation++;
    const before = new Map(this.members.flatMap((m) => m.owned.map((tp) => [partitionKey(tp), m.id])));
    for (const [id, tps] of assigned)
      for (const tp of tps) {
        const holder = before.get(partitionKey(tp));
        if (holder !== undefined && holder !== id) throw new Error(`${partitionKey(tp)} was given to ${id} while ${holder} still holds it`);
      }
    let taken = 0;
    this.members = this.members.map((m) => {
      const owned = assigned.get(m.id) ?? [];
      taken += m.owned.filter((tp) => !owned.some((o) => partitionKey(o) === partitionKey(tp))).length;
      return { ...m, owned, generation: this.generation };
    });
    return taken;
  }

  settle(): number {
    let moved = 0;
    for (let rounds = 0; rounds < 10; rounds++) {
      const taken = this.round();
      moved += taken;
      if (taken === 0) return moved;
    }
    throw new Error('the group does not come to rest');
  }

  get loads(): number[] {
    return this.members.map((m) => m.owned.length).sort((a, b) => a - b);
  }

  get covered(): number {
    return new Set(this.members.flatMap((m) => m.owned.map(partitionKey))).size;
  }
}

const random = (seed: number) => () => {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
  return seed / 2 ** 32;
};

describe('assign', () => {
  it('gives every partition to one member, evenly, and comes to rest', () => {
    const group = new Group();
    group.topics.set('a', 7).set('b', 5);
    for (const id of ['x', 'y', 'z']) group.join(id);
    group.settle();
    expect({ covered: group.covered, loads: group.loads }).toEqual({ covered: 12, loads: [4, 4, 4] });
  });

  it('moves no more than a newcomer needs, and nothing when a member leaves that others don’t take over', () => {
    const group = new Group();
    group.topics.set('a', 12);
    for (const id of ['x', 'y', 'z']) group.join(id);
    group.settle();
    group.join('w');
    expect(group.settle()).toBe(3);
    expect(group.loads).toEqual([3, 3, 3, 3]);
    group.members = group.members.filter((m) => m.id !== 'x');
    expect(group.settle()).toBe(0);
    expect({ covered: group.covered, loads: group.loads }).toEqual({ covered: 12, loads: [4, 4, 4] });
  });

  it('gives a topic only to who subscribes to it, and partitions that were added to whoever has least', () => {
    const group = new Group();
    group.topics.set('a', 4).set('b', 4);
    group.join('both');
    group.join('only-b', ['b']);
    group.settle();
    expect(group.members.find((m) => m.id === 'only-b')?.owned.every((tp) => tp.topic === 'b')).toBe(true);
    expect(group.covered).toBe(8);
    group.topics.set('b', 10);
    group.settle();
    expect({ covered: group.covered, loads: group.loads }).toEqual({ covered: 14, loads: [7, 7] });
  });

  it('leaves out topics that are gone', () => {
    const group = new Group();
    group.topics.set('a', 2).set('b', 2);
    group.join('x', ['a', 'b']);
    group.settle();
    group.topics.delete('a');
    group.settle();
    expect(group.members[0]?.owned.map(partitionKey)).toEqual(['b/0', 'b/1']);
  });

  it('believes the later generation where two members claim a partition', () => {
    const tp = { topic: 'a', partition: 0 };
    const members: Member[] = [
      { id: 'zombie', topics: ['a'], owned: [tp], generation: 3 },
      { id: 'owner', topics: ['a'], owned: [tp], generation: 5 },
    ];
    const assigned = assign(members, () => 1);
    expect(assigned.get('owner')).toEqual([tp]);
    expect(assigned.get('zombie')).toEqual([]);
  });

  it('holds in any history of joins, departures and growth: nothing is given twice, nothing is left over, loads differ by one at most', () => {
    for (let seed = 1; seed <= 30; seed++) {
      const next = random(seed);
      const group = new Group();
      group.topics.set('a', 1 + Math.floor(next() * 9)).set('b', 1 + Math.floor(next() * 9));
      group.join('m0');
      for (let step = 1; step < 15; step++) {
        const dice = next();
        if (dice < 0.5) group.join(`m${step}`);
        else if (dice < 0.8 && group.members.length > 1) group.members.splice(Math.floor(next() * group.members.length), 1);
        else group.topics.set('a', (group.topics.get('a') ?? 0) + 1);
        if (next() < 0.3)
          group.round(); // Another change comes before the group is at rest.
        else {
          group.settle();
          expect(group.covered).toBe((group.topics.get('a') ?? 0) + (group.topics.get('b') ?? 0));
          const { loads } = group;
          expect((loads.at(-1) ?? 0) - (loads[0] ?? 0)).toBeLessThanOrEqual(1);
        }
      }
    }
  });
});

describe('the group protocol’s bytes', () => {
  const owned = [
    { topic: 'a', partition: 0 },
    { topic: 'a', partition: 3 },
    { topic: 'ü', partition: 1 },
  ];

  it('reads back subscriptions and assignments', () => {
    const subscription = { topics: ['a', 'ü'], owned, generation: 9 };
    expect(decodeSubscription(encodeSubscription(subscription))).toEqual(subscription);
    expect(decodeAssignment(encodeAssignment(owned))).toEqual(owned);
    expect(decodeAssignment(Buffer.alloc(0))).toEqual([]);
  });

  it('reads subscriptions of older and of newer members (versions 0, 1 and 3)', () => {
    const v2 = encodeSubscription({ topics: ['a'], owned, generation: 9 });
    const version = (v: number, bytes: Buffer) => {
      const copy = Buffer.from(bytes);
      copy.writeInt16BE(v, 0);
      return copy;
    };
    const onlyTopics = Buffer.from(`0000000000010001${Buffer.from('a').toString('hex')}ffffffff`, 'hex');
    expect(decodeSubscription(onlyTopics)).toEqual({ topics: ['a'], owned: [], generation: -1 });
    expect(decodeSubscription(version(1, v2.subarray(0, -4)))).toEqual({ topics: ['a'], owned, generation: -1 });
    expect(decodeSubscription(version(3, Buffer.concat([v2, Buffer.from('ffff', 'hex')])))).toEqual({ topics: ['a'], owned, generation: 9 });
  });
});
