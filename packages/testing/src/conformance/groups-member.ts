import { asTurnpikeError, type ProducerOptions, type TurnpikeError } from '@turnpike/core';
import { type CommitOffset, type FetchedBatch, type InboundRecord, pause, systemClock, type TopicPartition } from '@turnpike/core/spi';
import type { ConsumerBenchOptions, LinkBench } from './bench.ts';
import type { ConsumerBench } from './consumer-bench.ts';
import { eventually, within } from './within.ts';

const keyOf = (tp: TopicPartition) => `${tp.topic}/${tp.partition}`;
const COMMIT_EVERY_MS = 100;
const POLL_MS = 200;

/** One change of an assignment, of any member: `at` counts the changes of all members that share a ledger. */
export interface Change {
  readonly at: number;
  readonly member: string;
  readonly kind: 'assigned' | 'revoking' | 'revoked' | 'lost';
  readonly partitions: readonly string[];
}

/** What the members of one group have done, in the order in which it happened. */
export class Ledger {
  readonly changes: Change[] = [];
  /** value -> who handled it, in order. */
  readonly handled = new Map<string, string[]>();

  change(member: string, kind: Change['kind'], partitions: readonly TopicPartition[]): void {
    this.changes.push({ at: this.changes.length, member, kind, partitions: partitions.map(keyOf) });
  }

  record(member: string, { value }: InboundRecord): void {
    const text = value?.toString() ?? '';
    this.handled.set(text, [...(this.handled.get(text) ?? []), member]);
  }

  /** Values that were handled more than once, with who did. */
  get repeated(): readonly (readonly [string, readonly string[]])[] {
    return [...this.handled].filter(([, by]) => by.length > 1);
  }

  /** Partitions that a member got while another one still had them: before revoking() of that one had resolved. */
  get doubleOwners(): readonly string[] {
    const owner = new Map<string, string>();
    const found: string[] = [];
    for (const { member, kind, partitions } of this.changes)
      for (const partition of partitions) {
        const current = owner.get(partition);
        if (kind === 'assigned' && current !== undefined && current !== member) found.push(`${partition} came to ${member} while ${current} had it`);
        if (kind === 'assigned') owner.set(partition, member);
        else if (kind !== 'revoking' && current === member) owner.delete(partition);
      }
    return found;
  }

  of(member: string, kind: Change['kind']): readonly string[] {
    return this.changes.filter((c) => c.member === member && c.kind === kind).flatMap((c) => c.partitions);
  }
}

export interface MemberOptions extends ConsumerBenchOptions {
  readonly name: string;
  readonly ledger: Ledger;
  /** How long it takes to drain what is revoked. */
  readonly draining?: () => Promise<void>;
}

/** A group member that handles and commits in the background, as core does: what is revoked is handled no more, committed, then given up. */
export class Member {
  readonly consumer: ConsumerBench;
  readonly name: string;
  readonly #ledger: Ledger;
  /** Of the partitions that it may handle: where handling goes on, and whether that is committed. */
  readonly #lanes = new Map<string, { offset: CommitOffset | undefined; dirty: boolean; revoked: boolean }>();
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;
  #commits: Promise<void> = Promise.resolve();
  failure: TurnpikeError | undefined;

  private constructor(consumer: ConsumerBench, { name, ledger }: MemberOptions) {
    this.consumer = consumer;
    this.name = name;
    this.#ledger = ledger;
  }

  /** Joins; resolves when the join has begun and it handles what it is given. */
  static async start(link: LinkBench, topic: string, { name, ledger, draining, ...options }: MemberOptions): Promise<Member> {
    const consumer = await link.consumer({
      ...options,
      onAssigned: (tps) => member.#assigned(tps),
      onRevoking: async (tps) => {
        ledger.change(name, 'revoking', tps);
        await draining?.();
        await member.#revoked(tps);
      },
      onLost: (tps) => {
        ledger.change(name, 'lost', tps);
        for (const tp of tps) member.#lanes.delete(keyOf(tp));
      },
    });
    const member = new Member(consumer, { name, ledger });
    member.#running = member.#run(topic);
    member.#running.catch(() => {}); // Whoever closes it hears of it.
    return member;
  }

  get partitions(): readonly number[] {
    return [...this.consumer.assigned.values()].map((tp) => tp.partition).sort((a, b) => a - b);
  }

  /** Handles and commits what it has, then leaves. Rejects with what has failed. */
  async close(): Promise<void> {
    this.#stop.abort();
    await within(20_000, this.#running ?? Promise.resolve(), `${this.name}: its last poll ends`);
    await this.#commit([...this.#lanes.keys()]);
    this.#ledger.change(this.name, 'revoked', [...this.consumer.assigned.values()]);
    this.#lanes.clear();
    await within(20_000, this.consumer[Symbol.asyncDispose](), `${this.name}: close`);
  }

  #assigned(tps: readonly TopicPartition[]): void {
    this.#ledger.change(this.name, 'assigned', tps);
    for (const tp of tps) this.#lanes.set(keyOf(tp), { offset: undefined, dirty: false, revoked: false });
  }

  async #revoked(tps: readonly TopicPartition[]): Promise<void> {
    const keys = tps.map(keyOf);
    const lanes = keys.map((key) => this.#lanes.get(key));
    // What comes while the commit is under way would be handled, and not committed.
    for (const lane of lanes) if (lane) lane.revoked = true;
    await this.#commit(keys);
    // It may have been lost, and assigned anew, meanwhile.
    for (const [i, key] of keys.entries()) if (this.#lanes.get(key) === lanes[i]) this.#lanes.delete(key);
    this.#ledger.change(this.name, 'revoked', tps);
  }

  async #run(topic: string): Promise<void> {
    const joined = this.consumer.subscribe([topic]);
    joined.catch(() => {});
    let committedAt = performance.now();
    try {
      while (!this.#stop.signal.aborted && !this.consumer.closed) {
        if (this.consumer.failure) throw this.consumer.failure;
        for (const batch of await this.consumer.poll(POLL_MS, this.#stop.signal)) this.#handle(batch);
        if (performance.now() - committedAt < COMMIT_EVERY_MS) continue;
        await this.#commit([...this.#lanes.keys()]);
        committedAt = performance.now();
      }
      await joined;
    } catch (error) {
      this.failure = asTurnpikeError(error, 'INTERNAL', `${this.name} failed`);
      throw error;
    }
  }

  #handle(batch: FetchedBatch): void {
    const lane = this.#lanes.get(keyOf(batch));
    if (!lane || lane.revoked) return; // Revoked since it was fetched: another member reads it.
    for (const record of batch.records) this.#ledger.record(this.name, record);
    lane.offset = { topic: batch.topic, partition: batch.partition, offset: batch.nextOffset };
    lane.dirty = true;
  }

  /** One after another, so that an older offset never lands on a newer one. */
  #commit(keys: readonly string[]): Promise<void> {
    this.#commits = this.#commits.then(() => this.#commitNow(keys));
    return this.#commits;
  }

  async #commitNow(keys: readonly string[]): Promise<void> {
    const due = keys.flatMap((key) => this.#lanes.get(key) ?? []).filter((lane) => lane.dirty);
    const offsets = due.flatMap((lane) => lane.offset ?? []);
    if (offsets.length === 0) return;
    for (const lane of due) lane.dirty = false;
    try {
      await this.consumer.port.commit(offsets);
    } catch (error) {
      for (const lane of due) lane.dirty = true;
      const { code, retriable } = asTurnpikeError(error, 'INTERNAL', `${this.name}: the commit failed`);
      if (code !== 'MEMBERSHIP_LOST' && !retriable) throw error;
    }
  }
}

/** Resolves when the members have so many partitions each, in any order. */
export async function untilShared(members: readonly Member[], counts: readonly number[], withinMs = 20_000): Promise<void> {
  await eventually(
    withinMs,
    () => {
      for (const { failure } of members) if (failure) throw failure;
      return members.map((m) => m.partitions.length).sort((a, b) => a - b);
    },
    (shares) => shares.join() === [...counts].sort((a, b) => a - b).join(),
    `the group shares its partitions as ${counts.join(' and ')}`,
  );
}

/** Records that flow, one after another over all partitions, until it is stopped. */
export class Flow {
  readonly sent: string[] = [];
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;

  private constructor(link: LinkBench, topic: string, partitions: number, options: ProducerOptions) {
    this.#running = this.#run(link, topic, partitions, options);
    this.#running.catch(() => {});
  }

  static start(link: LinkBench, topic: string, partitions: number, options: ProducerOptions = {}): Flow {
    return new Flow(link, topic, partitions, options);
  }

  /** Resolves when `count` more have been acknowledged than at the call. */
  async more(count: number): Promise<void> {
    const until = this.sent.length + count;
    await Promise.race([
      this.#running,
      eventually(
        20_000,
        () => this.sent.length,
        (n) => n >= until,
        `${count} more records are acknowledged`,
      ),
    ]);
  }

  /** Rejects with the first record's error. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await within(20_000, this.#running, 'the last record is acknowledged');
  }

  async #run(link: LinkBench, topic: string, partitions: number, options: ProducerOptions): Promise<void> {
    const producer = await link.producer(options);
    for (let n = 0; !this.#stop.signal.aborted; n++) {
      await Promise.all(
        Array.from({ length: partitions }, async (_, partition) => {
          const value = `${partition}.${n}`;
          await producer.send({ topic, partition, value });
          this.sent.push(value);
        }),
      );
      await pause(systemClock, 5, this.#stop.signal);
    }
  }
}
