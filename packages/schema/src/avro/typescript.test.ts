import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { avroTypeScript } from './typescript.ts';

const emit = (schema: unknown, options?: Parameters<typeof avroTypeScript>[1]) => avroTypeScript(JSON.stringify(schema), options);
const record = (name: string, fields: unknown[], more: object = {}) => ({ type: 'record', name, fields, ...more });

describe('TypeScript of an Avro schema', () => {
  it('is one interface where writing and reading are alike', () => {
    const schema = record(
      'com.acme.Order',
      [
        { name: 'id', type: 'string' },
        { name: 'at', type: 'long' },
        { name: 'paid', type: ['null', 'boolean'] },
      ],
      { doc: 'An order.' },
    );
    expect(emit(schema)).toEqual({
      inputType: 'Order',
      outputType: 'Order',
      code: '/** An order. */\nexport interface Order {\n  readonly id: string;\n  readonly at: bigint;\n  readonly paid: null | boolean;\n}\n',
    });
  });

  it('has an input type where a default makes a field optional on write, up through what holds it', () => {
    const item = record('Item', [{ name: 'qty', type: 'int', default: 1 }]);
    const { inputType, outputType, code } = emit(record('Order', [{ name: 'items', type: { type: 'array', items: item } }]), { name: 'OrdersPlaced' });
    expect([inputType, outputType]).toEqual(['OrdersPlacedInput', 'OrdersPlaced']);
    expect(code).toContain('export interface OrdersPlacedInput {\n  readonly items: readonly ItemInput[];\n}');
    expect(code).toContain('export interface ItemInput {\n  /** A 32-bit integer. Default: 1. */\n  readonly qty?: number | undefined;\n}');
    expect(code).toContain('export interface Item {\n  /** A 32-bit integer. Default: 1. */\n  readonly qty: number;\n}');
  });

  it('keeps apart records of one name in two namespaces, whatever their order', () => {
    const a = record('Point', [{ name: 'x', type: 'double' }], { namespace: 'geo' });
    const b = record('Point', [{ name: 'score', type: 'long' }], { namespace: 'game' });
    const one = emit(
      record('R', [
        { name: 'a', type: a },
        { name: 'b', type: b },
      ]),
    ).code;
    expect(one).toContain('readonly a: GeoPoint;\n  readonly b: GamePoint;');
    expect(
      emit(
        record('R', [
          { name: 'b', type: b },
          { name: 'a', type: a },
        ]),
      ).code,
    ).toContain('export interface GeoPoint {\n  readonly x: number;');
  });

  it('gives no type a name that its module needs', () => {
    const schema = record('R', [
      { name: 'b', type: record('Buffer', [{ name: 'x', type: 'bytes' }]) },
      { name: 'c', type: record('Codec', [{ name: 'x', type: 'string' }]) },
    ]);
    const { code } = emit(schema, { reserved: ['Codec'] });
    expect(code).toContain('export interface Buffer_2 {\n  readonly x: Buffer;');
    expect(code).toContain('export interface Codec_2 {');
  });

  it('carries doc comments over, and no way out of them', () => {
    const { code } = emit(record('R', [{ name: 'a', type: 'string', doc: 'first\nsecond */ evil()' }]));
    expect(code).toContain('  /**\n   * first\n   * second *\\/ evil()\n   */\n  readonly a: string;');
  });

  it('names a schema that isn’t a record', () => {
    expect(emit({ type: 'array', items: 'bytes' }, { name: 'Chunks' })).toEqual({
      inputType: 'ChunksInput',
      outputType: 'Chunks',
      code: 'export type Chunks = readonly Buffer[];\n\nexport type ChunksInput = readonly Uint8Array[];\n',
    });
    expect(emit('string').outputType).toBe('Value');
  });

  it.each([
    ['{', 'not JSON'],
    ['{"type":"record","name":"R","fields":[{"name":"a","type":"Missing"}]}', 'at fields[0].type: no type "Missing"'],
    ['{"type":"record","name":"R","fields":[{"name":"a-b","type":"int"}]}', 'at fields[0]: "a-b" is no field name'],
    ['{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":"x"}]}', 'at fields[0].default: the default "x" is no int'],
    ['{"type":"record","name":"R","fields":[{"name":"a","type":["null",["int"]]}]}', 'at fields[0].type[1]: a union may not stand directly in a union'],
    ['{"type":"enum","name":"E","symbols":["A","A"]}', 'at symbols: a symbol stands twice'],
    ['{"type":"fixed","name":"F","size":-1}', 'at size: a fixed needs'],
    ['["int","int"]', 'at [1]: the union has the branch int twice'],
    ['"int32"', 'no type "int32"'],
  ])('of %s is SCHEMA_INVALID', (text, message) => {
    expect(() => avroTypeScript(text)).toThrow(expect.objectContaining({ code: 'SCHEMA_INVALID', message: expect.stringContaining(message) }));
  });

  it.each([500, 100_000])('of a schema nested %d levels deep is SCHEMA_INVALID', (levels) => {
    const text = `${'{"type":"array","items":'.repeat(levels)}"int"${'}'.repeat(levels)}`;
    expect(() => avroTypeScript(text)).toThrow(expect.objectContaining({ code: 'SCHEMA_INVALID' }));
  });

  it('of a hostile schema compiles under strict and says exactly what the codec takes and gives', () => {
    const schema = record('com.acme.Everything', [
      { name: 'constructor', type: 'string', default: 'x' },
      { name: 'class', type: { type: 'enum', name: 'default', symbols: ['function', 'B'] } },
      { name: 'wrapped', type: ['null', 'int', 'double', record('com.other.Everything', [{ name: 'x', type: 'long' }])] },
      { name: 'nested', type: { type: 'map', values: { type: 'array', items: ['null', { type: 'array', items: 'bytes' }] } } },
      { name: 'self', type: ['null', 'com.acme.Everything'], default: null },
      { name: 'empty', type: record('Empty', []) },
      { name: 'hash', type: { type: 'fixed', name: 'Hash', size: 2 } },
      { name: 'when', type: { type: 'long', logicalType: 'timestamp-micros' } },
    ]);
    const { code, inputType, outputType } = emit(schema);
    const check = `
      type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
      const proof: [
        Same<${outputType}['when'], bigint>,
        Same<${inputType}['hash'], Uint8Array>,
        Same<${outputType}['hash'], Buffer>,
        Same<${outputType}['class'], 'function' | 'B'>,
        Same<${outputType}['wrapped'], null | { readonly int: number } | { readonly double: number } | { readonly 'com.other.Everything': ComOtherEverything }>,
        Same<${inputType}['self'], ${inputType} | null | undefined>,
        Same<${outputType}['nested'], { readonly [key: string]: readonly (null | readonly Buffer[])[] }>,
      ] = [true, true, true, true, true, true, true];
      const written: ${inputType} = { constructor: 'x', class: 'B', wrapped: { int: 1 }, nested: {}, empty: {}, hash: new Uint8Array(2), when: 1n };
      // @ts-expect-error a long is a bigint
      const wrong: ${inputType} = { ...written, when: 1 };
      export { proof, wrong };
    `;
    expect(diagnostics(code + check)).toEqual([]);
  });

  it('is the same text each time', () => {
    const schema = record('R', [{ name: 'a', type: record('A', [{ name: 'b', type: 'bytes', default: '\u00ff' }]) }]);
    expect(emit(schema)).toEqual(emit(structuredClone(schema)));
  });
});

function diagnostics(code: string): readonly string[] {
  // Inside the package, so that @types/node is found.
  const folder = mkdtempSync(join(import.meta.dirname, '..', '..', 'node_modules', '.check-'));
  try {
    const file = join(folder, 'generated.ts');
    writeFileSync(file, code);
    const program = ts.createProgram([file], {
      strict: true,
      exactOptionalPropertyTypes: true,
      noEmit: true,
      skipLibCheck: true,
      target: ts.ScriptTarget.ES2024,
      module: ts.ModuleKind.NodeNext,
      moduleResolution: ts.ModuleResolutionKind.NodeNext,
      types: ['node'],
      typeRoots: [join(import.meta.dirname, '..', '..', '..', '..', 'node_modules', '@types')],
    });
    return ts.getPreEmitDiagnostics(program).map((d) => ts.flattenDiagnosticMessageText(d.messageText, '\n'));
  } finally {
    rmSync(folder, { recursive: true });
  }
}
