import { type HeaderEntry, RecordHeaders } from '@turnpike/core';

export type RawHeader = Record<string, string | Uint8Array>;

/** The addon copies from a pointer: only one that isn't null makes an empty value, and no value at all. */
export const EMPTY: Buffer = Buffer.alloc(1).subarray(0, 0);

/** What the addon takes for a header's null: bytes whose memory was given away, so that their pointer is null. It throws at `null` itself, after it has sent the record. */
const NULL: Uint8Array = (() => {
  const bytes = new Uint8Array(1);
  structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
  return bytes;
})();

/** In order, with repeated names: one object each. An empty value goes as a string, whose pointer isn't null. */
export function toRaw(headers: readonly HeaderEntry[] | undefined): RawHeader[] | undefined {
  if (headers === undefined || headers.length === 0) return undefined;
  return headers.map(([name, value]) => ({ [name]: value === null ? NULL : value.length === 0 ? '' : value }));
}

/** The name of a header that the addon would cut off, as C does with text; undefined = there is none. */
export function cutOff(headers: readonly HeaderEntry[] | undefined): string | undefined {
  return headers?.find(([name]) => name.includes('\0'))?.[0];
}

/** The addon makes no difference between null and empty when it reads: both come as empty. */
export function fromRaw(headers: readonly Readonly<Record<string, unknown>>[] | undefined): RecordHeaders {
  return RecordHeaders.of(
    (headers ?? []).map((header): HeaderEntry => {
      // It sets the name as a property, which for this one name has another meaning.
      const [name = '__proto__'] = Object.keys(header);
      return [name, header[name] as Buffer];
    }),
  );
}
