import { createRequire } from 'node:module';
import { crc32c as portable } from '@platformatic/kafka';

/** CRC-32C (Castagnoli) of what a batch holds from its attributes on. By the processor's own instruction where the addon is there (8 GB/s against 1.5). */
export const crc32c: (data: Buffer) => number = addon() ?? portable;

/** The library finds it too, and copies what it gives to it first. */
function addon(): ((data: Buffer) => number) | undefined {
  try {
    return (createRequire(import.meta.url)('@node-rs/crc32') as { crc32c(data: Uint8Array): number }).crc32c;
  } catch {
    return undefined; // No binary for this platform.
  }
}
