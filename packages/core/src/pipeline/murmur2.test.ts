// Keys of many lengths and scripts, hashed by Java's own client (org.apache.kafka.common.utils.Utils, kafka-clients 4.3.1): hex of the UTF-8 key, murmur2, partition of 12.
// A client that disagrees by one key splits that key over two partitions, and its order is gone.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { murmur2, partitionOf } from './murmur2.ts';

const golden = readFileSync(new URL('murmur2.golden.txt', import.meta.url), 'utf8')
  .trimEnd()
  .split('\n')
  .map((line) => line.split(' ') as [string, string, string]);

describe('murmur2', () => {
  it('agrees with Java on 600 keys, non-ASCII among them', () => {
    expect(golden).toHaveLength(600);
    for (const [hex, hash, partition] of golden) {
      const key = Buffer.from(hex, 'hex');
      expect({ hex, hash: murmur2(key, 0, key.length), partition: partitionOf(key, 0, key.length, 12) }).toEqual({
        hex,
        hash: Number(hash),
        partition: Number(partition),
      });
    }
  });

  it('hashes a part of a buffer as it would the part alone', () => {
    const key = Buffer.from('東京');
    const padded = Buffer.concat([Buffer.from('xyz'), key, Buffer.from('q')]);
    expect(murmur2(padded, 3, 3 + key.length)).toBe(murmur2(key, 0, key.length));
  });
});
