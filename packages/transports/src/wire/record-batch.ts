import { CompressionAlgorithms, compressionsAlgorithms, compressionsAlgorithmsByBitmask, crc32c } from '@platformatic/kafka';
import { type HeaderEntry, RecordHeaders, TurnpikeError } from '@turnpike/core';
import type { BufferedRecord, Compression, InboundRecord } from '@turnpike/core/spi';

// A record batch of magic 2 (Kafka's protocol, "Record Batch"): what stands where.
const BASE_OFFSET = 0;
const LENGTH = 8;
const MAGIC = 16;
const CRC = 17;
const ATTRIBUTES = 21;
const LAST_OFFSET_DELTA = 23;
const BASE_TIMESTAMP = 27;
const MAX_TIMESTAMP = 35;
const PRODUCER_ID = 43;
const PRODUCER_EPOCH = 51;
const BASE_SEQUENCE = 53;
const COUNT = 57;
const HEADER_BYTES = 61;
/** The fields before the length's own range. */
const LENGTH_FROM = 12;

const COMPRESSION_MASK = 0b111;
const LOG_APPEND_TIME = 1 << 3;
const TRANSACTIONAL = 1 << 4;
const CONTROL = 1 << 5;
const ABORT_MARKER = 0;

export interface ProducerState {
  readonly producerId: bigint;
  readonly epoch: number;
  readonly sequence: number;
}

/** Encodes one partition's records as one batch. Without a producer state the batch is not idempotent. */
export function encodeBatch(records: readonly BufferedRecord[], compression: Compression, producer: ProducerState | undefined): Buffer {
  const baseTimestamp = records[0]?.timestampMs ?? 0;
  let size = 0;
  const lengths = records.map((record, i) => {
    const length = recordLength(record, i, record.timestampMs - baseTimestamp);
    size += varintLength(length) + length;
    return length;
  });
  const plain = Buffer.allocUnsafe(HEADER_BYTES + size);
  let pos = HEADER_BYTES;
  let maxTimestamp = baseTimestamp;
  for (const [i, record] of records.entries()) {
    pos = writeRecord(plain, pos, record, { length: lengths[i] as number, offsetDelta: i, timestampDelta: record.timestampMs - baseTimestamp });
    if (record.timestampMs > maxTimestamp) maxTimestamp = record.timestampMs;
  }
  const batch = compression === 'none' ? plain : Buffer.concat([plain.subarray(0, HEADER_BYTES), compress(plain.subarray(HEADER_BYTES), compression)]);
  batch.writeBigInt64BE(0n, BASE_OFFSET);
  batch.writeInt32BE(batch.length - LENGTH_FROM, LENGTH);
  batch.writeInt32BE(-1, LENGTH_FROM); // the leader's epoch: the broker's to fill in
  batch.writeInt8(2, MAGIC);
  batch.writeInt16BE(compressionsAlgorithms[compression].bitmask, ATTRIBUTES);
  batch.writeInt32BE(records.length - 1, LAST_OFFSET_DELTA);
  batch.writeBigInt64BE(BigInt(baseTimestamp), BASE_TIMESTAMP);
  batch.writeBigInt64BE(BigInt(maxTimestamp), MAX_TIMESTAMP);
  batch.writeBigInt64BE(producer?.producerId ?? -1n, PRODUCER_ID);
  batch.writeInt16BE(producer?.epoch ?? -1, PRODUCER_EPOCH);
  batch.writeInt32BE(producer?.sequence ?? -1, BASE_SEQUENCE);
  batch.writeInt32BE(records.length, COUNT);
  batch.writeUInt32BE(crc32c(batch.subarray(ATTRIBUTES)), CRC);
  return batch;
}

export const COMPRESSIONS = Object.values(CompressionAlgorithms).filter((c) => compressionsAlgorithms[c].available) as readonly Compression[];

function compress(data: Buffer, compression: Compression): Buffer {
  return compressionsAlgorithms[compression].compressSync(data);
}

function recordLength(record: BufferedRecord, offsetDelta: number, timestampDelta: number): number {
  let length = 1 + varlongLength(timestampDelta) + varintLength(offsetDelta) + bytesLength(record.key) + bytesLength(record.value);
  length += varintLength(record.headers?.length ?? 0);
  for (const [name, value] of record.headers ?? []) {
    const nameLength = Buffer.byteLength(name);
    length += varintLength(nameLength) + nameLength + bytesLength(value);
  }
  return length;
}

function writeRecord(
  dst: Buffer,
  at: number,
  record: BufferedRecord,
  { length, offsetDelta, timestampDelta }: { readonly length: number; readonly offsetDelta: number; readonly timestampDelta: number },
): number {
  let pos = writeVarint(dst, at, length);
  dst[pos++] = 0; // attributes: none are defined
  pos = writeVarlong(dst, pos, timestampDelta);
  pos = writeVarint(dst, pos, offsetDelta);
  pos = writeBytes(dst, pos, record.key);
  pos = writeBytes(dst, pos, record.value);
  pos = writeVarint(dst, pos, record.headers?.length ?? 0);
  for (const [name, value] of record.headers ?? []) {
    pos = writeVarint(dst, pos, Buffer.byteLength(name));
    pos += dst.write(name, pos);
    pos = writeBytes(dst, pos, value);
  }
  return pos;
}

const bytesLength = (bytes: Uint8Array | null): number => (bytes === null ? 1 : varintLength(bytes.length) + bytes.length);

function writeBytes(dst: Buffer, pos: number, bytes: Uint8Array | null): number {
  if (bytes === null) return writeVarint(dst, pos, -1);
  const start = writeVarint(dst, pos, bytes.length);
  dst.set(bytes, start);
  return start + bytes.length;
}

// Zigzag varints, as Protocol Buffers have them. Lengths and counts fit 31 bits.
const zigzag = (value: number): number => ((value << 1) ^ (value >> 31)) >>> 0;

function varintLength(value: number): number {
  const z = zigzag(value);
  return z < 0x80 ? 1 : z < 0x4000 ? 2 : z < 0x20_0000 ? 3 : z < 0x1000_0000 ? 4 : 5;
}

function writeVarint(dst: Buffer, at: number, value: number): number {
  let pos = at;
  let z = zigzag(value);
  while (z > 0x7f) {
    dst[pos++] = (z & 0x7f) | 0x80;
    z >>>= 7;
  }
  dst[pos++] = z;
  return pos;
}

const fitsInt = (value: number): boolean => value >= -0x4000_0000 && value < 0x4000_0000;
const zigzagLong = (value: number): bigint => BigInt.asUintN(64, (BigInt(value) << 1n) ^ (BigInt(value) >> 63n));

function varlongLength(value: number): number {
  if (fitsInt(value)) return varintLength(value);
  let length = 1;
  for (let z = zigzagLong(value); z > 0x7fn; z >>= 7n) length++;
  return length;
}

function writeVarlong(dst: Buffer, at: number, value: number): number {
  if (fitsInt(value)) return writeVarint(dst, at, value);
  let pos = at;
  let z = zigzagLong(value);
  for (; z > 0x7fn; z >>= 7n) dst[pos++] = Number(z & 0x7fn) | 0x80;
  dst[pos++] = Number(z);
  return pos;
}

export interface FetchedRecords {
  readonly records: readonly InboundRecord[];
  /** Past everything that was read: control records and aborted ones too. undefined = not even one whole batch was there. */
  readonly nextOffset: bigint | undefined;
}

export interface AbortedTransaction {
  readonly producerId: bigint;
  readonly firstOffset: bigint;
}

/** Reads the batches of one partition's answer from `fetchOffset` on. A last batch that is cut off is left for the next fetch.
 *  @throws TurnpikeError BROKER_REJECTED: a checksum is wrong, or a format is unknown. */
export function decodeBatches(
  data: Buffer,
  where: { readonly topic: string; readonly partition: number; readonly fetchOffset: bigint },
  aborted: readonly AbortedTransaction[],
): FetchedRecords {
  const records: InboundRecord[] = [];
  let nextOffset: bigint | undefined;
  // Several aborted ranges of one producer come one after another; each ends with that producer's abort marker.
  const upcoming = [...aborted].sort((a, b) => (a.firstOffset < b.firstOffset ? -1 : 1));
  const aborting = new Set<bigint>();
  for (let at = 0; at + LENGTH_FROM <= data.length; ) {
    const end = at + LENGTH_FROM + data.readInt32BE(at + LENGTH);
    if (end > data.length) break;
    const batch = data.subarray(at, end);
    at = end;
    check(batch, where);
    const lastOffset = batch.readBigInt64BE(BASE_OFFSET) + BigInt(batch.readInt32BE(LAST_OFFSET_DELTA));
    nextOffset = lastOffset < where.fetchOffset ? where.fetchOffset : lastOffset + 1n;
    if (lastOffset < where.fetchOffset) continue;
    const attributes = batch.readInt16BE(ATTRIBUTES);
    const producerId = batch.readBigInt64BE(PRODUCER_ID);
    while (upcoming[0] !== undefined && upcoming[0].firstOffset <= lastOffset) aborting.add((upcoming.shift() as AbortedTransaction).producerId);
    if (attributes & CONTROL) {
      if (controlType(batch) === ABORT_MARKER) aborting.delete(producerId);
    } else if (!(attributes & TRANSACTIONAL && aborting.has(producerId))) readRecords(batch, attributes, where, records);
  }
  return { records, nextOffset };
}

function check(batch: Buffer, { topic, partition }: { readonly topic: string; readonly partition: number }): void {
  const magic = batch.readInt8(MAGIC);
  const facts = { topic, partition };
  if (magic !== 2)
    throw new TurnpikeError(
      'BROKER_REJECTED',
      `${topic}/${partition} holds a batch of format ${magic}; only 2 (Kafka 0.11 and newer) can be read. Let retention remove it, or seek past it.`,
      facts,
    );
  if (crc32c(batch.subarray(ATTRIBUTES)) !== batch.readUInt32BE(CRC))
    throw new TurnpikeError(
      'BROKER_REJECTED',
      `${topic}/${partition}@${batch.readBigInt64BE(BASE_OFFSET)}: the batch's checksum is wrong: it was damaged on the way or on the broker's disk.`,
      {
        ...facts,
        offset: batch.readBigInt64BE(BASE_OFFSET),
      },
    );
}

/** A control batch holds one record, whose key is a version and a type, two bytes each. */
function controlType(batch: Buffer): number {
  const cursor = { buf: batch, pos: HEADER_BYTES };
  readVarint(cursor);
  cursor.pos++;
  readVarlong(cursor);
  readVarint(cursor);
  const key = readBytes(cursor);
  return key === null ? -1 : key.readInt16BE(2);
}

interface Cursor {
  readonly buf: Buffer;
  pos: number;
}

function readRecords(
  batch: Buffer,
  attributes: number,
  { topic, partition, fetchOffset }: { readonly topic: string; readonly partition: number; readonly fetchOffset: bigint },
  into: InboundRecord[],
): void {
  const baseOffset = batch.readBigInt64BE(BASE_OFFSET);
  const baseTimestamp = Number(batch.readBigInt64BE(BASE_TIMESTAMP));
  const appendTime = attributes & LOG_APPEND_TIME ? Number(batch.readBigInt64BE(MAX_TIMESTAMP)) : undefined;
  const leaderEpoch = batch.readInt32BE(LENGTH_FROM);
  const body = batch.subarray(HEADER_BYTES);
  const codec = compressionsAlgorithmsByBitmask[attributes & COMPRESSION_MASK];
  if (!codec)
    throw new TurnpikeError('BROKER_REJECTED', `${topic}/${partition}@${baseOffset}: compressed in a way that is unknown (${attributes & COMPRESSION_MASK}).`, {
      topic,
      partition,
      offset: baseOffset,
    });
  const cursor: Cursor = { buf: attributes & COMPRESSION_MASK ? codec.decompressSync(body) : body, pos: 0 };
  for (let left = batch.readInt32BE(COUNT); left > 0; left--) {
    const length = readVarint(cursor);
    const end = cursor.pos + length;
    cursor.pos++; // attributes
    const timestampDelta = readVarlong(cursor);
    const offset = baseOffset + BigInt(readVarint(cursor));
    // A batch begins before the offset that was asked for when that lies in its middle.
    if (offset >= fetchOffset) {
      const key = readBytes(cursor);
      const value = readBytes(cursor);
      const timestampMs = appendTime ?? baseTimestamp + timestampDelta;
      into.push({ topic, partition, offset, timestampMs, leaderEpoch, key, value, headers: readHeaders(cursor) });
    }
    cursor.pos = end;
  }
}

function readHeaders(cursor: Cursor): RecordHeaders {
  const entries: HeaderEntry[] = [];
  for (let left = readVarint(cursor); left > 0; left--) entries.push([readBytes(cursor)?.toString() ?? '', readBytes(cursor)]);
  return RecordHeaders.of(entries);
}

function readBytes(cursor: Cursor): Buffer | null {
  const length = readVarint(cursor);
  if (length < 0) return null;
  const start = cursor.pos;
  cursor.pos = start + length;
  return cursor.buf.subarray(start, cursor.pos);
}

function byteAt(cursor: Cursor): number {
  const byte = cursor.buf[cursor.pos++];
  // A length that lies: without this a varint would be read for ever.
  if (byte === undefined) throw new RangeError('a record reaches past the end of its batch');
  return byte;
}

function readVarint(cursor: Cursor): number {
  let z = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = byteAt(cursor);
    z |= (byte & 0x7f) << shift;
    if (byte < 0x80) return (z >>> 1) ^ -(z & 1);
  }
}

function readVarlong(cursor: Cursor): number {
  let z = 0n;
  for (let shift = 0n; ; shift += 7n) {
    const byte = byteAt(cursor);
    // Nearly all deltas are small: five bytes fit a number.
    if (shift === 0n && byte < 0x80) return (byte >>> 1) ^ -(byte & 1);
    z |= BigInt(byte & 0x7f) << shift;
    if (byte < 0x80) return Number((z >> 1n) ^ -(z & 1n));
  }
}
