import { promisify } from 'node:util';
import { gzip, zstdCompress } from 'node:zlib';
import { CompressionAlgorithms, compressionsAlgorithms } from '@platformatic/kafka';
import type { Compression, ProduceBatch } from '@turnpike/core/spi';
import {
  ATTRIBUTES,
  BASE_SEQUENCE,
  BASE_TIMESTAMP,
  COUNT,
  CRC,
  HEADER_BYTES,
  LAST_OFFSET_DELTA,
  LEADER_EPOCH,
  LENGTH,
  MAGIC,
  MAX_TIMESTAMP,
  PRODUCER_EPOCH,
  PRODUCER_ID,
  TRANSACTIONAL,
} from './batch-format.ts';
import { crc32c } from './crc32c.ts';

/** From so many bytes on a batch is compressed in the thread pool: below it the way there costs more than the work. */
const ASIDE_BYTES = 8 * 1024;

export const COMPRESSIONS = Object.values(CompressionAlgorithms).filter((c) => compressionsAlgorithms[c].available) as readonly Compression[];

/** Where a batch stands among those of its producer. */
export interface BatchSequence {
  readonly producerId: bigint;
  readonly epoch: number;
  readonly sequence: number;
}

/** Those that have work for a thread of their own. */
const aside: Partial<Readonly<Record<Compression, (data: Buffer) => Promise<Buffer>>>> = { gzip: promisify(gzip), zstd: promisify(zstdCompress) };

/** Compresses the batch's records; gives its size on the wire. Never throws or rejects: sealBatch() tries once more, and its error is the batch's. */
export function compressBatch(batch: ProduceBatch, compression: Compression): number | Promise<number> {
  if (compression === 'none') return batch.bytes;
  const records = batch.buf.subarray(HEADER_BYTES, batch.end);
  const compress = records.length < ASIDE_BYTES ? undefined : aside[compression];
  const keep = (compressed: Buffer): number => {
    batch.compressed = withHeader(compressed);
    return batch.compressed.length;
  };
  if (compress) return compress(records).then(keep, () => batch.bytes);
  try {
    return keep(compressionsAlgorithms[compression].compressSync(records));
  } catch {
    return batch.bytes;
  }
}

/** Fills in the header. Without a sequence the batch is not idempotent. The view that it gives is of the batch's own memory. */
export function sealBatch(batch: ProduceBatch, compression: Compression, sequence: BatchSequence | undefined, transactional: boolean): Buffer {
  if (compression !== 'none') batch.compressed ??= withHeader(compressionsAlgorithms[compression].compressSync(batch.buf.subarray(HEADER_BYTES, batch.end)));
  const sealed = batch.compressed ?? batch.buf.subarray(0, batch.end);
  sealed.fill(0, 0, LENGTH); // the base offset
  sealed.writeInt32BE(sealed.length - LEADER_EPOCH, LENGTH);
  sealed.writeInt32BE(-1, LEADER_EPOCH); // the broker's to fill in
  sealed[MAGIC] = 2;
  sealed.writeInt16BE(compressionsAlgorithms[compression].bitmask | (transactional ? TRANSACTIONAL : 0), ATTRIBUTES);
  sealed.writeInt32BE(batch.count - 1, LAST_OFFSET_DELTA);
  writeTime(sealed, batch.baseTimestampMs, BASE_TIMESTAMP);
  writeTime(sealed, batch.maxTimestampMs, MAX_TIMESTAMP);
  sealed.writeBigInt64BE(sequence?.producerId ?? -1n, PRODUCER_ID);
  sealed.writeInt16BE(sequence?.epoch ?? -1, PRODUCER_EPOCH);
  sealed.writeInt32BE(sequence?.sequence ?? -1, BASE_SEQUENCE);
  sealed.writeInt32BE(batch.count, COUNT);
  sealed.writeUInt32BE(crc32c(sealed.subarray(ATTRIBUTES)), CRC);
  return sealed;
}

function withHeader(records: Buffer): Buffer {
  const batch = Buffer.allocUnsafe(HEADER_BYTES + records.length);
  batch.set(records, HEADER_BYTES);
  return batch;
}

/** ms since the epoch fit 53 bits; never negative. */
function writeTime(dst: Buffer, ms: number, at: number): void {
  dst.writeUInt32BE(Math.floor(ms / 0x1_0000_0000), at);
  dst.writeUInt32BE(ms % 0x1_0000_0000, at + 4);
}
