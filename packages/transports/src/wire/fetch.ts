import { createAPI, type Reader, Writer } from '@platformatic/kafka';
import type { TopicPartition } from '@turnpike/core/spi';
import type { AbortedTransaction } from './batch-reader.ts';

/** What is asked of one partition. */
export interface FetchPartition extends TopicPartition {
  readonly offset: bigint;
  /** The leader's epoch as known, which the leader checks; -1 = not checked. */
  readonly leaderEpoch: number;
  /** The epoch of the last record that was read: by it the leader sees whether its log still holds what was read (KIP-320, KIP-595). -1 = not checked. */
  readonly lastEpoch: number;
}

export interface FetchRequest {
  readonly maxWaitMs: number;
  readonly maxBytes: number;
  readonly maxPartitionBytes: number;
  readonly readCommitted: boolean;
  readonly sessionId: number;
  readonly sessionEpoch: number;
  readonly partitions: readonly FetchPartition[];
  /** Of the session's partitions those that it shall no longer have. */
  readonly forgotten: readonly TopicPartition[];
}

/** Where the leader's log and what was read part. */
export interface DivergingEpoch {
  readonly epoch: number;
  readonly endOffset: bigint;
}

export interface FetchedPartition extends TopicPartition {
  readonly errorCode: number;
  readonly highWatermark: bigint;
  readonly aborted: readonly AbortedTransaction[];
  readonly diverging?: DivergingEpoch | undefined;
  /** Record batches as they came; the last one may be cut off. */
  readonly records: Buffer;
}

export interface FetchResponse {
  readonly throttleTimeMs: number;
  readonly errorCode: number;
  /** 0 = the broker keeps none. */
  readonly sessionId: number;
  readonly partitions: readonly FetchedPartition[];
}

const EMPTY = Buffer.alloc(0);
const NONE: readonly AbortedTransaction[] = [];
const DIVERGING_EPOCH = 0;

/** Fetch, version 12. The library's own parser decodes every record on arrival and knows one aborted range per producer; here records stay bytes. */
export const fetchApi = createAPI<[request: FetchRequest], FetchResponse>(1, 12, fetchRequest, parseFetch);

function fetchRequest({ maxWaitMs, maxBytes, maxPartitionBytes, readCommitted, sessionId, sessionEpoch, partitions, forgotten }: FetchRequest): Writer {
  return Writer.create()
    .appendInt32(-1) // a consumer, no replica
    .appendInt32(maxWaitMs)
    .appendInt32(1)
    .appendInt32(maxBytes)
    .appendInt8(readCommitted ? 1 : 0)
    .appendInt32(sessionId)
    .appendInt32(sessionEpoch)
    .appendArray([...Map.groupBy(partitions, (p) => p.topic)], (w, [topic, of]) => {
      w.appendString(topic).appendArray(of, (w, p) => {
        w.appendInt32(p.partition)
          .appendInt32(p.leaderEpoch)
          .appendInt64(p.offset)
          .appendInt32(p.lastEpoch)
          .appendInt64(-1n) // the log's start, which followers tell
          .appendInt32(maxPartitionBytes);
      });
    })
    .appendArray([...Map.groupBy(forgotten, (p) => p.topic)], (w, [topic, of]) => {
      w.appendString(topic).appendArray(of, (w, p) => w.appendInt32(p.partition), true, false);
    })
    .appendString('') // no rack
    .appendTaggedFields();
}

function parseFetch(_correlationId: number, _key: number, _version: number, r: Reader): FetchResponse {
  const throttleTimeMs = r.readInt32();
  const errorCode = r.readInt16();
  const sessionId = r.readInt32();
  const partitions: FetchedPartition[] = [];
  for (let topics = lengthOf(r); topics > 0; topics--) {
    const topic = r.readString();
    for (let left = lengthOf(r); left > 0; left--) partitions.push(parsePartition(r, topic));
    r.readTaggedFields();
  }
  r.readTaggedFields();
  return { throttleTimeMs, errorCode, sessionId, partitions };
}

function parsePartition(r: Reader, topic: string): FetchedPartition {
  const partition = r.readInt32();
  const errorCode = r.readInt16();
  const highWatermark = r.readInt64();
  r.readInt64(); // the last stable offset
  r.readInt64(); // the log's start
  const aborted = parseAborted(r);
  r.readInt32(); // the preferred replica: we give no rack, so there is none
  // A copy, unless it lies in one chunk of the socket's: so a record that is kept keeps this partition's bytes in memory, not the whole answer's.
  const records = r.readNullableBytes() ?? EMPTY;
  return { topic, partition, errorCode, highWatermark, aborted, diverging: parseDiverging(r), records };
}

function parseAborted(r: Reader): readonly AbortedTransaction[] {
  const count = lengthOf(r);
  if (count <= 0) return NONE;
  const aborted: AbortedTransaction[] = [];
  for (let left = count; left > 0; left--) {
    aborted.push({ producerId: r.readInt64(), firstOffset: r.readInt64() });
    r.readTaggedFields();
  }
  return aborted;
}

/** Of a partition's tagged fields the first. The current leader and a snapshot's id are passed over: what they tell is in the metadata, or a follower's. */
function parseDiverging(r: Reader): DivergingEpoch | undefined {
  let diverging: DivergingEpoch | undefined;
  for (let left = r.readUnsignedVarInt(); left > 0; left--) {
    const tag = r.readUnsignedVarInt();
    const size = r.readUnsignedVarInt();
    if (tag === DIVERGING_EPOCH) {
      const [epoch, endOffset] = [r.readInt32(), r.readInt64()];
      r.readTaggedFields();
      if (endOffset >= 0n) diverging = { epoch, endOffset };
    } else r.skip(size);
  }
  return diverging;
}

/** Of a compact array: its length plus one, 0 = null. */
const lengthOf = (r: Reader): number => r.readUnsignedVarInt() - 1;
