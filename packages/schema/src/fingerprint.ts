import { createHash } from 'node:crypto';
import type { SchemaRef } from '@turnpike/core/spi';

/** sha256 in hex of a schema's text exactly as locked (no normalisation), followed by subject and fingerprint of each reference in the order that the schema lists them. Without
 *  references it is what `sha256sum` says of the file. */
export function fingerprint(text: string, references: readonly Pick<SchemaRef, 'subject' | 'sha256'>[] = []): string {
  const hash = createHash('sha256').update(text);
  for (const { subject, sha256 } of references) hash.update(`\0${subject}\0${sha256}`);
  return hash.digest('hex');
}
