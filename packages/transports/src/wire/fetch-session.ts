import type { TopicPartition } from '@turnpike/core/spi';
import type { FetchPartition } from './fetch.ts';

/** A partition as a session tells it apart. */
export interface SessionPartition extends FetchPartition {
  readonly key: string;
}

export interface SessionRequest {
  readonly sessionId: number;
  readonly sessionEpoch: number;
  readonly partitions: readonly FetchPartition[];
  readonly forgotten: readonly TopicPartition[];
}

/** Of a fetch that names all its partitions, and may begin a session. */
const FULL = 0;
const LAST_EPOCH = 2 ** 31 - 1;

/** What a broker remembers of this consumer's fetches (KIP-227): only what has changed since the last one is said again, and only partitions with news are answered. Where partitions are
 *  many and most are quiet, requests and answers are small. A broker has room for so many sessions (1,000 by default); without one every fetch is a full one. */
export class FetchSession {
  #id = 0;
  #epoch = FULL;
  #held = new Map<string, FetchPartition>();

  /** The request that asks for these partitions and no others. */
  next(partitions: readonly SessionPartition[]): SessionRequest {
    const held = new Map(partitions.map((p) => [p.key, p]));
    const before = this.#held;
    this.#held = held;
    if (this.#epoch === FULL) return { sessionId: this.#id, sessionEpoch: FULL, partitions, forgotten: [] };
    const changed = partitions.filter((p) => !isSame(before.get(p.key), p));
    const forgotten: TopicPartition[] = [];
    for (const [key, p] of before) if (!held.has(key)) forgotten.push(p);
    return { sessionId: this.#id, sessionEpoch: this.#epoch, partitions: changed, forgotten };
  }

  /** The last request has been answered. */
  answered(sessionId: number): void {
    if (this.#epoch === FULL) this.#id = sessionId;
    if (this.#id !== 0) this.#epoch = this.#epoch === LAST_EPOCH ? 1 : this.#epoch + 1;
  }

  /** The last request has failed, or the broker's epoch is another: what the broker remembers isn't known. The next fetch is a full one, and ends the session that there may be. */
  unsure(): void {
    this.#epoch = FULL;
  }

  /** The broker has given the session up. */
  gone(): void {
    this.#id = 0;
    this.#epoch = FULL;
  }
}

const isSame = (a: FetchPartition | undefined, b: FetchPartition): boolean =>
  a !== undefined && a.offset === b.offset && a.leaderEpoch === b.leaderEpoch && a.lastEpoch === b.lastEpoch;
