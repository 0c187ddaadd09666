import { TurnpikeError } from './errors.ts';

export type HeaderValue = string | Uint8Array | null;
export type HeaderEntry = readonly [name: string, value: Uint8Array | null];
/** What a caller may give: a plain object, or a list of pairs where a name occurs more than once. */
export type HeadersInit = Readonly<Record<string, HeaderValue>> | Iterable<readonly [string, HeaderValue]>;

/** A copy: what the caller does with its bytes later doesn't change the record. */
function bytesOf(name: string, value: HeaderValue): Uint8Array | null {
  if (typeof name !== 'string') throw invalid(`a header's name is ${nameOf(name)}; it must be a string.`);
  if (value === null) return null;
  if (typeof value === 'string' || value instanceof Uint8Array) return Buffer.from(value as string);
  throw invalid(`the header ${JSON.stringify(name)} is ${nameOf(value)}; it must be a string, bytes or null.`);
}

const nameOf = (value: unknown): string => (value === undefined || value === null ? String(value) : `a ${typeof value}`);
const invalid = (text: string) => new TurnpikeError('ENCODE_FAILED', text, { written: 'no', path: 'headers' });

/** What headers are read from when they are asked for. */
export interface HeaderSource {
  readHeaders(): HeaderEntry[];
}

/** A record's headers: ordered, names may repeat, values are bytes or null (KIP-82). */
export class RecordHeaders implements Iterable<HeaderEntry> {
  /** undefined = not read from `#source` yet, or none: a consumed record without headers costs no list. */
  #entries: HeaderEntry[] | undefined;
  #source: HeaderSource | undefined;

  /** @throws TurnpikeError ENCODE_FAILED: a name or a value of the wrong type. */
  constructor(init?: HeadersInit) {
    if (init === undefined) return;
    if (typeof init !== 'object' || init === null) throw invalid(`headers is ${nameOf(init)}; it must be an object, or a list of pairs.`);
    const pairs = Symbol.iterator in init ? (init as Iterable<readonly [string, HeaderValue]>) : Object.entries(init);
    for (const [name, value] of pairs) this.append(name, value);
  }

  /** Takes over a list that a transport has parsed; not copied. */
  static of(entries: HeaderEntry[]): RecordHeaders {
    const headers = new RecordHeaders();
    headers.#entries = entries;
    return headers;
  }

  /** As of(), of a record that is parsed when somebody asks. */
  static from(source: HeaderSource): RecordHeaders {
    const headers = new RecordHeaders();
    headers.#source = source;
    return headers;
  }

  get size(): number {
    return this.#list().length;
  }

  /** The last value of that name, as Kafka's own `lastHeader` does; undefined = there is none. */
  get(name: string): Uint8Array | null | undefined {
    const list = this.#list();
    for (let i = list.length - 1; i >= 0; i--) if (list[i]?.[0] === name) return list[i]?.[1];
    return undefined;
  }

  /** The last value of that name as UTF-8 text; undefined = there is none, or it is null. */
  text(name: string): string | undefined {
    const value = this.get(name);
    return value === null || value === undefined ? undefined : Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString();
  }

  getAll(name: string): (Uint8Array | null)[] {
    return this.#list()
      .filter(([n]) => n === name)
      .map(([, v]) => v);
  }

  has(name: string): boolean {
    return this.#list().some(([n]) => n === name);
  }

  /** Pairs that nobody changes any more, as they are: not checked, not copied. */
  adopt(entries: readonly HeaderEntry[]): void {
    const list = this.#list();
    for (const entry of entries) list.push(entry);
  }

  append(name: string, value: HeaderValue): void {
    this.#list().push([name, bytesOf(name, value)]);
  }

  /** Replaces every value of that name by one. */
  set(name: string, value: HeaderValue): void {
    this.delete(name);
    this.append(name, value);
  }

  delete(name: string): void {
    const list = this.#list();
    for (let i = list.length - 1; i >= 0; i--) if (list[i]?.[0] === name) list.splice(i, 1);
  }

  [Symbol.iterator](): Iterator<HeaderEntry> {
    return this.#list()[Symbol.iterator]();
  }

  /** The pairs as a transport writes them. */
  entries(): readonly HeaderEntry[] {
    return this.#list();
  }
  #list(): HeaderEntry[] {
    if (this.#entries === undefined) {
      this.#entries = this.#source?.readHeaders() ?? [];
      this.#source = undefined;
    }
    return this.#entries;
  }
}
