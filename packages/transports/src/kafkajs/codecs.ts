import { compressionsAlgorithms } from '@platformatic/kafka';
import type * as Library from 'kafkajs';

const CODECS = { Snappy: 'snappy', LZ4: 'lz4', ZSTD: 'zstd' } as const;

/** kafkajs brings gzip only, and has one table of codecs for the process: we fill the gaps, and leave alone what the service has put there. */
export function fillCodecs({ CompressionCodecs, CompressionTypes }: Pick<typeof Library, 'CompressionCodecs' | 'CompressionTypes'>): void {
  // An enumeration in kafkajs' types is an object with names only in its code.
  const table = CompressionCodecs as Record<number, () => unknown>;
  for (const [name, algorithm] of Object.entries(CODECS) as [keyof typeof CODECS, (typeof CODECS)[keyof typeof CODECS]][]) {
    const type = CompressionTypes[name];
    if (has(table[type])) continue;
    const { compressSync, decompressSync } = compressionsAlgorithms[algorithm];
    const codec = {
      compress: async (encoder: { readonly buffer: Buffer }) => compressSync(encoder.buffer),
      decompress: async (data: Buffer) => decompressSync(data),
    };
    table[type] = () => codec;
  }
}

/** What stands there where nobody has registered one throws. */
function has(make: (() => unknown) | undefined): boolean {
  try {
    return make?.() !== undefined;
  } catch {
    return false;
  }
}
