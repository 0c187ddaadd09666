import type { TurnpikeError } from '../errors.ts';
import type { HeaderEntry } from '../headers.ts';
import type { TransactionPort } from './transport.ts';

/** A record in the accumulator: its own bytes, safe until its batch has settled. */
export interface BufferedRecord {
  readonly key: Buffer | null;
  readonly value: Buffer | null;
  readonly headers: readonly HeaderEntry[] | undefined;
  readonly timestampMs: number;
}

/** One partition's part of a flush, in order. */
export interface ProduceBatch {
  readonly topic: string;
  readonly partition: number;
  readonly records: readonly BufferedRecord[];
  /** Uncompressed. */
  readonly bytes: number;
  /** Monotonic ms by which the driver must have given up. */
  readonly deadlineMs: number;
}

export interface ProduceOutcome {
  /** -1n where the broker doesn't say. */
  readonly baseOffset: bigint;
  readonly logAppendTimeMs?: number;
  /** With `written`. */
  readonly error?: TurnpikeError;
  readonly wireBytes?: number;
  /** With an error of the whole batch (and `written: "no"`): the indexes of the records that are at fault, where the broker tells (KIP-467). The others go again without them. */
  readonly rejected?: readonly number[];
  /** How often it was handed to a broker. */
  readonly attempts: number;
}

/** What a library-backed transport implements; `accumulate()` makes a `ProducerPort` of it. */
export interface ProduceDriver extends AsyncDisposable {
  /** There where the producer has a transactional id. The accumulator flushes before it ends one, and ends none as committed of which a record has failed. */
  readonly transaction?: TransactionPort;
  /** Rejects with TOPIC_UNKNOWN or AUTHORIZATION_FAILED. */
  warm(topics: readonly string[]): Promise<void>;
  /** Synchronous once warmed; refreshed in the background. */
  partitions(topic: string): number | undefined;
  /** Partitions of one lane share a flush, and each lane has one flush in flight; the leader's broker id where it is known. */
  lane(topic: string, partition: number): number;
  /** Sends one flush. Resolves when the lane is free for the next, with an outcome per batch, in order, or with the promise of one where the batch is tried again,
   *  within its deadline: a partition in trouble must not hold up the others of its leader. Neither rejects; one batch's error is not another's. */
  produce(lane: number, batches: readonly ProduceBatch[]): Promise<readonly (ProduceOutcome | Promise<ProduceOutcome>)[]>;
}
