import { createAPI, type Reader, Writer } from '@platformatic/kafka';
import type { AbortedTransaction } from './record-batch.ts';

export interface FetchPartition {
  readonly topic: string;
  readonly partition: number;
  readonly offset: bigint;
}

export interface FetchRequest {
  readonly maxWaitMs: number;
  readonly maxBytes: number;
  readonly maxPartitionBytes: number;
  readonly readCommitted: boolean;
  readonly partitions: readonly FetchPartition[];
}

export interface FetchedPartition {
  readonly topic: string;
  readonly partition: number;
  readonly errorCode: number;
  readonly highWatermark: bigint;
  readonly aborted: readonly AbortedTransaction[];
  /** Record batches as they came; the last one may be cut off. */
  readonly records: Buffer;
}

export interface FetchResponse {
  readonly throttleTimeMs: number;
  readonly errorCode: number;
  readonly partitions: readonly FetchedPartition[];
}

const NO_SESSION = { id: 0, epoch: -1 };
const EMPTY = Buffer.alloc(0);

/** Fetch, version 12, without a session (KIP-227). The library's own parser decodes every record on arrival and knows one aborted range per producer; here records stay bytes. */
export const fetchApi = createAPI<[request: FetchRequest], FetchResponse>(1, 12, fetchRequest, parseFetch);

function fetchRequest({ maxWaitMs, maxBytes, maxPartitionBytes, readCommitted, partitions }: FetchRequest): Writer {
  return Writer.create()
    .appendInt32(-1) // a consumer, no replica
    .appendInt32(maxWaitMs)
    .appendInt32(1)
    .appendInt32(maxBytes)
    .appendInt8(readCommitted ? 1 : 0)
    .appendInt32(NO_SESSION.id)
    .appendInt32(NO_SESSION.epoch)
    .appendArray([...Map.groupBy(partitions, (p) => p.topic)], (w, [topic, of]) => {
      w.appendString(topic).appendArray(of, (w, p) => {
        w.appendInt32(p.partition)
          .appendInt32(-1) // the leader's epoch as known: not checked
          .appendInt64(p.offset)
          .appendInt32(-1)
          .appendInt64(-1n)
          .appendInt32(maxPartitionBytes);
      });
    })
    .appendArray([], () => {})
    .appendString('')
    .appendTaggedFields();
}

function parseFetch(_correlationId: number, _key: number, _version: number, reader: Reader): FetchResponse {
  const throttleTimeMs = reader.readInt32();
  const errorCode = reader.readInt16();
  reader.readInt32(); // the session's id
  const partitions = reader
    .readArray((r) => {
      const topic = r.readString();
      return r.readArray((r) => parsePartition(r, topic));
    })
    .flat();
  reader.readTaggedFields();
  return { throttleTimeMs, errorCode, partitions };
}

/** Its tagged fields (diverging epoch, current leader, snapshot) are passed over by readArray(). */
function parsePartition(r: Reader, topic: string): FetchedPartition {
  const partition = r.readInt32();
  const errorCode = r.readInt16();
  const highWatermark = r.readInt64();
  r.readInt64(); // the last stable offset
  r.readInt64(); // the log's start
  const aborted = r.readNullableArray((r) => ({ producerId: r.readInt64(), firstOffset: r.readInt64() })) ?? [];
  r.readInt32(); // the preferred replica: we give no rack, so there is none
  const records = r.readNullableBytes() ?? EMPTY;
  return { topic, partition, errorCode, highWatermark, aborted, records };
}
