import { readFileSync } from 'node:fs';
import type { GrantKey } from '@turnpike/policy';

/** Reads `{"keys": [...]}` of public keys, as `turnpike grant keygen` writes it. Throws an Error whose message begins with the file. */
export function readRootKeys(file: string): readonly GrantKey[] {
  const wrong = (why: string) => new Error(`${file} is no set of public keys ({"keys": [...]}, as turnpike grant keygen writes it): ${why}.`);
  let keys: unknown;
  try {
    ({ keys } = JSON.parse(readFileSync(file, 'utf8')) as { keys?: unknown });
  } catch (error) {
    // A parser's error would quote the file, and there may be a private key in it.
    throw wrong((error as NodeJS.ErrnoException).code ?? 'it is not JSON');
  }
  if (!Array.isArray(keys)) throw wrong('it has no list "keys"');
  for (const key of keys as readonly (GrantKey | null)[]) {
    if (typeof key !== 'object' || key === null || typeof key.kid !== 'string' || typeof key.kty !== 'string') throw wrong('a key lacks its kty or kid');
    if ('d' in key || 'k' in key)
      throw new Error(`${file} holds a private key (${key.kid}); it must hold public keys only. Replace that key: it has been where it can be read.`);
  }
  return keys as readonly GrantKey[];
}
