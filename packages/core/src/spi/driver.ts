import type { TurnpikeError } from '../errors.ts';
import type { HeaderEntry } from '../headers.ts';
import type { TransactionPort } from './transport.ts';

/** A record in the accumulator, as a library takes it: views of memory that is safe until its batch has settled, and longer unless the driver says that it `copies`. */
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
  readonly count: number;
  /** Made when first read: a driver that sends `buf` as it is never asks. */
  readonly records: readonly BufferedRecord[];
  /** The records as a batch of magic 2 holds them (Kafka's protocol, "Record Batch"), from byte 61 to `end`, their offsets counted from 0 and their timestamps from `baseTimestampMs`.
   *  The 61 bytes in front are the driver's to fill in. */
  readonly buf: Buffer;
  readonly end: number;
  readonly baseTimestampMs: number;
  readonly maxTimestampMs: number;
  /** The whole batch compressed, header and all: the driver's own, from `prepare()`. */
  compressed: Buffer | undefined;
  /** Uncompressed, with the batch's header. */
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
  /** Certainly not written, and not at fault: one before it failed, and it goes again behind what becomes of that. */
  readonly again?: boolean;
  /** How often it was handed to a broker. */
  readonly attempts: number;
}

/** What stands behind `accumulate()`, which makes a `ProducerPort` of it. */
export interface ProduceDriver extends AsyncDisposable {
  /** There where the producer has a transactional id. The accumulator flushes before it ends one, and ends none as committed of which a record has failed. */
  readonly transaction?: TransactionPort;
  /** It keeps no view of a batch once it has given its outcome: the memory is used again. Default false. */
  readonly copies?: boolean;
  /** Rejects with TOPIC_UNKNOWN or AUTHORIZATION_FAILED. */
  warm(topics: readonly string[]): Promise<void>;
  /** Synchronous once warmed; refreshed in the background. */
  partitions(topic: string): number | undefined;
  /** Partitions of one lane share a flush; the leader's broker id where it is known, negative where there is none. A lane that is idle gets what there is, a busy one only batches that are full. */
  lane(topic: string, partition: number): number;
  /** Compresses; gives the size on the wire, which the quota is asked for. Never throws or rejects: what goes wrong is the batch's outcome. Without it a batch is charged uncompressed. */
  prepare?(batch: ProduceBatch): number | Promise<number>;
  /** Whether a batch of the partition may go while so many before it are under way (whose outcomes the driver has not given): it must not come to stand before one of them,
   *  whatever happens to that. Default: never. */
  pipelines?(topic: string, partition: number, underWay: number): boolean;
  /** Sends one flush. Resolves when the lane is free for the next, with an outcome per batch, in order, or with the promise of one where the batch is tried again,
   *  within its deadline: a partition in trouble must not hold up the others of its leader. Neither rejects; one batch's error is not another's. */
  produce(lane: number, batches: readonly ProduceBatch[]): Promise<readonly (ProduceOutcome | Promise<ProduceOutcome>)[]>;
}
