// Batches as Java's own client builds them (org.apache.kafka.common.record.internal.MemoryRecordsBuilder, kafka-clients 4.3.1), in hex: base offset 100, leader epoch 5; four odd records and 24
// that compress well; the transactional one and the markers are of producer 77.
import { readFileSync } from 'node:fs';

const java = new Map(
  readFileSync(new URL('batch.golden.txt', import.meta.url), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => line.split(' ') as [string, string])
    .map(([name, hex]) => [name, Buffer.from(hex, 'hex')]),
);

/** A copy, for tests that change it. */
export function golden(name: string): Buffer {
  const batch = java.get(name);
  if (batch === undefined) throw new Error(`no ${name} in batch.golden.txt`);
  return Buffer.from(batch);
}

export const where = (fetchOffset: bigint) => ({ topic: 't', partition: 3, fetchOffset });
export const plain = (bytes: Uint8Array | null) => (bytes === null ? null : Buffer.from(bytes).toString());
