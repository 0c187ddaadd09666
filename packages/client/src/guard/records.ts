import { RecordHeaders } from '@turnpike/core';
import type { HeaderCarrier, InboundRecord } from '@turnpike/core/spi';

/** Headers as kafkajs and confluent's promisified client have them: a name with several values has a list. */
export type LibraryHeaders = Readonly<Record<string, unknown>>;

/** A message as kafkajs and confluent's promisified client take it. */
export interface OutboundMessage {
  readonly key?: unknown;
  readonly value?: unknown;
  readonly partition?: number;
  readonly headers?: LibraryHeaders;
}

export interface TopicMessages {
  readonly topic: string;
  readonly messages: readonly OutboundMessage[];
}

/** A message as they hand it to a handler; confluent's raw client has numbers where they have texts. */
export interface InboundMessage {
  readonly key?: unknown;
  readonly value?: unknown;
  readonly offset?: string | number;
  readonly timestamp?: string | number;
  readonly headers?: LibraryHeaders | readonly LibraryHeaders[] | null;
}

type Pair = readonly [name: string, value: string | Uint8Array | null];

/** Every header that is one; what isn't, the library itself refuses. */
function headerPairs(headers: InboundMessage['headers']): Pair[] {
  if (headers === null || typeof headers !== 'object') return [];
  const entries = Array.isArray(headers) ? headers.flatMap((h: LibraryHeaders | null) => Object.entries(h ?? {})) : Object.entries(headers);
  return entries.flatMap(([name, value]) =>
    (Array.isArray(value) ? value : [value]).flatMap((v: unknown): Pair[] =>
      typeof v === 'string' || v instanceof Uint8Array || v === null ? [[name, v]] : [],
    ),
  );
}

/** What a quota counts: key, value and headers, uncompressed. */
export function sizeOf({ key, value, headers }: OutboundMessage | InboundMessage): number {
  let bytes = lengthOf(key) + lengthOf(value);
  if (headers) for (const [name, text] of headerPairs(headers)) bytes += lengthOf(name) + lengthOf(text);
  return bytes;
}

function lengthOf(value: unknown): number {
  if (typeof value === 'string') return Buffer.byteLength(value);
  return value instanceof Uint8Array ? value.byteLength : 0;
}

/** A message's headers as telemetry reads and adds to them. The caller's message stays as it is. */
export class MessageCarrier implements HeaderCarrier {
  readonly #own: readonly Pair[];
  #headers: RecordHeaders | undefined;

  constructor(own: InboundMessage['headers']) {
    this.#own = own ? headerPairs(own) : [];
  }

  get hasHeaders(): boolean {
    return this.#headers !== undefined || this.#own.length > 0;
  }

  get headers(): RecordHeaders {
    this.#headers ??= new RecordHeaders(this.#own);
    return this.#headers;
  }

  /** What was added, as text; undefined = nothing. */
  added(): Readonly<Record<string, string>> | undefined {
    const added = [...(this.#headers ?? [])].filter(([name]) => !this.#own.some(([own]) => own === name));
    return added.length === 0 ? undefined : Object.fromEntries(added.map(([name, value]) => [name, Buffer.from(value ?? []).toString()]));
  }
}

/** As telemetry reads it; headers are only parsed when somebody asks. */
export function inboundRecord(topic: string, partition: number, message: InboundMessage): InboundRecord {
  let headers: RecordHeaders | undefined;
  return {
    topic,
    partition,
    offset: BigInt(message.offset ?? -1),
    timestampMs: Number(message.timestamp) || 0,
    key: bytesOf(message.key),
    value: bytesOf(message.value),
    get headers() {
      headers ??= new RecordHeaders(headerPairs(message.headers));
      return headers;
    },
  };
}

function bytesOf(value: unknown): Buffer | null {
  if (value === null || value === undefined) return null;
  return Buffer.isBuffer(value) ? value : Buffer.from(String(value));
}
