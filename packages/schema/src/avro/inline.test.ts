import { describe, expect, it } from 'vitest';
import { fingerprint } from '../fingerprint.ts';
import { avroCodec } from './codec.ts';
import { selfContained } from './inline.ts';
import { parseAvro } from './schema.ts';

const record = (name: string, fields: Readonly<Record<string, unknown>>, more: object = {}) =>
  JSON.stringify({ type: 'record', name, ...more, fields: Object.entries(fields).map(([n, type]) => ({ name: n, type })) });

/** What it makes stands alone, and a value goes through it. */
function roundTrip(text: string, value: unknown): unknown {
  parseAvro(text);
  const codec = avroCodec<unknown>({ subject: 's', sha256: fingerprint(text) }, text);
  const dst = Buffer.alloc(500);
  return codec.decode(dst, 0, codec.encodeInto(value, dst, 0), codec.schema);
}

describe('a schema with what it refers to put in', () => {
  it('is unchanged to the byte where it refers to nothing', () => {
    const text = '{ "type" : "long" }';
    expect(selfContained(text, [])).toBe(text);
  });

  it('defines each type where its name first occurs, and names it after', () => {
    const text = selfContained(record('Order', { total: 'acme.Money', tax: 'acme.Money', list: { type: 'array', items: 'acme.Money' } }), [
      record('Money', { cents: 'long' }, { namespace: 'acme' }),
    ]);
    const fields = (JSON.parse(text) as { fields: { type: unknown }[] }).fields;
    expect(fields[0]?.type).toMatchObject({ name: 'acme.Money', fields: [{ name: 'cents' }] });
    expect(fields[1]?.type).toBe('acme.Money');
    expect(fields[2]?.type).toEqual({ type: 'array', items: 'acme.Money' });
    const value = { total: { cents: 1n }, tax: { cents: 2n }, list: [{ cents: 3n }] };
    expect(roundTrip(text, value)).toEqual(value);
  });

  it('goes through references of references, and types that lie within others', () => {
    const inner = record('Leaf', { e: { type: 'enum', name: 'Kind', symbols: ['A', 'B'] } }, { namespace: 'n.leaf' });
    const middle = record('Middle', { leaf: 'n.leaf.Leaf', hash: { type: 'fixed', name: 'Hash', size: 2 } }, { namespace: 'n.mid' });
    // The fixed, which lies in the middle one, is named before the middle one itself.
    const text = selfContained(record('Top', { hash: 'n.mid.Hash', kind: 'n.leaf.Kind', middle: 'n.mid.Middle' }), [inner, middle]);
    const value = { hash: Buffer.from([1, 2]), kind: 'B', middle: { leaf: { e: 'A' }, hash: Buffer.from([3, 4]) } };
    expect(roundTrip(text, value)).toEqual(value);
  });

  it('keeps a record that refers to itself', () => {
    const node = record('Node', { next: ['null', 'Node'], all: { type: 'map', values: 'n.Node' } }, { namespace: 'n' });
    const text = selfContained(record('Top', { first: 'n.Node' }), [node]);
    const value = { first: { next: { next: null, all: {} }, all: { a: { next: null, all: {} } } } };
    expect(roundTrip(text, value)).toEqual(value);
  });

  it('reads a name in the namespace that it stands in, first of all', () => {
    const here = record('Money', { cents: 'long' }, { namespace: 'here' });
    const there = record('Money', { text: 'string' }, { namespace: 'there' });
    const text = selfContained(record('Order', { own: 'Money', other: 'there.Money' }, { namespace: 'here' }), [here, there]);
    const value = { own: { cents: 1n }, other: { text: 'x' } };
    expect(roundTrip(text, value)).toEqual(value);
  });

  it('keeps a moved type, and what lies in it, in the namespace that it had', () => {
    const bare = record('Bare', { inner: { type: 'record', name: 'Inner', fields: [] }, again: 'Inner' });
    const text = selfContained(record('Order', { bare: 'Bare', inner: 'Inner' }, { namespace: 'acme' }), [bare]);
    const { fields } = parseAvro(text) as unknown as { fields: { type: { name: string } }[] };
    expect(fields.map((f) => f.type.name)).toEqual(['Bare', 'Inner']);
  });

  it('leaves primitives, doc, aliases, defaults and logical types as they are', () => {
    const text = JSON.stringify({
      type: 'record',
      name: 'Order',
      doc: 'an "int" of no use',
      fields: [
        { name: 'at', type: { type: 'long', logicalType: 'timestamp-millis' }, default: 0, doc: 'Money' },
        { name: 'name', aliases: ['Money'], type: 'string', default: 'Money' },
        { name: 'wrapped', type: { type: { type: 'array', items: 'Money' } }, default: [] },
      ],
    });
    const whole = JSON.parse(selfContained(text, [record('Money', {})])) as { fields: object[] };
    const given = JSON.parse(text) as { fields: object[] };
    expect(whole.fields.slice(0, 2)).toEqual(given.fields.slice(0, 2));
    expect(whole).toMatchObject({ doc: 'an "int" of no use', fields: [{}, {}, { default: [] }] });
  });

  // Read and written again as a JavaScript number, 9223372036854775807 is 9223372036854776000, which is no long.
  it('keeps a long’s default past 2^53', () => {
    const limit =
      '{"type":"record","name":"Limit","fields":[{"name":"max","type":"long","default":9223372036854775807},{"name":"part","type":"double","default":1.50}]}';
    const text = selfContained(record('Order', { limit: 'Limit' }), [limit]);
    expect(text).toContain('"default":9223372036854775807');
    expect(text).toContain('"default":1.50');
    expect(roundTrip(text, { limit: {} })).toEqual({ limit: { max: 9223372036854775807n, part: 1.5 } });
  });

  it('is the same for the same input, so that both sides come to one text', () => {
    const references = [record('A', { x: 'int' }), record('B', { a: 'A' })];
    const text = record('Top', { b: 'B', a: 'A' });
    expect(selfContained(text, references)).toBe(selfContained(text, references));
  });

  it('of a name that stays undefined, or is defined twice, or is no JSON, is SCHEMA_INVALID with the place', () => {
    const failing = (text: string, references: string[]) => expect(() => selfContained(text, references));
    failing(record('Order', { total: 'Money' }), [record('Other', {})]).toThrow(
      expect.objectContaining({ code: 'SCHEMA_INVALID', facts: { path: 'fields[0].type' } }),
    );
    failing(record('Order', {}), [record('A', {}), record('A', {})]).toThrow(expect.objectContaining({ code: 'SCHEMA_INVALID' }));
    failing(record('Order', {}), ['{']).toThrow(expect.objectContaining({ code: 'SCHEMA_INVALID' }));
    failing(`${'['.repeat(100_000)}${']'.repeat(100_000)}`, [record('A', {})]).toThrow(expect.objectContaining({ code: 'SCHEMA_INVALID' }));
  });
});
