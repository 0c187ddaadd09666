import { CompressionAlgorithms, compressionsAlgorithms, crc32c } from '@platformatic/kafka';
import type { BufferedRecord, Compression } from '@turnpike/core/spi';

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
