import type { RecordHeaders } from '../headers.ts';

/** sha256 of the schema's text as locked, with its references'. A version is the registry's own: informational. */
export interface SchemaRef {
  readonly subject: string;
  readonly sha256: string;
  readonly version?: number;
}

/** One schema's encoder and decoder, without framing. Generated code implements it; `@turnpike/schema` frames it into a `Serde`. */
export interface Codec<I, O = I> {
  readonly schema: SchemaRef;
  /** Compiles the resolution of another writer's schema; cached by its sha256. Rejects with SCHEMA_INCOMPATIBLE. */
  prepare(writer: SchemaRef, text: string): Promise<void>;
  /** Returns the end; negative = it doesn't fit, and `dst` may hold a part of it. Throws ENCODE_FAILED with the path. */
  encodeInto(value: I, dst: Buffer, pos: number): number;
  decode(src: Buffer, start: number, end: number, writer: SchemaRef): O;
}

/** What the pipeline sees of a key or a value: a codec with its framing and the ids of one registry. */
export interface Serde<I, O = I> {
  /** As `Codec.encodeInto`, with the frame. Must have been `ready()`. */
  encodeInto(value: I, dst: Buffer, pos: number): number;
  /** Called at start-up: looks up the id of the pinned schema. Rejects with SCHEMA_UNKNOWN or SCHEMA_UNAVAILABLE. Never registers. */
  ready(): Promise<void>;
  /** undefined = this record can be decoded now; else it waits for the writer's schema. SCHEMA_UNAVAILABLE is retriable and never poison. */
  prepare(src: Buffer, headers: RecordHeaders): Promise<void> | undefined;
  /** Throws DECODE_FAILED. What it returns is safe to keep: it doesn't share memory that changes. */
  decode(src: Buffer, headers: RecordHeaders): O;
}
