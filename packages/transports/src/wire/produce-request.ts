import { createAPI, type Reader, Writer } from '@platformatic/kafka';

export interface ProduceRequest {
  /** -1 = all. */
  readonly acks: number;
  readonly timeoutMs: number;
  readonly transactionalId: string | undefined;
  /** Asked when the request is written, which may be later than it was made: what has ended meanwhile goes no more, and its memory may hold something else by then. Throws where nothing is left. */
  readonly batches: () => readonly SealedBatch[];
}

export interface SealedBatch {
  readonly topic: string;
  readonly partition: number;
  readonly sealed: Buffer;
}

export interface ProducedPartition {
  readonly topic: string;
  readonly partition: number;
  readonly errorCode: number;
  readonly baseOffset: bigint;
  /** -1 = the topic doesn't use LogAppendTime. */
  readonly logAppendTimeMs: number;
  /** The indexes of the records at fault (KIP-467). */
  readonly rejected: readonly number[];
  readonly message: string | undefined;
}

export interface ProduceResponse {
  readonly throttleTimeMs: number;
  readonly partitions: readonly ProducedPartition[];
}

/** Produce, version 9: the first with flexible fields, spoken by Kafka 2.8 and newer. The library's own throws where one partition has an error. */
export const produceApi = createAPI<[request: ProduceRequest], ProduceResponse>(0, 9, writeProduce, parseProduce);

function writeProduce({ acks, timeoutMs, transactionalId, batches }: ProduceRequest): Writer {
  const byTopic = Map.groupBy(batches(), (b) => b.topic);
  const writer = Writer.create()
    .appendString(transactionalId ?? null)
    .appendInt16(acks)
    .appendInt32(timeoutMs)
    .appendUnsignedVarInt(byTopic.size + 1);
  for (const [topic, of] of byTopic) {
    writer.appendString(topic).appendUnsignedVarInt(of.length + 1);
    for (const { partition, sealed } of of)
      writer
        .appendInt32(partition)
        .appendUnsignedVarInt(sealed.length + 1)
        .append(sealed)
        .appendTaggedFields();
    writer.appendTaggedFields();
  }
  writer.appendTaggedFields();
  if (acks === 0) writer.context.noResponse = true;
  return writer;
}

function parseProduce(_correlationId: number, _key: number, _version: number, reader: Reader): ProduceResponse {
  const partitions: ProducedPartition[] = [];
  reader.readArray((r) => {
    const topic = r.readString();
    return r.readArray((r) => void partitions.push(parsePartition(r, topic)));
  });
  const throttleTimeMs = reader.readInt32();
  reader.readTaggedFields();
  return { throttleTimeMs, partitions };
}

function parsePartition(r: Reader, topic: string): ProducedPartition {
  const partition = r.readInt32();
  const errorCode = r.readInt16();
  const baseOffset = r.readInt64();
  const logAppendTimeMs = Number(r.readInt64());
  r.readInt64(); // the log's start
  const errors = r.readArray((r) => ({ index: r.readInt32(), message: r.readNullableString() }));
  const message = r.readNullableString() ?? errors[0]?.message ?? undefined;
  return { topic, partition, errorCode, baseOffset, logAppendTimeMs, rejected: errors.map((e) => e.index), message };
}
