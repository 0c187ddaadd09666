import { type AvroType, branchName, describe, type EnumType, type Field, type RecordType, type UnionType, valueClass } from './schema.ts';

/** Writes a value at `pos` and returns the end. Past the end of `buf` it goes on counting and writes nothing: the caller sees an end beyond the buffer. */
export type Write = (buf: Buffer, pos: number, value: unknown, depth: number) => number;

/** A tree nested deeper in itself is refused on both sides: otherwise a cyclic object, or a hostile record, would exhaust the stack. */
export const maxDepth = 512;
/** Items that take no byte (nulls, empty records) cost the sender nothing: more of them in one record are refused on both sides. */
export const maxFreeItems = 100_000;

/** A value that isn't what the schema says. Containers add their part of the path on the way out, so that the good case pays nothing. */
export class Mismatch extends Error {
  readonly path: (string | number)[] = [];

  constructor(expected: string, got: unknown, options?: ErrorOptions) {
    super(`expected ${expected}, got ${show(got)}`, options);
  }

  /** `items[3].qty`; empty for the value itself. */
  get place(): string {
    return placeOf(this.path);
  }
}

// A map's keys are a record's content, and a stranger's bytes may nest: neither may fill a log.
const maxKeyLength = 64;
const maxPlaceParts = 24;

export function placeOf(innermostFirst: readonly (string | number)[]): string {
  let place = '';
  const parts = innermostFirst.toReversed();
  const left = parts.length > maxPlaceParts ? parts.length - maxPlaceParts / 2 : 0;
  for (const [i, part] of parts.entries()) {
    if (i >= maxPlaceParts / 2 && i < left) {
      if (i === maxPlaceParts / 2) place += '...';
    } else if (typeof part === 'number') place += `[${part}]`;
    else if (part.length > maxKeyLength) place += `[${JSON.stringify(`${part.slice(0, maxKeyLength)}...`)}]`;
    else if (/^[A-Za-z_$][\w$]*$/.test(part)) place += place === '' ? part : `.${part}`;
    else place += `[${JSON.stringify(part)}]`;
  }
  return place;
}

/** Enough to see the mistake; never a whole text, which may hold what doesn't belong into a log. */
function show(value: unknown): string {
  if (typeof value === 'string') return value.length <= 24 ? JSON.stringify(value) : `a string of ${value.length} characters`;
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'function') return 'a function';
  if (typeof value === 'symbol') return 'a symbol';
  if (typeof value !== 'object' || value === null) return String(value);
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  return 'an object';
}

function within(error: unknown, part: string | number): Mismatch {
  const mismatch = error instanceof Mismatch ? error : foreign(error);
  mismatch.path.push(part);
  return mismatch;
}

/** A getter of the event, or a proxy, has thrown. */
function foreign(error: unknown): Mismatch {
  const mismatch = new Mismatch('a value that can be read', undefined, { cause: error });
  mismatch.message = 'reading it threw an error (see cause)';
  return mismatch;
}

/** Compiles a schema into closures: no `new Function`, so it runs where code generation from strings is off. */
export function compileWrite(type: AvroType, seen = new Map<RecordType, { write?: Write }>()): Write {
  switch (type.kind) {
    case 'null':
      return (_buf, pos, v) => {
        if (v !== null) throw new Mismatch('null', v);
        return pos;
      };
    case 'boolean':
      return (buf, pos, v) => {
        if (typeof v !== 'boolean') throw new Mismatch('boolean', v);
        buf[pos] = v ? 1 : 0;
        return pos + 1;
      };
    case 'int':
      return (buf, pos, v) => {
        // A bigint is no int, and `|` would throw an error of its own at it.
        if (typeof v !== 'number' || v !== (v | 0)) throw new Mismatch(Number.isInteger(v) ? 'int (-2147483648 to 2147483647)' : 'int', v);
        return writeZigzag32(buf, pos, v);
      };
    case 'long':
      return writeLong;
    case 'float':
      return (buf, pos, v) => {
        if (typeof v !== 'number' || (Number.isFinite(v) && !Number.isFinite(Math.fround(v)))) throw new Mismatch('float', v);
        if (pos + 4 <= buf.length) buf.writeFloatLE(v, pos);
        return pos + 4;
      };
    case 'double':
      return (buf, pos, v) => {
        if (typeof v !== 'number') throw new Mismatch('double', v);
        if (pos + 8 <= buf.length) buf.writeDoubleLE(v, pos);
        return pos + 8;
      };
    case 'string':
      return writeString;
    case 'bytes':
      return (buf, pos, v) => {
        if (!(v instanceof Uint8Array)) throw new Mismatch('bytes', v);
        return writeRaw(buf, writeLength(buf, pos, v.length), v);
      };
    case 'fixed':
      return (buf, pos, v) => {
        if (!(v instanceof Uint8Array) || v.length !== type.size) throw new Mismatch(describe(type), v);
        return writeRaw(buf, pos, v);
      };
    case 'enum':
      return enumWrite(type);
    case 'array':
      return arrayWrite(type.items, compileWrite(type.items, seen));
    case 'map':
      return mapWrite(compileWrite(type.values, seen));
    case 'union':
      return type.wrapped ? wrappedWrite(type, seen) : unwrappedWrite(type, seen);
    case 'record':
      return recordWrite(type, seen);
  }
}

function writeZigzag32(buf: Buffer, pos: number, n: number): number {
  let z = ((n << 1) ^ (n >> 31)) >>> 0;
  while (z > 0x7f) {
    buf[pos++] = (z & 0x7f) | 0x80;
    z >>>= 7;
  }
  buf[pos++] = z;
  return pos;
}

function writeLength(buf: Buffer, pos: number, length: number): number {
  if (length < 64) {
    buf[pos] = length << 1;
    return pos + 1;
  }
  return writeFloat53(buf, pos, length * 2);
}

/** A varint of an integer from 0 to 2^53. */
function writeFloat53(buf: Buffer, pos: number, z: number): number {
  while (z > 0x7f) {
    buf[pos++] = (z % 128) | 0x80;
    z = Math.floor(z / 128);
  }
  buf[pos++] = z;
  return pos;
}

function writeLong(buf: Buffer, pos: number, v: unknown): number {
  if (typeof v !== 'bigint') throw new Mismatch('long (a bigint)', v);
  const n = Number(v);
  // Below 2^52 the doubled value is still exact as a number, several times faster than BigInt arithmetic. Times in ms lie there.
  if (n > -4503599627370496 && n < 4503599627370496) return writeFloat53(buf, pos, n >= 0 ? n * 2 : -n * 2 - 1);
  if (BigInt.asIntN(64, v) !== v) throw new Mismatch('long (a bigint from -2^63 to 2^63-1)', v);
  let z = BigInt.asUintN(64, (v << 1n) ^ (v >> 63n));
  while (z > 0x7fn) {
    buf[pos++] = Number(z & 0x7fn) | 0x80;
    z >>= 7n;
  }
  buf[pos++] = Number(z);
  return pos;
}

function writeString(buf: Buffer, pos: number, v: unknown): number {
  if (typeof v !== 'string') throw new Mismatch('string', v);
  const length = v.length;
  if (length < 32) {
    // Most strings are short and ASCII: written as they are, without a call into the runtime.
    let i = 0;
    for (; i < length; i++) {
      const c = v.charCodeAt(i);
      if (c > 0x7f) break;
      buf[pos + 1 + i] = c;
    }
    if (i === length) {
      buf[pos] = length << 1;
      return pos + 1 + length;
    }
  }
  // UTF-8 has no form for half of a pair; Node would write U+FFFD in its place, and two different strings would become one.
  if (!v.isWellFormed()) throw new Mismatch('a string of whole Unicode characters', v);
  const bytes = Buffer.byteLength(v);
  const start = writeLength(buf, pos, bytes);
  if (start + bytes <= buf.length) buf.write(v, start, bytes, 'utf8');
  return start + bytes;
}

function writeRaw(buf: Buffer, pos: number, bytes: Uint8Array): number {
  if (pos + bytes.length <= buf.length) buf.set(bytes, pos);
  return pos + bytes.length;
}

function enumWrite(type: EnumType): Write {
  // A Map, not an object: "toString" is no symbol.
  const indices = new Map<unknown, number>(type.symbols.map((s, i) => [s, i]));
  return (buf, pos, v) => {
    const index = indices.get(v);
    if (index === undefined) throw new Mismatch(describe(type), v);
    return writeZigzag32(buf, pos, index);
  };
}

function arrayWrite(itemType: AvroType, item: Write): Write {
  const free = minSize(itemType) === 0;
  return (buf, start, v, depth) => {
    if (!Array.isArray(v)) throw new Mismatch('array', v);
    const n = v.length;
    if (free && n > maxFreeItems) throw new Mismatch(`array of at most ${maxFreeItems} items, since they take no byte`, v);
    let pos = start;
    let i = 0;
    try {
      if (n > 0) pos = writeLength(buf, pos, n);
      for (; i < n; i++) pos = item(buf, pos, v[i], depth);
    } catch (error) {
      throw within(error, i);
    }
    buf[pos] = 0;
    return pos + 1;
  };
}

function mapWrite(value: Write): Write {
  return (buf, start, v, depth) => {
    if (typeof v !== 'object' || v === null || Array.isArray(v) || v instanceof Uint8Array || v instanceof Map) throw new Mismatch('map (a plain object)', v);
    const keys = Object.keys(v);
    let pos = start;
    if (keys.length > 0) pos = writeLength(buf, pos, keys.length);
    for (const key of keys) {
      try {
        pos = writeString(buf, pos, key);
        pos = value(buf, pos, (v as Record<string, unknown>)[key], depth);
      } catch (error) {
        throw within(error, key);
      }
    }
    buf[pos] = 0;
    return pos + 1;
  };
}

function unwrappedWrite(type: UnionType, seen: Map<RecordType, { write?: Write }>): Write {
  const byClass = new Map<string, { index: number; write: Write }>();
  for (const [index, branch] of type.branches.entries()) byClass.set(valueClass(branch), { index, write: compileWrite(branch, seen) });
  const expected = describe(type);
  return (buf, pos, v, depth) => {
    const branch = byClass.get(classOf(v));
    if (branch === undefined) throw new Mismatch(expected, v);
    return branch.write(buf, writeZigzag32(buf, pos, branch.index), v, depth);
  };
}

function classOf(v: unknown): string {
  if (v === null) return 'null';
  if (typeof v !== 'object') return typeof v;
  if (Array.isArray(v)) return 'array';
  return v instanceof Uint8Array ? 'bytes' : 'object';
}

function wrappedWrite(type: UnionType, seen: Map<RecordType, { write?: Write }>): Write {
  const byName = new Map<string, { index: number; write: Write }>();
  for (const [index, branch] of type.branches.entries()) byName.set(branchName(branch), { index, write: compileWrite(branch, seen) });
  const nullIndex = byName.get('null')?.index;
  const expected = type.branches.map((b) => (b.kind === 'null' ? 'null' : `{ ${JSON.stringify(branchName(b))}: ${describe(b)} }`)).join(' | ');
  return (buf, pos, v, depth) => {
    if (v === null && nullIndex !== undefined) return writeZigzag32(buf, pos, nullIndex);
    const keys = typeof v === 'object' && v !== null ? Object.keys(v) : [];
    const [name] = keys;
    const branch = keys.length === 1 && name !== undefined && name !== 'null' ? byName.get(name) : undefined;
    if (branch === undefined || name === undefined) throw new Mismatch(expected, v);
    try {
      return branch.write(buf, writeZigzag32(buf, pos, branch.index), (v as Record<string, unknown>)[name], depth);
    } catch (error) {
      throw within(error, name);
    }
  };
}

function recordWrite(type: RecordType, seen: Map<RecordType, { write?: Write }>): Write {
  const known = seen.get(type);
  if (known) {
    return (
      known.write ??
      ((buf, pos, v, depth) => {
        if (depth >= maxDepth) throw new Mismatch(`at most ${maxDepth} levels of ${type.name}`, v);
        return (known.write as Write)(buf, pos, v, depth + 1);
      })
    );
  }
  const slot: { write?: Write } = {};
  seen.set(type, slot);
  const names = type.fields.map((f) => f.name);
  const writes = type.fields.map((f) => fieldWrite(f, compileWrite(f.type, seen)));
  // `constructor` and the like are there on every object: only an own one counts.
  const inherited = names.map((name) => name in Object.prototype);
  const n = names.length;
  slot.write = (buf, start, v, depth) => {
    if (typeof v !== 'object' || v === null || Array.isArray(v)) throw new Mismatch(describe(type), v);
    let pos = start;
    let i = 0;
    try {
      for (; i < n; i++) {
        const name = names[i] as string;
        const value = inherited[i] && !Object.hasOwn(v, name) ? undefined : (v as Record<string, unknown>)[name];
        pos = (writes[i] as Write)(buf, pos, value, depth);
      }
    } catch (error) {
      throw within(error, names[i] as string);
    }
    return pos;
  };
  return slot.write;
}

/** Absent on write takes the default, encoded once. */
function fieldWrite(field: Field, write: Write): Write {
  if (!field.makeDefault) return write;
  let encoded: Buffer | undefined;
  const make = field.makeDefault;
  return (buf, pos, v, depth) => {
    if (v !== undefined) return write(buf, pos, v, depth);
    encoded ??= encode(write, make());
    return writeRaw(buf, pos, encoded);
  };
}

function encode(write: Write, value: unknown): Buffer {
  const end = write(Buffer.alloc(0), 0, value, 0);
  const bytes = Buffer.alloc(end);
  write(bytes, 0, value, 0);
  return bytes;
}

/** The fewest bytes that a value takes: what bounds a claimed count of items by the bytes that are there. */
export function minSize(type: AvroType, known = new Map<AvroType, number>()): number {
  switch (type.kind) {
    case 'null':
      return 0;
    case 'float':
      return 4;
    case 'double':
      return 8;
    case 'fixed':
      return type.size;
    case 'record': {
      const size = known.get(type);
      if (size !== undefined) return size;
      // While it is being summed: a record within itself without a union, array or map between has no finite value.
      known.set(type, 1);
      const sum = type.fields.reduce((bytes, f) => bytes + minSize(f.type, known), 0);
      known.set(type, sum);
      return sum;
    }
    default:
      return 1;
  }
}
