import { parseAvro } from './schema.ts';

type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json };

/** Numbers are kept as they are written: a long's default past 2^53 would come out as another one. */
function parse(text: string): Json {
  return JSON.parse(text, (_key, value: Json, context?: { source?: string }) =>
    typeof value === 'number' && context?.source !== undefined && String(value) !== context.source ? raw(context.source) : value,
  ) as Json;
}

// Node has it; TypeScript's library doesn't know it yet.
const { rawJSON: raw } = JSON as unknown as { rawJSON(text: string): Json };

/** Puts the definitions of referenced schemas where their names first occur, so that the text stands alone. `references` come each before those that need it, as a registry lists them.
 *  Throws SCHEMA_INVALID when a name stays undefined. */
export function selfContained(text: string, references: readonly string[]): string {
  if (references.length === 0) return text;
  parseAvro(text, { references, defaults: 'ignore' });
  const definitions = new Map<string, { schema: Json; namespace: string }>();
  for (const reference of references) collect(parse(reference), '', definitions);
  return JSON.stringify(inlined(parse(text), '', definitions, new Set()));
}

const isObject = (schema: Json | undefined): schema is { readonly [key: string]: Json } =>
  typeof schema === 'object' && schema !== null && !Array.isArray(schema);
const qualify = (name: string, namespace: string) => (name.includes('.') || namespace === '' ? name : `${namespace}.${name}`);

function fullName(schema: { readonly [key: string]: Json }, outer: string): string | undefined {
  if (!['record', 'error', 'enum', 'fixed'].includes(String(schema.type)) || typeof schema.name !== 'string') return undefined;
  return qualify(schema.name, typeof schema.namespace === 'string' ? schema.namespace : outer);
}

const namespaceOf = (name: string) => name.slice(0, Math.max(0, name.lastIndexOf('.')));

/** Every named type in a referenced schema, with the namespace that its inner names are read in. */
function collect(schema: Json | undefined, outer: string, into: Map<string, { schema: Json; namespace: string }>): void {
  if (Array.isArray(schema)) for (const branch of schema) collect(branch, outer, into);
  if (!isObject(schema)) return;
  const name = fullName(schema, outer);
  if (name !== undefined && !into.has(name)) into.set(name, { schema, namespace: outer });
  const inner = name === undefined ? outer : namespaceOf(name);
  for (const part of [schema.items, schema.values, isObject(schema.type) || Array.isArray(schema.type) ? schema.type : undefined]) collect(part, inner, into);
  if (Array.isArray(schema.fields)) for (const field of schema.fields) if (isObject(field)) collect(field.type, inner, into);
}

function inlined(schema: Json, outer: string, definitions: ReadonlyMap<string, { schema: Json; namespace: string }>, done: Set<string>): Json {
  const go = (part: Json, namespace: string) => inlined(part, namespace, definitions, done);
  if (typeof schema === 'string') {
    const name = [qualify(schema, outer), schema].find((n) => done.has(n) || definitions.has(n));
    if (name === undefined) return schema;
    const found = definitions.get(name);
    return found === undefined || done.has(name) ? name : go(found.schema, found.namespace);
  }
  if (Array.isArray(schema)) return schema.map((branch) => go(branch, outer));
  if (!isObject(schema)) return schema;
  const name = fullName(schema, outer);
  if (name !== undefined && done.has(name)) return name;
  if (name !== undefined) done.add(name);
  const inner = name === undefined ? outer : namespaceOf(name);
  const copy: Record<string, Json> = { ...schema };
  // Moved into another namespace it must keep its own.
  if (name !== undefined) Object.assign(copy, { name, namespace: inner });
  if (schema.items !== undefined) copy.items = go(schema.items, inner);
  if (schema.values !== undefined) copy.values = go(schema.values, inner);
  if (Array.isArray(schema.fields)) copy.fields = schema.fields.map((f: Json) => (isObject(f) && f.type !== undefined ? { ...f, type: go(f.type, inner) } : f));
  if (name === undefined && schema.type !== undefined && schema.type !== 'array' && schema.type !== 'map') copy.type = go(schema.type, inner);
  return copy;
}
