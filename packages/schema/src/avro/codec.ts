import { TurnpikeError } from '@turnpike/core';
import type { Codec, SchemaRef } from '@turnpike/core/spi';
import { compileRead, Malformed, type Read, sourceOf, Unresolvable } from './read.ts';
import { type ParseOptions, parseAvro } from './schema.ts';
import { compileWrite, Mismatch } from './write.ts';

/** A codec for one Avro schema, compiled once.
 *
 *  Values: int, float, double are numbers; long is a bigint (lossless over all 64 bits); bytes and fixed are Buffers (any Uint8Array on write); enums are their symbols; maps are plain
 *  objects. A union's value stands as it is where JavaScript can tell its branches apart (`null`, boolean, number, bigint, string or enum, bytes or fixed, array, record or map); where two
 *  branches fall into one of these, as in `["string", "com.acme.Colour"]`, each but null is wrapped as `{ "string": "red" }`, as in Avro's JSON. Logical types stand as their underlying
 *  type. A field with a default may be absent (undefined) on write. Properties that the schema doesn't have are left out.
 *
 *  Throws SCHEMA_INVALID that names the place in the text. Its methods throw ENCODE_FAILED and DECODE_FAILED with the path in the value, `items[3].qty: expected int, got "2"`. */
export function avroCodec<I, O = I>(schema: SchemaRef, text: string, options: Pick<ParseOptions, 'references'> = {}): Codec<I, O> {
  const reader = parseAvro(text, options);
  const write = compileWrite(reader);
  const reads = new Map<string, Read>([[schema.sha256, compileRead(reader, reader)]]);
  return {
    schema,
    async prepare(writer, writerText) {
      if (reads.has(writer.sha256)) return;
      try {
        reads.set(writer.sha256, compileRead(parseAvro(writerText, { defaults: 'ignore' }), reader));
      } catch (error) {
        if (!(error instanceof Unresolvable)) throw error;
        throw new TurnpikeError(
          'SCHEMA_INCOMPATIBLE',
          `Events of ${schema.subject} written with another version of its schema can't be read with this service's: ${error.message}. Run turnpike generate to take up the current schema, and deploy.`,
          { cause: error, subject: schema.subject },
        );
      }
    },
    encodeInto(value, dst, pos) {
      try {
        const end = write(dst, pos, value, 0);
        return end <= dst.length ? end : dst.length - end;
      } catch (error) {
        throw encodeFailed(error, schema);
      }
    },
    decode(src, start, end, writer) {
      const read = reads.get(writer.sha256);
      if (!read) throw new TurnpikeError('DECODE_FAILED', `${schema.subject}: the writer's schema was not prepared.`, { subject: schema.subject });
      const source = sourceOf(src, start, end);
      let value: unknown;
      try {
        value = read(source);
      } catch (error) {
        throw decodeFailed(error, schema);
      }
      if (source.pos !== end)
        throw new TurnpikeError(
          'DECODE_FAILED',
          `${schema.subject}: ${end - source.pos} bytes are left over after the value; it was written with another schema than its id says.`,
          {
            subject: schema.subject,
          },
        );
      return value as O;
    },
  };
}

function encodeFailed(error: unknown, { subject }: SchemaRef): TurnpikeError {
  const mismatch = error instanceof Mismatch ? error : undefined;
  const path = mismatch?.place ?? '';
  const what = mismatch ? mismatch.message : 'the value could not be read (see cause)';
  return new TurnpikeError('ENCODE_FAILED', `${path === '' ? what : `${path}: ${what}`}`, {
    subject,
    written: 'no',
    ...(path === '' ? {} : { path }),
    ...(mismatch ? (mismatch.cause === undefined ? {} : { cause: mismatch.cause }) : { cause: error }),
  });
}

function decodeFailed(error: unknown, { subject }: SchemaRef): TurnpikeError {
  if (!(error instanceof Malformed)) return new TurnpikeError('DECODE_FAILED', `${subject}: the value could not be decoded.`, { subject, cause: error });
  const path = error.place;
  return new TurnpikeError('DECODE_FAILED', `${subject}${path === '' ? '' : ` at ${path}`}: ${error.message}.`, { subject, ...(path === '' ? {} : { path }) });
}
