import { Cursor } from '../cursor.ts';
import type { HeaderEntry } from '../headers.ts';
import type { BufferedRecord } from '../spi/driver.ts';
import type { OutboundRecord } from '../spi/transport.ts';

// A record as a batch of magic 2 holds it (Kafka's protocol, "Record"): length, attributes, deltas of timestamp and offset, key, value, headers; lengths and deltas are zigzag varints.

/** Below this a loop copies faster than a call into the engine does. */
const LOOP_BYTES = 64;

/** The size of what writeRecord() will write, without the record's own length in front. */
export function recordLength(record: OutboundRecord, offsetDelta: number, timestampDelta: number): number {
  const { keyStart, keyEnd, valueStart, valueEnd, headers } = record;
  return (
    1 +
    varlongLength(timestampDelta) +
    varintLength(offsetDelta) +
    (keyStart < 0 ? 1 : varintLength(keyEnd - keyStart) + keyEnd - keyStart) +
    (valueStart < 0 ? 1 : varintLength(valueEnd - valueStart) + valueEnd - valueStart) +
    (headers === undefined ? 1 : headersLength(headers))
  );
}

/** Writes the record with its length in front; `dst` must have room. Returns where it ends. */
export function writeRecord(dst: Buffer, at: number, record: OutboundRecord, length: number, offsetDelta: number, timestampDelta: number): number {
  const { buf, keyStart, keyEnd, valueStart, valueEnd, headers } = record;
  let pos = writeVarint(dst, at, length);
  dst[pos++] = 0; // attributes: none are defined
  pos = writeVarlong(dst, pos, timestampDelta);
  pos = writeVarint(dst, pos, offsetDelta);
  pos = keyStart < 0 ? writeVarint(dst, pos, -1) : copy(buf, keyStart, keyEnd, dst, writeVarint(dst, pos, keyEnd - keyStart));
  pos = valueStart < 0 ? writeVarint(dst, pos, -1) : copy(buf, valueStart, valueEnd, dst, writeVarint(dst, pos, valueEnd - valueStart));
  return headers === undefined ? writeVarint(dst, pos, 0) : writeHeaders(dst, pos, headers);
}

/** Reads `count` records from `start` on. Keys, values and headers are views into `src`. */
export function readRecords(src: Buffer, start: number, count: number, baseTimestampMs: number): BufferedRecord[] {
  const cursor = new Cursor(src, start);
  return Array.from({ length: count }, () => {
    cursor.varint();
    cursor.pos++;
    const timestampMs = baseTimestampMs + cursor.varlong();
    cursor.varint();
    const key = cursor.bytes();
    const value = cursor.bytes();
    const headers: HeaderEntry[] = [];
    for (let left = cursor.varint(); left > 0; left--) headers.push([cursor.bytes()?.toString() ?? '', cursor.bytes()]);
    return { key, value, headers: headers.length > 0 ? headers : undefined, timestampMs };
  });
}

export function varintLength(value: number): number {
  const z = zigzag(value);
  return z < 0x80 ? 1 : z < 0x4000 ? 2 : z < 0x20_0000 ? 3 : z < 0x1000_0000 ? 4 : 5;
}

function copy(src: Uint8Array, start: number, end: number, dst: Buffer, at: number): number {
  if (end - start > LOOP_BYTES) {
    dst.set(start === 0 && end === src.length ? src : src.subarray(start, end), at);
    return at + end - start;
  }
  let pos = at;
  for (let i = start; i < end; i++) dst[pos++] = src[i] as number;
  return pos;
}

function headersLength(headers: readonly HeaderEntry[]): number {
  let length = varintLength(headers.length);
  // By index: taking a pair apart costs an iterator each.
  for (const header of headers) {
    const nameLength = textLength(header[0]);
    const value = header[1];
    length += varintLength(nameLength) + nameLength + (value === null ? 1 : varintLength(value.length) + value.length);
  }
  return length;
}

function writeHeaders(dst: Buffer, at: number, headers: readonly HeaderEntry[]): number {
  let pos = writeVarint(dst, at, headers.length);
  for (const header of headers) {
    const value = header[1];
    pos = writeText(dst, pos, header[0]);
    pos = value === null ? writeVarint(dst, pos, -1) : copy(value, 0, value.length, dst, writeVarint(dst, pos, value.length));
  }
  return pos;
}

/** Names are short, and nearly always ASCII. */
function isShortAscii(text: string): boolean {
  if (text.length > LOOP_BYTES) return false;
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 0x7f) return false;
  return true;
}

const textLength = (text: string): number => (isShortAscii(text) ? text.length : Buffer.byteLength(text));

function writeText(dst: Buffer, at: number, text: string): number {
  const length = textLength(text);
  let pos = writeVarint(dst, at, length);
  if (length !== text.length || length > LOOP_BYTES) return pos + dst.write(text, pos);
  for (let i = 0; i < text.length; i++) dst[pos++] = text.charCodeAt(i);
  return pos;
}

// Lengths and counts fit 31 bits.
const zigzag = (value: number): number => ((value << 1) ^ (value >> 31)) >>> 0;

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
