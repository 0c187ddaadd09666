import { TurnpikeError } from '@turnpike/core';

/** A parsed Avro schema (spec 1.12). A record refers to itself by identity, so this is a graph, not a tree. */
export type AvroType = Primitive | FixedType | EnumType | ArrayType | MapType | UnionType | RecordType;

export interface Primitive {
  readonly kind: 'null' | 'boolean' | 'int' | 'long' | 'float' | 'double' | 'string' | 'bytes';
  readonly logical?: string;
}

interface Named {
  /** With its namespace. */
  readonly name: string;
  /** With their namespaces. */
  readonly aliases: readonly string[];
  readonly doc?: string;
  readonly logical?: string;
}

export interface FixedType extends Named {
  readonly kind: 'fixed';
  readonly size: number;
}

export interface EnumType extends Named {
  readonly kind: 'enum';
  readonly symbols: readonly string[];
  /** What a reader takes for a symbol that it doesn't know. */
  readonly default?: string;
}

export interface ArrayType {
  readonly kind: 'array';
  readonly items: AvroType;
}

export interface MapType {
  readonly kind: 'map';
  readonly values: AvroType;
}

export interface UnionType {
  readonly kind: 'union';
  readonly branches: readonly AvroType[];
  /** A value of a wrapped union is `{ branch: value }`, because JavaScript alone couldn't tell its branches apart; see `valueClass`. */
  readonly wrapped: boolean;
}

export interface RecordType extends Named {
  readonly kind: 'record';
  readonly fields: readonly Field[];
}

export interface Field {
  readonly name: string;
  readonly type: AvroType;
  readonly aliases: readonly string[];
  readonly doc?: string;
  /** A fresh value at each call, since its receiver may change it; undefined = the field has no default. */
  readonly makeDefault?: () => unknown;
  /** The default as it stands in the schema. */
  readonly defaultJson?: unknown;
}

const primitives = new Set<string>(['null', 'boolean', 'int', 'long', 'float', 'double', 'string', 'bytes']);
const namePattern = /^[A-Za-z_][A-Za-z0-9_]*$/;
// Deeper ones exist only to exhaust the stack.
const maxNesting = 128;

export interface ParseOptions {
  /** Texts of schemas that this one refers to by name, each before those that need it. */
  readonly references?: readonly string[];
  /** "ignore" for a writer's schema: its defaults never apply, and old Java clients let invalid ones through. */
  readonly defaults?: 'check' | 'ignore';
}

/** Parses a schema's text. Throws SCHEMA_INVALID that names the place, as `fields[2].type.items`. */
export function parseAvro(text: string, options: ParseOptions = {}): AvroType {
  const parser = new Parser(options.defaults ?? 'check');
  for (const [i, reference] of (options.references ?? []).entries()) parser.parse(json(reference), `references[${i}]`);
  return parser.parse(json(text), '');
}

/** The name of a branch in a wrapped union, as in Avro's JSON encoding. */
export function branchName(type: AvroType): string {
  return 'name' in type ? type.name : type.kind;
}

/** What JavaScript can see of a value: two branches of one class can't be told apart, and make a union wrapped. */
export function valueClass(type: AvroType): 'null' | 'boolean' | 'number' | 'bigint' | 'string' | 'bytes' | 'array' | 'object' | 'union' {
  switch (type.kind) {
    case 'int':
    case 'float':
    case 'double':
      return 'number';
    case 'long':
      return 'bigint';
    case 'enum':
      return 'string';
    case 'fixed':
      return 'bytes';
    case 'record':
    case 'map':
      return 'object';
    default:
      return type.kind;
  }
}

/** A short description for messages: `array<int>`, `null | string`, `com.acme.Order`. */
export function describe(type: AvroType): string {
  switch (type.kind) {
    case 'array':
      return `array<${describe(type.items)}>`;
    case 'map':
      return `map<${describe(type.values)}>`;
    case 'union':
      return type.branches.map(describe).join(' | ');
    case 'enum':
      return `one of ${type.symbols.length > 8 ? `${type.symbols.slice(0, 8).join(', ')}, ...` : type.symbols.join(', ')}`;
    case 'fixed':
      return `fixed of ${type.size} bytes`;
    case 'record':
      return `record ${type.name}`;
    case 'long':
      return 'long (a bigint)';
    default:
      return type.kind;
  }
}

export function unqualified(name: string): string {
  return name.slice(name.lastIndexOf('.') + 1);
}

/** Integers past 2^53 become bigint, so that a long's default loses nothing. */
function json(text: string): unknown {
  try {
    const reviver = (_key: string, value: unknown, context?: { source?: string }) =>
      typeof value === 'number' && !Number.isSafeInteger(value) && context?.source !== undefined && /^-?\d+$/.test(context.source)
        ? BigInt(context.source)
        : value;
    return JSON.parse(text, reviver as (key: string, value: unknown) => unknown);
  } catch (cause) {
    throw new TurnpikeError('SCHEMA_INVALID', `The Avro schema is not JSON: ${(cause as Error).message}. Correct the .avsc file.`, { cause });
  }
}

function invalid(place: string, what: string): TurnpikeError {
  return new TurnpikeError('SCHEMA_INVALID', `Avro schema${place === '' ? '' : ` at ${place}`}: ${what}`, place === '' ? {} : { path: place });
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

class Parser {
  readonly #named = new Map<string, AvroType>();
  readonly #defaults: 'check' | 'ignore';
  // A default may be of a type that is still being parsed.
  #deferred: (() => void)[] = [];

  constructor(defaults: 'check' | 'ignore') {
    this.#defaults = defaults;
  }

  parse(schema: unknown, place: string): AvroType {
    const type = this.#type(schema, '', place, 0);
    for (const run of this.#deferred) run();
    this.#deferred = [];
    return type;
  }

  #type(schema: unknown, namespace: string, place: string, depth: number): AvroType {
    if (depth > maxNesting) throw invalid(place.slice(0, 60), `nested deeper than ${maxNesting} levels; flatten it.`);
    if (typeof schema === 'string') return this.#reference(schema, namespace, place);
    if (Array.isArray(schema)) return this.#union(schema, namespace, place, depth);
    if (typeof schema !== 'object' || schema === null) throw invalid(place, `expected a type (a name, an object or a list), found ${JSON.stringify(schema)}.`);
    const s = schema as Readonly<Record<string, unknown>>;
    const logical = typeof s.logicalType === 'string' ? { logical: s.logicalType } : {};
    switch (s.type) {
      case 'record':
      case 'error':
        return this.#record(s, namespace, place, depth);
      case 'enum':
        return this.#enum(s, namespace, place);
      case 'fixed':
        return this.#fixed(s, namespace, place, logical);
      case 'array':
        if (s.items === undefined) throw invalid(place, 'an array needs "items".');
        return { kind: 'array', items: this.#type(s.items, namespace, at(place, 'items'), depth + 1) };
      case 'map':
        if (s.values === undefined) throw invalid(place, 'a map needs "values".');
        return { kind: 'map', values: this.#type(s.values, namespace, at(place, 'values'), depth + 1) };
      case undefined:
        throw invalid(place, '"type" is missing.');
    }
    if (typeof s.type === 'string' && primitives.has(s.type)) return { kind: s.type as Primitive['kind'], ...logical };
    return this.#type(s.type, namespace, at(place, 'type'), depth + 1);
  }

  #reference(name: string, namespace: string, place: string): AvroType {
    if (primitives.has(name)) return { kind: name as Primitive['kind'] };
    const found = this.#named.get(qualify(name, namespace)) ?? this.#named.get(name);
    if (!found)
      throw invalid(place, `no type ${JSON.stringify(name)} is defined before this place; define it here, or add the schema that does to "references".`);
    return found;
  }

  #union(schemas: readonly unknown[], namespace: string, place: string, depth: number): UnionType {
    if (schemas.length === 0) throw invalid(place, 'a union needs at least one branch.');
    const branches = schemas.map((s, i) => this.#type(s, namespace, `${place}[${i}]`, depth + 1));
    const names = new Set<string>();
    for (const [i, branch] of branches.entries()) {
      if (branch.kind === 'union') throw invalid(`${place}[${i}]`, 'a union may not stand directly in a union; list its branches here.');
      if (names.has(branchName(branch))) throw invalid(`${place}[${i}]`, `the union has the branch ${branchName(branch)} twice; remove one.`);
      names.add(branchName(branch));
    }
    const classes = branches.map(valueClass);
    return { kind: 'union', branches, wrapped: new Set(classes).size < classes.length };
  }

  #record(s: Readonly<Record<string, unknown>>, outer: string, place: string, depth: number): RecordType {
    const { named, namespace } = this.#names(s, outer, place);
    const record: Mutable<RecordType> = { kind: 'record', ...named, fields: [] };
    this.#define(record, place);
    if (!Array.isArray(s.fields)) throw invalid(at(place, 'fields'), `the record ${record.name} needs a list of fields.`);
    const seen = new Set<string>();
    record.fields = s.fields.map((raw: unknown, i): Field => {
      const here = at(place, `fields[${i}]`);
      if (typeof raw !== 'object' || raw === null) throw invalid(here, 'a field must be an object.');
      const f = raw as Readonly<Record<string, unknown>>;
      if (typeof f.name !== 'string' || !namePattern.test(f.name))
        throw invalid(here, `${JSON.stringify(f.name)} is no field name: a letter or _ first, then letters, digits, _.`);
      if (seen.has(f.name)) throw invalid(here, `the field ${f.name} stands twice in ${record.name}; remove one.`);
      seen.add(f.name);
      const field: Mutable<Field> = {
        name: f.name,
        type: this.#type(f.type, namespace, at(here, 'type'), depth + 1),
        aliases: names(f.aliases, at(here, 'aliases')),
        ...(typeof f.doc === 'string' ? { doc: f.doc } : {}),
      };
      if (f.default !== undefined && this.#defaults === 'check')
        this.#deferred.push(() => {
          field.makeDefault = makerOf(field.type, f.default, at(here, 'default'));
          field.defaultJson = f.default;
          field.makeDefault();
        });
      return field;
    });
    return record;
  }

  #enum(s: Readonly<Record<string, unknown>>, outer: string, place: string): EnumType {
    const symbols = names(s.symbols, at(place, 'symbols'));
    const bad = symbols.find((x) => !namePattern.test(x));
    if (symbols.length === 0) throw invalid(at(place, 'symbols'), 'an enum needs at least one symbol.');
    if (bad !== undefined) throw invalid(at(place, 'symbols'), `${JSON.stringify(bad)} is no symbol: a letter or _ first, then letters, digits, _.`);
    if (new Set(symbols).size < symbols.length) throw invalid(at(place, 'symbols'), 'a symbol stands twice; remove one.');
    if (s.default !== undefined && !symbols.includes(s.default as string))
      throw invalid(at(place, 'default'), `${JSON.stringify(s.default)} is not one of the symbols ${symbols.join(', ')}.`);
    const type: EnumType = { kind: 'enum', ...this.#names(s, outer, place).named, symbols, ...(typeof s.default === 'string' ? { default: s.default } : {}) };
    this.#define(type, place);
    return type;
  }

  #fixed(s: Readonly<Record<string, unknown>>, outer: string, place: string, logical: { readonly logical?: string }): FixedType {
    if (!Number.isSafeInteger(s.size) || (s.size as number) < 0) throw invalid(at(place, 'size'), 'a fixed needs a "size" of 0 or more bytes.');
    const type: FixedType = { kind: 'fixed', ...this.#names(s, outer, place).named, size: s.size as number, ...logical };
    this.#define(type, place);
    return type;
  }

  #names(s: Readonly<Record<string, unknown>>, outer: string, place: string): { named: Named; namespace: string } {
    if (typeof s.name !== 'string' || !s.name.split('.').every((part) => namePattern.test(part)))
      throw invalid(at(place, 'name'), `${JSON.stringify(s.name)} is no type name: a letter or _ first, then letters, digits, _; dots between parts.`);
    const own = typeof s.namespace === 'string' ? s.namespace : outer;
    const name = qualify(s.name, own);
    if (primitives.has(name)) throw invalid(at(place, 'name'), `${name} is the name of a primitive type; choose another.`);
    const namespace = name.includes('.') ? name.slice(0, name.lastIndexOf('.')) : '';
    const aliases = names(s.aliases, at(place, 'aliases')).map((alias) => qualify(alias, namespace));
    return { named: { name, aliases, ...(typeof s.doc === 'string' ? { doc: s.doc } : {}) }, namespace };
  }

  #define(type: RecordType | EnumType | FixedType, place: string): void {
    if (this.#named.has(type.name)) throw invalid(place, `${type.name} is defined twice; refer to it by its name the second time.`);
    this.#named.set(type.name, type);
  }
}

function names(value: unknown, place: string): readonly string[] {
  if (value === undefined) return [];
  if (!Array.isArray(value) || !value.every((v) => typeof v === 'string')) throw invalid(place, 'expected a list of names.');
  return value;
}

function qualify(name: string, namespace: string): string {
  return name.includes('.') || namespace === '' ? name : `${namespace}.${name}`;
}

function at(place: string, part: string): string {
  return place === '' ? part : `${place}.${part}`;
}

/** Checks a default (spec, "Complex Types": JSON by type, bytes as code points 0-255) and makes what a codec hands out for it. */
function makerOf(type: AvroType, value: unknown, place: string): () => unknown {
  const wrong = () => invalid(place, `the default ${JSON.stringify(value, (_k, v) => (typeof v === 'bigint' ? `${v}` : v))} is no ${describe(type)}.`);
  const constant = (ok: boolean, v: unknown) => {
    if (!ok) throw wrong();
    return () => v;
  };
  switch (type.kind) {
    case 'null':
      return constant(value === null, null);
    case 'boolean':
      return constant(typeof value === 'boolean', value);
    case 'int':
      return constant(value === ((value as number) | 0), value);
    case 'long': {
      const n = typeof value === 'bigint' ? value : Number.isSafeInteger(value) ? BigInt(value as number) : undefined;
      return constant(n !== undefined && n === BigInt.asIntN(64, n), n);
    }
    case 'float':
    case 'double': {
      // Java writes these three as strings.
      const n = typeof value === 'bigint' ? Number(value) : value === 'NaN' || value === 'Infinity' || value === '-Infinity' ? Number(value) : value;
      return constant(typeof n === 'number', n);
    }
    case 'string':
      return constant(typeof value === 'string', value);
    case 'enum':
      return constant(typeof value === 'string' && type.symbols.includes(value), value);
    case 'bytes':
    case 'fixed': {
      if (typeof value !== 'string' || [...value].some((c) => c.charCodeAt(0) > 255)) throw wrong();
      const bytes = Buffer.from(value, 'latin1');
      if (type.kind === 'fixed' && bytes.length !== type.size) throw wrong();
      return () => Buffer.from(bytes);
    }
    case 'array': {
      if (!Array.isArray(value)) throw wrong();
      const items = value.map((v, i) => makerOf(type.items, v, `${place}[${i}]`));
      return () => items.map((make) => make());
    }
    case 'map': {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong();
      const entries = Object.entries(value).map(([k, v]) => [k, makerOf(type.values, v, at(place, k))] as const);
      return () => Object.fromEntries(entries.map(([k, make]) => [k, make()]));
    }
    case 'record': {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong();
      const entries = type.fields.map((f) => {
        const own = Object.hasOwn(value, f.name) ? makerOf(f.type, (value as Record<string, unknown>)[f.name], at(place, f.name)) : undefined;
        // The field's own default may be resolved later than this one: looked up when asked for.
        const make = own ?? (() => (f.makeDefault ?? missing(place, f.name))());
        return [f.name, make] as const;
      });
      return () => Object.fromEntries(entries.map(([k, make]) => [k, make()]));
    }
    case 'union':
      return unionMaker(type, value, place, wrong);
  }
}

function missing(place: string, field: string): never {
  throw invalid(place, `the default lacks the field ${field}, which has no default of its own.`);
}

/** By the spec of 1.12 the default may be of any branch; the first that fits is taken. */
function unionMaker(type: UnionType, value: unknown, place: string, wrong: () => TurnpikeError): () => unknown {
  for (const branch of type.branches) {
    let make: () => unknown;
    try {
      make = makerOf(branch, value, place);
    } catch {
      continue;
    }
    return type.wrapped && branch.kind !== 'null' ? () => ({ [branchName(branch)]: make() }) : make;
  }
  throw wrong();
}
