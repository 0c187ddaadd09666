import { AssertionError } from 'node:assert/strict';
import type { TurnpikeError } from '@turnpike/core';
import type { CommitOffset, ConsumerPort, FetchedBatch, InboundRecord, TopicPartition } from '@turnpike/core/spi';
import { aTurn, within } from './within.ts';

export interface ConsumerHooks {
  readonly onAssigned?: (partitions: readonly TopicPartition[]) => void;
  /** The partitions are given up when it resolves. */
  readonly onRevoking?: (partitions: readonly TopicPartition[]) => Promise<void>;
  readonly onLost?: (partitions: readonly TopicPartition[]) => void;
}

const keyOf = (tp: TopicPartition) => `${tp.topic}/${tp.partition}`;
/** How long records may take to come, in ms. */
const RECORDS_MS = 20_000;
const POLL_MS = 500;

/** A group member of the transport under test, driven at the seam as core drives it. */
export class ConsumerBench implements AsyncDisposable {
  readonly port: ConsumerPort;
  readonly group: string;
  /** All that polls have brought, in the order in which it came. */
  readonly records: InboundRecord[] = [];
  readonly batches: FetchedBatch[] = [];
  /** What is assigned at the moment, by `topic/partition`. */
  readonly assigned = new Map<string, TopicPartition>();
  /** Of every assignment and revocation, in order. */
  readonly changes: { readonly kind: 'assigned' | 'revoked' | 'lost'; readonly partitions: readonly TopicPartition[] }[] = [];
  failure: TurnpikeError | undefined;
  /** A case that has failed leaves loops behind: they end with it. */
  closed = false;
  readonly #hooks: ConsumerHooks;
  /** Where reading goes on, by partition. */
  readonly #next = new Map<string, CommitOffset>();
  #waiters: (() => void)[] = [];

  constructor(port: ConsumerPort, group: string, hooks: ConsumerHooks) {
    this.port = port;
    this.group = group;
    this.#hooks = hooks;
  }

  async subscribe(topics: readonly string[]): Promise<void> {
    await this.port.subscribe(topics, {
      assigned: (partitions) => {
        for (const tp of partitions) this.assigned.set(keyOf(tp), tp);
        this.#changed('assigned', partitions);
        this.#hooks.onAssigned?.(partitions);
      },
      revoking: async (partitions) => {
        await this.#hooks.onRevoking?.(partitions);
        this.#gone(partitions);
        this.#changed('revoked', partitions);
      },
      lost: (partitions) => {
        this.#gone(partitions);
        this.#changed('lost', partitions);
        this.#hooks.onLost?.(partitions);
      },
      failed: (error) => {
        this.failure ??= error;
        this.#wake();
      },
    });
  }

  /** Subscribes, and resolves when this member has `partitions` of them; polls meanwhile, as members do. */
  async join(topics: readonly string[], partitions: number, withinMs = RECORDS_MS): Promise<void> {
    await within(withinMs, this.subscribe(topics), `${this.group}: subscribe`);
    await this.until(() => this.assigned.size === partitions, { withinMs, what: `${partitions} partitions are assigned` });
  }

  /** One poll, kept. */
  async poll(maxWaitMs = POLL_MS, signal?: AbortSignal): Promise<readonly FetchedBatch[]> {
    const batches = await this.port.poll(maxWaitMs, signal);
    // A port that answers at once, again and again, must not keep the case's deadline from coming.
    if (batches.length === 0) await aTurn();
    for (const batch of batches) {
      this.batches.push(batch);
      this.records.push(...batch.records);
      const { topic, partition, nextOffset } = batch;
      this.#next.set(keyOf(batch), { topic, partition, offset: nextOffset });
    }
    return batches;
  }

  /** Polls until it is so. Rejects when it isn't within `withinMs`, or when the port has failed. */
  async until(
    isSo: () => boolean,
    { withinMs = RECORDS_MS, what = 'what the case waits for' }: { readonly withinMs?: number; readonly what?: string } = {},
  ): Promise<void> {
    const deadline = performance.now() + withinMs;
    while (!isSo()) {
      if (this.failure) throw this.failure;
      const leftMs = deadline - performance.now();
      if (leftMs <= 0)
        throw new AssertionError({
          message: `${this.group}: ${what}: not within ${withinMs} ms; ${this.records.length} records have come, ${[...this.assigned.keys()].join(', ') || 'nothing'} is assigned`,
        });
      await this.#pollOrChange(Math.min(POLL_MS, leftMs));
    }
  }

  /** Polls until at least `count` records have come, all in all. */
  untilCount(count: number, withinMs = RECORDS_MS): Promise<void> {
    return this.until(() => this.records.length >= count, { withinMs, what: `${count} records have come` });
  }

  /** Polls for so long; for what must not come. */
  async pollFor(ms: number): Promise<void> {
    const until = performance.now() + ms;
    for (let left = ms; left > 0; left = until - performance.now()) await this.poll(left);
  }

  /** Commits what has been polled of the partitions that are assigned. */
  commit(): Promise<void> {
    return this.port.commit([...this.#next.entries()].filter(([key]) => this.assigned.has(key)).map(([, offset]) => offset));
  }

  /** The values as text, in the order in which they came. */
  get values(): readonly (string | null)[] {
    return this.records.map((r) => r.value?.toString() ?? null);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.closed = true;
    await this.port[Symbol.asyncDispose]();
  }

  /** An assignment ends the wait early: the poll that runs is for those of before. */
  async #pollOrChange(ms: number): Promise<void> {
    const over = new AbortController();
    this.#waiters.push(() => over.abort());
    await this.poll(ms, over.signal);
    this.#waiters = [];
  }

  #gone(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) {
      this.assigned.delete(keyOf(tp));
      this.#next.delete(keyOf(tp));
    }
  }

  #changed(kind: 'assigned' | 'revoked' | 'lost', partitions: readonly TopicPartition[]): void {
    this.changes.push({ kind, partitions });
    this.#wake();
  }

  #wake(): void {
    for (const wake of this.#waiters) wake();
  }
}
