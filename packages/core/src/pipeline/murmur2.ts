const SEED = 0x9747b28c;
const M = 0x5bd1e995;

/** Kafka's murmur2 over `buf[start, end)`, as Java's `Utils.murmur2` (signed 32 bits). */
export function murmur2(buf: Uint8Array, start: number, end: number): number {
  const length = end - start;
  let h = SEED ^ length;
  let i = start;
  for (const blocksEnd = start + (length & ~3); i < blocksEnd; i += 4) {
    let k = byte(buf, i) | (byte(buf, i + 1) << 8) | (byte(buf, i + 2) << 16) | (byte(buf, i + 3) << 24);
    k = Math.imul(k, M);
    k ^= k >>> 24;
    k = Math.imul(k, M);
    h = Math.imul(h, M) ^ k;
  }
  const left = length & 3;
  if (left === 3) h ^= byte(buf, i + 2) << 16;
  if (left >= 2) h ^= byte(buf, i + 1) << 8;
  if (left >= 1) h = Math.imul(h ^ byte(buf, i), M);
  h ^= h >>> 13;
  h = Math.imul(h, M);
  return h ^ (h >>> 15);
}

const byte = (buf: Uint8Array, i: number): number => buf[i] as number;

/** The partition of a keyed record, as Java's built-in partitioner chooses it (`toPositive(murmur2(key)) % partitions`). */
export function partitionOf(buf: Uint8Array, start: number, end: number, partitions: number): number {
  return (murmur2(buf, start, end) & 0x7fffffff) % partitions;
}
