import type { LibrdKafkaError } from '@confluentinc/kafka-javascript';
import { type Clock, type CommitOffset, pause } from '@turnpike/core/spi';
import { partitionKey } from '../wire/assignor.ts';
import { LOCAL } from './errors.ts';
import type { PartitionOffset, RawConsumer } from './library.ts';

/** Commits under way: the library tells an outcome apart from the call, by its offsets. */
export class Commits {
  readonly #clock: Clock;
  readonly #waiting = new Map<string, PromiseWithResolvers<void>>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Rejects with the library's error; with TIMED_OUT of its numbers after `forMs`. */
  async commit(client: RawConsumer, offsets: readonly CommitOffset[], forMs: number): Promise<void> {
    const raw = offsets.map(({ topic, partition, offset, leaderEpoch, metadata }) => ({
      topic,
      partition,
      offset: Number(offset),
      ...(leaderEpoch === undefined ? {} : { leaderEpoch }),
      ...(metadata === undefined ? {} : { metadata }),
    }));
    const waiting = Promise.withResolvers<void>();
    const key = keyOf(raw);
    this.#waiting.set(key, waiting);
    const late = new AbortController();
    try {
      client.commit(raw);
      const over = pause(this.#clock, Math.max(forMs, 1), late.signal).then(() =>
        Promise.reject(Object.assign(new Error('no answer'), { code: LOCAL.TIMED_OUT })),
      );
      over.catch(() => {});
      await Promise.race([waiting.promise, over]);
    } finally {
      late.abort();
      this.#waiting.delete(key);
    }
  }

  /** What `offset_commit_cb` is told. */
  settle(error: LibrdKafkaError | undefined, offsets: readonly PartitionOffset[]): void {
    const waiting = this.#waiting.get(keyOf(offsets));
    if (error) waiting?.reject(error);
    else waiting?.resolve();
  }

  /** Nothing more will be told. */
  end(error: Error): void {
    for (const waiting of this.#waiting.values()) waiting.reject(error);
  }
}

const keyOf = (offsets: readonly PartitionOffset[]): string =>
  offsets
    .map((o) => `${partitionKey(o)}@${o.offset}`)
    .sort()
    .join();
