import { isUtf8 } from 'node:buffer';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import type { Codec, SchemaRef, Serde } from '@turnpike/core/spi';
import { fingerprint } from './fingerprint.ts';
import type { SchemaIds } from './ids.ts';

/** Magic byte 0, then the schema's id as a big-endian int32. */
const prefixBytes = 5;

export interface ConfluentSerdeInit<I, O = I> {
  readonly codec: Codec<I, O>;
  /** The schema's text as locked. */
  readonly text: string;
  readonly ids: SchemaIds;
  /** For messages only. */
  readonly topic: string;
}

/** Frames a codec as the Confluent wire format does: 5 bytes, then the value. Reads what any writer version wrote: its schema is fetched once by id and resolved against the codec's own.
 *
 *  Before `ready()` encoding throws SCHEMA_UNAVAILABLE (retriable) and starts the look-up; when that has ended for good (SCHEMA_UNKNOWN), it throws why. */
export function confluentSerde<I, O = I>({ codec, text, ids, topic }: ConfluentSerdeInit<I, O>): Serde<I, O> {
  const writers = new Map<number, SchemaRef>();
  const learning = new Map<number, Promise<void>>();
  let own: number | undefined;
  let asking: Promise<void> | undefined;
  let failure: TurnpikeError | undefined;

  const ready = (): Promise<void> => {
    if (own !== undefined) return Promise.resolve();
    asking ??= ids
      .idOf(codec.schema, text)
      .then((id) => {
        own = id;
        failure = undefined;
        writers.set(id, codec.schema);
      })
      .catch((error) => {
        failure = asTurnpikeError(error, 'SCHEMA_UNAVAILABLE', `${topic}: the id of its schema could not be had.`, { topic, retriable: true });
        throw failure;
      })
      .finally(() => {
        asking = undefined;
      });
    return asking;
  };

  const learn = async (id: number): Promise<void> => {
    // A consumer isn't made ready: most often what it meets is its own schema, whose id the grant knows without a registry.
    await ready().catch(() => {});
    if (writers.has(id)) return;
    const written = await ids.textOf(id);
    const writer: SchemaRef = { subject: codec.schema.subject, sha256: written.text === text ? codec.schema.sha256 : fingerprint(written.text) };
    await codec.prepare(writer, written.text);
    writers.set(id, writer);
  };

  return {
    ready,
    encodeInto(value, dst, pos) {
      if (own === undefined) {
        const last = failure;
        ready().catch(() => {});
        if (last && !last.retriable) throw last.withWritten('no');
        throw new TurnpikeError('SCHEMA_UNAVAILABLE', `${topic}: the id of its schema is still being looked up; send again shortly.`, {
          topic,
          subject: codec.schema.subject,
          retriable: true,
          written: 'no',
          ...(last ? { cause: last } : {}),
        });
      }
      if (pos + prefixBytes > dst.length) return dst.length - pos - prefixBytes;
      dst[pos] = 0;
      dst.writeInt32BE(own, pos + 1);
      return codec.encodeInto(value, dst, pos + prefixBytes);
    },
    prepare(src) {
      // A frame that isn't one is decode's to refuse.
      if (!framed(src)) return undefined;
      const id = src.readInt32BE(1);
      if (writers.has(id)) return undefined;
      const known = learning.get(id);
      if (known) return known;
      const asked = learn(id)
        .catch((cause) => {
          throw asTurnpikeError(cause, 'SCHEMA_UNAVAILABLE', `${topic}: the schema with id ${id} could not be had; it is asked for again.`, {
            topic,
            retriable: true,
          });
        })
        .finally(() => learning.delete(id));
      learning.set(id, asked);
      return asked;
    },
    decode(src) {
      if (!framed(src))
        throw new TurnpikeError(
          'DECODE_FAILED',
          `${topic}: a value of ${src.length} bytes${src.length > 0 ? ` that begins with ${src.subarray(0, prefixBytes).toString('hex')} (hex)` : ''} has no schema prefix (a 0, then an id of 4 bytes); its producer doesn't use the registry's wire format.`,
          { topic },
        );
      const id = src.readInt32BE(1);
      const writer = writers.get(id);
      if (!writer) throw new TurnpikeError('DECODE_FAILED', `${topic}: the schema with id ${id} is not known; it must be prepared first.`, { topic });
      return codec.decode(src, prefixBytes, src.length, writer);
    },
  };
}

/** A registry's ids are not negative: the top bit of the second byte is 0. */
const framed = (src: Buffer): boolean => src.length >= prefixBytes && src[0] === 0 && (src[1] as number) < 0x80;

/** UTF-8 text without framing, for keys. Refuses half of a surrogate pair on write (two different keys would become one) and bytes that aren't UTF-8 on read. */
export function stringSerde(): Serde<string> {
  return {
    ready: () => Promise.resolve(),
    prepare: () => undefined,
    encodeInto(value, dst, pos) {
      if (typeof value !== 'string')
        throw new TurnpikeError('ENCODE_FAILED', `expected string, got ${value === null ? 'null' : typeof value}`, { written: 'no' });
      const { length } = value;
      if (length > dst.length - pos) return dst.length - pos - length;
      if (length < 32) {
        let i = 0;
        for (; i < length; i++) {
          const c = value.charCodeAt(i);
          if (c > 0x7f) break;
          dst[pos + i] = c;
        }
        if (i === length) return pos + length;
      }
      if (!value.isWellFormed())
        throw new TurnpikeError('ENCODE_FAILED', 'expected a string of whole Unicode characters, got half of a surrogate pair', { written: 'no' });
      const bytes = Buffer.byteLength(value);
      if (bytes > dst.length - pos) return dst.length - pos - bytes;
      return pos + dst.write(value, pos, bytes, 'utf8');
    },
    decode(src) {
      const ascii = src.length <= SHORT_BYTES ? shortAscii(src) : undefined;
      if (ascii !== undefined) return ascii;
      if (!isUtf8(src)) throw new TurnpikeError('DECODE_FAILED', `${src.length} bytes that are not UTF-8; the manifest says "format: string" for this key.`);
      return src.toString('utf8');
    },
  };
}

/** A key is most often as short as a UUID, and ASCII: read here, a call into the engine costs more than all of it. */
const SHORT_BYTES = 36;

function shortAscii(src: Buffer): string | undefined {
  const { length } = src;
  let text = '';
  let i = 0;
  for (; i + 4 <= length; i += 4) {
    const [a, b, c, d] = [src[i] as number, src[i + 1] as number, src[i + 2] as number, src[i + 3] as number];
    if ((a | b | c | d) > 0x7f) return undefined;
    text += String.fromCharCode(a, b, c, d);
  }
  for (; i < length; i++) {
    const a = src[i] as number;
    if (a > 0x7f) return undefined;
    text += String.fromCharCode(a);
  }
  return text;
}

/** Bytes as they are. */
export function bytesSerde(): Serde<Uint8Array, Buffer> {
  return {
    ready: () => Promise.resolve(),
    prepare: () => undefined,
    encodeInto(value, dst, pos) {
      if (!(value instanceof Uint8Array))
        throw new TurnpikeError('ENCODE_FAILED', `expected bytes, got ${value === null ? 'null' : typeof value}`, { written: 'no' });
      if (value.length > dst.length - pos) return dst.length - pos - value.length;
      dst.set(value, pos);
      return pos + value.length;
    },
    decode: (src) => Buffer.from(src),
  };
}
