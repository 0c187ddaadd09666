import { type AvroType, branchName, describe, type EnumType, type RecordType, type UnionType, unqualified } from './schema.ts';
import { maxDepth, maxFreeItems, minSize, placeOf } from './write.ts';

/** What is being read. Every read checks `end` first: bytes from the network never move it past. */
export interface Source {
  readonly buf: Buffer;
  pos: number;
  readonly end: number;
  depth: number;
  /** How many more items without a byte of their own may come. */
  free: number;
}

export type Read = (source: Source) => unknown;

/** Bytes that aren't what the writer's schema says. Containers add their part of the path on the way out. */
export class Malformed extends Error {
  readonly path: (string | number)[] = [];

  get place(): string {
    return placeOf(this.path);
  }
}

/** The two schemas have no resolution (spec, "Schema Resolution"). */
export class Unresolvable extends Error {}

export function sourceOf(buf: Buffer, start: number, end: number): Source {
  return { buf, pos: start, end, depth: 0, free: maxFreeItems };
}

/** Compiles what reads the writer's bytes as the reader's type. Throws Unresolvable. A branch or a symbol that the reader lacks fails only
 *  when it comes, as the spec says; a union of which no branch resolves fails here. */
export function compileRead(writer: AvroType, reader: AvroType): Read {
  return new Resolution().read(writer, reader, '');
}

function within(error: unknown, part: string | number): unknown {
  if (error instanceof Malformed) error.path.push(part);
  return error;
}

function truncated(): Malformed {
  return new Malformed('the bytes end in the middle of the value');
}

function readInt(s: Source): number {
  let n = 0;
  for (let shift = 0; ; shift += 7) {
    if (s.pos >= s.end) throw truncated();
    const b = s.buf[s.pos++] as number;
    n |= (b & 0x7f) << shift;
    if (b > 0x0f && shift === 28) throw new Malformed('an int takes more than 32 bits');
    if (b < 0x80) return (n >>> 1) ^ -(n & 1);
  }
}

/** For lengths, counts and indices: exact up to 2^53; beyond it only the size matters, and no such length is ever there. */
function readLength(s: Source): number {
  let n = 0;
  let scale = 1;
  for (let i = 0; ; i++) {
    if (s.pos >= s.end) throw truncated();
    const b = s.buf[s.pos++] as number;
    n += (b & 0x7f) * scale;
    if (b < 0x80) break;
    if (i === 9) throw new Malformed('a length takes more than 64 bits');
    scale *= 128;
  }
  return n % 2 === 0 ? n / 2 : -(n + 1) / 2;
}

function readLong(s: Source): bigint {
  let low = 0;
  let scale = 1;
  // 7 bytes make 49 bits, exact in a number.
  for (let i = 0; i < 7; i++) {
    if (s.pos >= s.end) throw truncated();
    const b = s.buf[s.pos++] as number;
    low += (b & 0x7f) * scale;
    if (b < 0x80) return BigInt(low % 2 === 0 ? low / 2 : -(low + 1) / 2);
    scale *= 128;
  }
  let high = 0;
  for (let shift = 0; ; shift += 7) {
    if (s.pos >= s.end) throw truncated();
    const b = s.buf[s.pos++] as number;
    high |= (b & 0x7f) << shift;
    if (b < 0x80) break;
    if (shift === 14) throw new Malformed('a long takes more than 64 bits');
  }
  if (high > 0x7fff) throw new Malformed('a long takes more than 64 bits');
  const z = (BigInt(high) << 49n) | BigInt(low);
  return (z >> 1n) ^ -(z & 1n);
}

function readBoolean(s: Source): boolean {
  if (s.pos >= s.end) throw truncated();
  const b = s.buf[s.pos++] as number;
  if (b > 1) throw new Malformed(`a boolean is the byte ${b}`);
  return b === 1;
}

function readFloat(s: Source): number {
  const start = skip(s, 4);
  return s.buf.readFloatLE(start);
}

function readDouble(s: Source): number {
  const start = skip(s, 8);
  return s.buf.readDoubleLE(start);
}

/** Moves past `length` bytes; returns where they begin. */
function skip(s: Source, length: number): number {
  const start = s.pos;
  if (length < 0 || length > s.end - start) throw length < 0 ? new Malformed('a length is negative') : truncated();
  s.pos = start + length;
  return start;
}

function readString(s: Source): string {
  const start = skip(s, readLength(s));
  return s.buf.toString('utf8', start, s.pos);
}

/** A copy: the fetch buffer may go on living for as long as a slice of it does. */
function readBytes(s: Source): Buffer {
  const start = skip(s, readLength(s));
  return Buffer.from(s.buf.subarray(start, s.pos));
}

const primitiveReads: Readonly<Record<string, Read>> = {
  null: () => null,
  boolean: readBoolean,
  int: readInt,
  long: readLong,
  float: readFloat,
  double: readDouble,
  string: readString,
  bytes: readBytes,
};

/** Writer's kind -> reader's kind -> how; the spec's promotions. */
const promotions: Readonly<Record<string, Readonly<Record<string, Read>>>> = {
  int: { long: (s) => BigInt(readInt(s)), float: readInt, double: readInt },
  long: { float: (s) => Number(readLong(s)), double: (s) => Number(readLong(s)) },
  float: { double: readFloat },
  string: { bytes: readBytes },
  bytes: { string: readString },
};

class Resolution {
  // By writer and reader type: a recursive schema refers back to what is being compiled.
  readonly #memo = new Map<string, { read?: Read }>();
  readonly #ids = new Map<AvroType, number>();

  read(writer: AvroType, reader: AvroType, place: string): Read {
    if (writer.kind === 'union') return this.#writerUnion(writer, reader, place);
    if (reader.kind === 'union') return this.#readerUnion(writer, reader, place);
    if (writer.kind !== reader.kind) {
      const promoted = promotions[writer.kind]?.[reader.kind];
      if (!promoted) throw new Unresolvable(`${at(place)}a written ${describe(writer)} can't be read as ${describe(reader)}`);
      return promoted;
    }
    switch (reader.kind) {
      case 'array':
        return arrayRead((writer as typeof reader).items, this.read((writer as typeof reader).items, reader.items, `${place}[]`));
      case 'map':
        return mapRead((writer as typeof reader).values, this.read((writer as typeof reader).values, reader.values, `${place}{}`));
      case 'fixed': {
        const { size } = writer as typeof reader;
        if (size !== reader.size || !sameName(writer as typeof reader, reader))
          throw new Unresolvable(`${at(place)}${(writer as typeof reader).name} (${describe(writer)}) can't be read as ${reader.name} (${describe(reader)})`);
        return (s) => {
          const start = skip(s, size);
          return Buffer.from(s.buf.subarray(start, s.pos));
        };
      }
      case 'enum':
        return enumRead(writer as EnumType, reader, place);
      case 'record':
        return this.#record(writer as RecordType, reader, place);
      default:
        return primitiveReads[reader.kind] as Read;
    }
  }

  #writerUnion(writer: UnionType, reader: AvroType, place: string): Read {
    let failure: Unresolvable | undefined;
    let resolved = 0;
    const reads = writer.branches.map((branch): Read => {
      try {
        const read = this.#attempt(branch, reader, place);
        resolved++;
        return read;
      } catch (error) {
        if (!(error instanceof Unresolvable)) throw error;
        failure ??= error;
        const { message } = error;
        return () => {
          throw new Malformed(`it has a branch that this service's schema lacks: ${message}`);
        };
      }
    });
    if (resolved === 0 && failure) throw failure;
    return (s) => {
      const index = readLength(s);
      const read = reads[index];
      if (!read) throw new Malformed(`a union of ${reads.length} branches has no branch ${index}`);
      return read(s);
    };
  }

  #readerUnion(writer: AvroType, reader: UnionType, place: string): Read {
    const same = reader.branches.filter((b) => branchName(b) === branchName(writer));
    for (const branch of [...same, ...reader.branches]) {
      try {
        const read = this.#attempt(writer, branch, place);
        if (!reader.wrapped || branch.kind === 'null') return read;
        const name = branchName(branch);
        return (s) => ({ [name]: read(s) });
      } catch (error) {
        if (!(error instanceof Unresolvable)) throw error;
      }
    }
    throw new Unresolvable(`${at(place)}a written ${describe(writer)} can't be read as any of ${describe(reader)}`);
  }

  /** What a failed attempt has left in the memo refers to itself, unfinished: it is taken out again. */
  #attempt(writer: AvroType, reader: AvroType, place: string): Read {
    const before = this.#memo.size;
    try {
      return this.read(writer, reader, place);
    } catch (error) {
      for (const key of [...this.#memo.keys()].slice(before)) this.#memo.delete(key);
      throw error;
    }
  }

  #record(writer: RecordType, reader: RecordType, place: string): Read {
    const key = `${this.#id(writer)}:${this.#id(reader)}`;
    const known = this.#memo.get(key);
    if (known) return known.read ?? nested(known, reader);
    if (!sameName(writer, reader)) throw new Unresolvable(`${at(place)}the record ${writer.name} can't be read as ${reader.name} (an alias would allow it)`);
    const slot: { read?: Read } = {};
    this.#memo.set(key, slot);

    const targets = new Map<string, string>();
    const template: [string, unknown][] = [];
    const fresh: [string, () => unknown][] = [];
    for (const field of reader.fields) {
      const source = [field.name, ...field.aliases].find((name) => writer.fields.some((f) => f.name === name));
      if (source !== undefined) targets.set(source, field.name);
      else if (!field.makeDefault)
        throw new Unresolvable(`${at(place)}${reader.name}.${field.name} has no default, and the writer's ${writer.name} has no such field`);
      else if (typeof field.makeDefault() === 'object') fresh.push([field.name, field.makeDefault]);
      template.push([field.name, source === undefined ? field.makeDefault?.() : undefined]);
    }
    const byName = new Map(reader.fields.map((f) => [f.name, f.type]));
    const steps = writer.fields.map((field) => {
      const target = targets.get(field.name);
      const type = target === undefined ? field.type : (byName.get(target) ?? field.type);
      return { name: field.name, target, read: this.read(field.type, type, place === '' ? field.name : `${place}.${field.name}`) };
    });
    slot.read = recordRead(Object.fromEntries(template), steps, fresh);
    return slot.read;
  }

  #id(type: AvroType): number {
    const id = this.#ids.get(type) ?? this.#ids.size;
    this.#ids.set(type, id);
    return id;
  }
}

function at(place: string): string {
  return place === '' ? '' : `${place}: `;
}

/** By unqualified name (spec 1.12), or by an alias of the reader. */
function sameName(writer: { readonly name: string }, reader: { readonly name: string; readonly aliases: readonly string[] }): boolean {
  return unqualified(writer.name) === unqualified(reader.name) || reader.aliases.includes(writer.name);
}

function nested(slot: { read?: Read }, reader: RecordType): Read {
  return (s) => {
    if (++s.depth > maxDepth) throw new Malformed(`${reader.name} is nested in itself more than ${maxDepth} times`);
    const value = (slot.read as Read)(s);
    s.depth--;
    return value;
  };
}

interface Step {
  readonly name: string;
  /** The reader's field; undefined = it lacks the field, which is read over. */
  readonly target: string | undefined;
  readonly read: Read;
}

function recordRead(template: Readonly<Record<string, unknown>>, steps: readonly Step[], fresh: readonly (readonly [string, () => unknown])[]): Read {
  const n = steps.length;
  return (s) => {
    // A copy of one template: all records share a hidden class, and a field named `__proto__` is a field.
    const out: Record<string, unknown> = { ...template };
    let i = 0;
    try {
      for (; i < n; i++) {
        const step = steps[i] as Step;
        const value = step.read(s);
        if (step.target !== undefined) out[step.target] = value;
      }
    } catch (error) {
      throw within(error, (steps[i] as Step).name);
    }
    for (const [name, make] of fresh) out[name] = make();
    return out;
  };
}

/** The count of the next block; 0 = there is no more. A negative one is followed by the block's size in bytes. */
function blockCount(s: Source, itemMinSize: number): number {
  let count = readLength(s);
  if (count < 0) {
    count = -count;
    const size = readLength(s);
    if (size < 0 || size > s.end - s.pos) throw truncated();
  }
  if (itemMinSize > 0 ? count * itemMinSize > s.end - s.pos : count > s.free)
    throw new Malformed(`a block claims ${count} items, more than its bytes can hold`);
  if (itemMinSize === 0) s.free -= count;
  return count;
}

function arrayRead(writerItems: AvroType, item: Read): Read {
  const least = minSize(writerItems);
  return (s) => {
    const out: unknown[] = [];
    try {
      for (let n = blockCount(s, least); n > 0; n = blockCount(s, least)) for (; n > 0; n--) out.push(item(s));
    } catch (error) {
      throw within(error, out.length);
    }
    return out;
  };
}

function mapRead(writerValues: AvroType, value: Read): Read {
  const least = 1 + minSize(writerValues);
  return (s) => {
    const out: Record<string, unknown> = {};
    for (let n = blockCount(s, least); n > 0; n = blockCount(s, least)) {
      for (; n > 0; n--) {
        const key = readString(s);
        try {
          // An assignment would set the object's prototype to what the network sent.
          if (key === '__proto__') Object.defineProperty(out, key, { value: value(s), enumerable: true, configurable: true, writable: true });
          else out[key] = value(s);
        } catch (error) {
          throw within(error, key);
        }
      }
    }
    return out;
  };
}

function enumRead(writer: EnumType, reader: EnumType, place: string): Read {
  if (!sameName(writer, reader)) throw new Unresolvable(`${at(place)}the enum ${writer.name} can't be read as ${reader.name} (an alias would allow it)`);
  const symbols = writer.symbols.map((symbol) => (reader.symbols.includes(symbol) ? symbol : reader.default));
  if (symbols.every((s) => s === undefined))
    throw new Unresolvable(`${at(place)}none of the symbols of ${writer.name} is known, and ${reader.name} has no default`);
  return (s) => {
    const index = readLength(s);
    const symbol = symbols[index];
    if (symbol !== undefined) return symbol;
    const written = writer.symbols[index];
    throw new Malformed(
      written === undefined
        ? `the enum ${writer.name} has no symbol ${index}`
        : `the symbol ${written} of ${writer.name} is unknown to this service's schema, which has no default for it`,
    );
  };
}
