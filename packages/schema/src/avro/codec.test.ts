import type { TurnpikeError } from '@turnpike/core';
import type { SchemaRef } from '@turnpike/core/spi';
import avsc from 'avsc';
import { describe, expect, it } from 'vitest';
import { fingerprint } from '../fingerprint.ts';
import { avroCodec } from './codec.ts';

const refOf = (text: string, subject = 'orders-value'): SchemaRef => ({ subject, sha256: fingerprint(text) });
const codecOf = <I, O = I>(schema: unknown) => {
  const text = JSON.stringify(schema);
  return avroCodec<I, O>(refOf(text), text);
};
const record = (fields: unknown[], name = 'com.acme.Order') => ({ type: 'record', name, fields });

function encode(codec: { encodeInto(value: never, dst: Buffer, pos: number): number }, value: unknown): Buffer {
  const dst = Buffer.alloc(1_000_000);
  const end = codec.encodeInto(value as never, dst, 3);
  return dst.subarray(3, end);
}

function roundTrip(schema: unknown, value: unknown): unknown {
  const codec = codecOf<unknown>(schema);
  const bytes = encode(codec, value);
  return codec.decode(bytes, 0, bytes.length, codec.schema);
}

function failure(run: () => unknown): TurnpikeError {
  try {
    run();
  } catch (error) {
    return error as TurnpikeError;
  }
  throw new Error('nothing was thrown');
}

const encodeFailure = (schema: unknown, value: unknown) => failure(() => encode(codecOf(schema), value));
const decodeFailure = (schema: unknown, bytes: Buffer) => {
  const codec = codecOf<unknown>(schema);
  return failure(() => codec.decode(bytes, 0, bytes.length, codec.schema));
};

const evolve = async (writer: unknown, reader: unknown, value: unknown): Promise<unknown> => {
  const bytes = encode(codecOf(writer), value);
  const codec = codecOf<unknown>(reader);
  const writerText = JSON.stringify(writer);
  await codec.prepare(refOf(writerText), writerText);
  return codec.decode(bytes, 0, bytes.length, refOf(writerText));
};

describe('an Avro codec', () => {
  const order = record([
    { name: 'id', type: 'string' },
    { name: 'placedAt', type: 'long' },
    { name: 'paid', type: 'boolean' },
    { name: 'total', type: 'double' },
    { name: 'weight', type: 'float' },
    { name: 'note', type: ['null', 'string'], default: null },
    { name: 'status', type: { type: 'enum', name: 'Status', symbols: ['NEW', 'SHIPPED'] } },
    { name: 'hash', type: { type: 'fixed', name: 'Hash', size: 4 } },
    { name: 'payload', type: 'bytes' },
    { name: 'tags', type: { type: 'map', values: 'int' } },
    { name: 'items', type: { type: 'array', items: record([{ name: 'qty', type: 'int' }], 'Item') } },
  ]);
  const value = {
    id: 'o-1 ✓',
    placedAt: 1_767_225_600_123n,
    paid: true,
    total: 12.5,
    weight: 0.5,
    note: null,
    status: 'SHIPPED',
    hash: Buffer.from([1, 2, 3, 4]),
    payload: Buffer.from('abc'),
    tags: { a: 1, b: -2 },
    items: [{ qty: 1 }, { qty: -70_000 }],
  };

  it('gives back what was written', () => {
    expect(roundTrip(order, value)).toEqual(value);
  });

  it('writes at the given position and leaves what is before it', () => {
    const dst = Buffer.alloc(100, 7);
    const codec = codecOf<string>('string');
    expect(codec.encodeInto('hi', dst, 10)).toBe(13);
    expect(dst.subarray(8, 14)).toEqual(Buffer.from([7, 7, 4, 104, 105, 7]));
  });

  it('says by a negative number that the value doesn’t fit, for every length that is too short', () => {
    const codec = codecOf<unknown>(order);
    const whole = encode(codec, value);
    for (let length = 0; length < whole.length; length++) expect(codec.encodeInto(value, Buffer.alloc(length), 0)).toBeLessThan(0);
    const exact = Buffer.alloc(whole.length);
    expect(codec.encodeInto(value, exact, 0)).toBe(whole.length);
    expect(exact).toEqual(whole);
  });

  it('keeps every bit of a long', () => {
    const edges = [
      0n,
      -1n,
      63n,
      64n,
      -64n,
      -65n,
      2n ** 31n,
      2n ** 49n - 1n,
      2n ** 51n,
      2n ** 52n,
      2n ** 53n + 1n,
      -(2n ** 53n) - 1n,
      2n ** 56n,
      2n ** 63n - 1n,
      -(2n ** 63n),
    ];
    expect(roundTrip({ type: 'array', items: 'long' }, edges)).toEqual(edges);
    expect(encodeFailure('long', 2n ** 63n)).toMatchObject({ code: 'ENCODE_FAILED', message: expect.stringContaining('expected long') });
  });

  it('takes the default where a field is absent on write, a fresh one on read', async () => {
    const schema = record([
      { name: 'a', type: 'int' },
      { name: 'note', type: ['null', 'string'], default: null },
      { name: 'big', type: 'long', default: 5 },
      { name: 'tags', type: { type: 'array', items: 'string' }, default: ['x'] },
    ]);
    expect(roundTrip(schema, { a: 1 })).toEqual({ a: 1, note: null, big: 5n, tags: ['x'] });
    const writer = record([{ name: 'a', type: 'int' }]);
    const one = (await evolve(writer, schema, { a: 1 })) as { tags: string[] };
    one.tags.push('changed by its receiver');
    expect(await evolve(writer, schema, { a: 1 })).toEqual({ a: 1, note: null, big: 5n, tags: ['x'] });
  });

  it('keeps a default past 2^53', () => {
    const text = '{"type":"record","name":"R","fields":[{"name":"n","type":"long","default":9223372036854775807}]}';
    const codec = avroCodec<object>(refOf(text), text);
    const bytes = encode(codec, {});
    expect(codec.decode(bytes, 0, bytes.length, codec.schema)).toEqual({ n: 9223372036854775807n });
  });

  it('writes any Uint8Array as bytes and reads a Buffer of its own', () => {
    const codec = codecOf<Uint8Array, Buffer>('bytes');
    const bytes = encode(codec, new Uint8Array([1, 2]));
    const read = codec.decode(bytes, 0, bytes.length, codec.schema);
    bytes.fill(9);
    expect(read).toEqual(Buffer.from([1, 2]));
  });

  it('leaves out what the schema doesn’t have', () => {
    expect(roundTrip(record([{ name: 'a', type: 'int' }]), { a: 1, b: 2 })).toEqual({ a: 1 });
  });

  it('reads and writes a recursive schema', () => {
    const list = record(
      [
        { name: 'v', type: 'int' },
        { name: 'next', type: ['null', 'Node'] },
      ],
      'Node',
    );
    const three = { v: 1, next: { v: 2, next: { v: 3, next: null } } };
    expect(roundTrip(list, three)).toEqual(three);
  });
});

describe('a union', () => {
  it('stands unwrapped where JavaScript can tell its branches apart', () => {
    const schema = {
      type: 'array',
      items: ['null', 'boolean', 'int', 'long', 'string', 'bytes', { type: 'array', items: 'int' }, { type: 'map', values: 'int' }],
    };
    const values = [null, true, 5, 5n, 'x', Buffer.from('b'), [1], { a: 1 }];
    expect(roundTrip(schema, values)).toEqual(values);
  });

  it('stands wrapped by branch where two fall into one class, null excepted', () => {
    const schema = { type: 'array', items: ['null', 'int', 'double', record([{ name: 'a', type: 'int' }], 'n.A')] };
    const values = [null, { int: 5 }, { double: 5 }, { 'n.A': { a: 1 } }];
    expect(roundTrip(schema, values)).toEqual(values);
    expect(encodeFailure(schema, [5])).toMatchObject({ message: expect.stringContaining('[0]: expected null | { "int": int }') });
    expect(encodeFailure(schema, [{ 'n.A': { a: 'x' } }]).facts.path).toBe('[0]["n.A"].a');
  });
});

describe('a value that isn’t what the schema says', () => {
  const schema = record([
    { name: 'items', type: { type: 'array', items: record([{ name: 'qty', type: 'int' }], 'Item') } },
    { name: 'tags', type: { type: 'map', values: 'string' }, default: {} },
  ]);

  it('is refused with its path, what was expected and what was given', () => {
    const items = [{ qty: 1 }, { qty: 1 }, { qty: 1 }, { qty: '2' }];
    expect(encodeFailure(schema, { items })).toMatchObject({
      code: 'ENCODE_FAILED',
      message: '[ENCODE_FAILED] items[3].qty: expected int, got "2"',
      written: 'no',
      facts: { path: 'items[3].qty', subject: 'orders-value' },
    });
    expect(encodeFailure(schema, { items: [], tags: { 'a b': 5 } }).facts.path).toBe('tags["a b"]');
    expect(encodeFailure(schema, {}).message).toBe('[ENCODE_FAILED] items: expected array, got undefined');
    expect(encodeFailure(schema, 'x').message).toBe('[ENCODE_FAILED] expected record com.acme.Order, got "x"');
  });

  it.each([
    ['int', 1.5],
    ['int', 2 ** 31],
    ['int', Number.NaN],
    ['long', 5],
    ['float', 1e300],
    ['double', '1'],
    ['boolean', 1],
    ['string', 5],
    ['string', 'half \ud800'],
    ['bytes', 'text'],
    ['null', undefined],
    [{ type: 'enum', name: 'E', symbols: ['A'] }, 'toString'],
    [{ type: 'fixed', name: 'F', size: 2 }, Buffer.alloc(3)],
    [{ type: 'array', items: 'int' }, { 0: 1 }],
    [{ type: 'map', values: 'int' }, [1]],
    [['null', 'string'], undefined],
    [['null', 'string'], 5],
  ])('%j refuses %j', (type, given) => {
    expect(encodeFailure(type, given)).toMatchObject({ code: 'ENCODE_FAILED', written: 'no' });
  });

  it.each([
    [2 ** 40, 'expected int (-2147483648 to 2147483647), got 1099511627776'],
    [-2147483649, 'expected int (-2147483648 to 2147483647), got -2147483649'],
    [1.5, 'expected int, got 1.5'],
    [7n, 'expected int, got 7n'],
  ])('says of %s for an int what is wrong with it', (given, message) => {
    expect(encodeFailure('int', given).message).toBe(`[ENCODE_FAILED] ${message}`);
  });

  it('doesn’t show a long text, which may hold what doesn’t belong into a log', () => {
    expect(encodeFailure('int', 'x'.repeat(50)).message).toBe('[ENCODE_FAILED] expected int, got a string of 50 characters');
  });

  it('takes only own properties for fields that every object inherits', () => {
    const odd = record([{ name: 'constructor', type: 'string', default: 'none' }]);
    expect(roundTrip(odd, {})).toEqual(Object.assign(Object.create(null), { constructor: 'none' }));
    expect(encodeFailure(record([{ name: 'toString', type: 'string' }]), {}).message).toContain('toString: expected string, got undefined');
  });

  it('that refers to itself is refused instead of exhausting the stack', () => {
    const cyclic: { next: unknown } = { next: null };
    cyclic.next = cyclic;
    expect(encodeFailure(record([{ name: 'next', type: ['null', 'Node'] }], 'Node'), cyclic)).toMatchObject({ code: 'ENCODE_FAILED' });
  });

  it('whose getter throws keeps that error as the cause', () => {
    const cause = new Error('no such thing');
    const error = encodeFailure(record([{ name: 'a', type: 'int' }]), {
      get a() {
        throw cause;
      },
    });
    expect(error).toMatchObject({ code: 'ENCODE_FAILED', cause, facts: { path: 'a' } });
  });
});

describe('bytes from a stranger', () => {
  it('that end too early are refused, wherever they end', () => {
    const schema = record([
      { name: 's', type: 'string' },
      { name: 'n', type: 'long' },
      { name: 'd', type: 'double' },
      { name: 'a', type: { type: 'array', items: 'bytes' } },
    ]);
    const whole = encode(codecOf(schema), { s: 'text', n: 2n ** 60n, d: 1.5, a: [Buffer.from('x')] });
    for (let length = 0; length < whole.length; length++)
      expect(decodeFailure(schema, Buffer.from(whole.subarray(0, length)))).toMatchObject({ code: 'DECODE_FAILED' });
  });

  it('are read within their bounds only, though the buffer goes on', () => {
    const codec = codecOf<string>('string');
    const buffer = Buffer.from([8, 97, 98, 99, 100]);
    expect(codec.decode(buffer, 0, 5, codec.schema)).toBe('abcd');
    expect(failure(() => codec.decode(buffer, 0, 3, codec.schema))).toMatchObject({ code: 'DECODE_FAILED' });
  });

  it('that go on after the value are refused', () => {
    expect(decodeFailure('int', Buffer.from([2, 2])).message).toContain('1 bytes are left over');
  });

  const huge = Buffer.from([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
  it.each([
    ['an array of nulls that claims 2^62 items', { type: 'array', items: 'null' }, huge],
    ['an array of empty records that claims 2^62 items', { type: 'array', items: record([], 'Empty') }, huge],
    ['an array of longs that claims more than there are bytes', { type: 'array', items: 'long' }, Buffer.concat([huge, Buffer.alloc(100)])],
    ['a map that claims more than there are bytes', { type: 'map', values: 'int' }, Buffer.concat([huge, Buffer.alloc(100)])],
    ['a string of 2^62 bytes', 'string', huge],
    ['bytes of a negative length', 'bytes', Buffer.from([1])],
    ['a varint without end', 'long', Buffer.alloc(100, 0xff)],
    ['an int of 40 bits', 'int', Buffer.from([0xff, 0xff, 0xff, 0xff, 0x7f])],
    ['a union branch that doesn’t exist', ['null', 'int'], Buffer.from([8])],
    ['an enum symbol that doesn’t exist', { type: 'enum', name: 'E', symbols: ['A'] }, Buffer.from([2])],
    ['a boolean of 2', 'boolean', Buffer.from([2])],
  ])('%s', (_name, schema, bytes) => {
    expect(decodeFailure(schema, bytes)).toMatchObject({ code: 'DECODE_FAILED' });
  });

  it('nested a million levels deep are refused without exhausting the stack', () => {
    const node = record([{ name: 'next', type: ['null', 'Node'] }], 'Node');
    expect(decodeFailure(node, Buffer.alloc(1_000_000, 2)).message).toContain('nested in itself');
  });

  it.each([
    ['arrays', { type: 'array', items: 'Node' }, [2]],
    ['maps', { type: 'map', values: 'Node' }, [2, 0]],
    ['unions in arrays', { type: 'array', items: ['null', 'Node'] }, [2, 2]],
  ])('nested a million levels deep in %s are refused, the stack and the place in the message bounded', (_name, type, level) => {
    const bytes = Buffer.alloc(1_000_000, Buffer.from(level));
    const error = decodeFailure(record([{ name: 'next', type }], 'Node'), bytes);
    expect(error).toMatchObject({ code: 'DECODE_FAILED', message: expect.stringContaining('nested in itself') });
    expect(error.message.length).toBeLessThan(500);
  });

  it('with a long key are refused without printing all of it: it is a part of the record', () => {
    const schema = { type: 'map', values: 'boolean' };
    for (const key of ['x'.repeat(1_000), 'x '.repeat(500)]) {
      const bytes = encode(codecOf<unknown>(schema), { [key]: true });
      bytes[bytes.length - 2] = 7;
      expect(decodeFailure(schema, bytes).message).toBe(`[DECODE_FAILED] orders-value at ["${key.slice(0, 64)}..."]: a boolean is the byte 7.`);
    }
  });

  // What takes no byte is bounded over the whole record, or a few bytes would make gigabytes.
  it('that claim items without a byte in many blocks, or in arrays of arrays, are refused', () => {
    const block = Buffer.from([0xc0, 0x9a, 0x0c]); // 100,000
    expect(decodeFailure({ type: 'array', items: 'null' }, Buffer.concat(Array(50_000).fill(block)))).toMatchObject({ code: 'DECODE_FAILED' });
    const nested = { type: 'array', items: { type: 'array', items: record([{ name: 'n', type: 'null' }], 'Empty') } };
    const row = Buffer.concat([block, Buffer.from([0])]);
    expect(decodeFailure(nested, Buffer.concat([block, ...Array(100_000).fill(row)])).facts.path).toBe('[1][0]');
  });

  it('whose block lies about its size in bytes are refused or read by their count', () => {
    expect(decodeFailure({ type: 'array', items: 'int' }, Buffer.from([1, 0x7e, 2, 0]))).toMatchObject({ code: 'DECODE_FAILED' });
    expect(decodeFailure({ type: 'array', items: 'int' }, Buffer.from([1, 1, 2, 0]))).toMatchObject({ code: 'DECODE_FAILED' });
    const codec = codecOf<unknown>({ type: 'array', items: 'int' });
    expect(codec.decode(Buffer.from([1, 2, 6, 0]), 0, 4, codec.schema)).toEqual([3]);
  });

  // Summed anew at each mention, the least size of this schema took 2^60 steps.
  it('of a schema that names each of sixty records twice are read at once', () => {
    let type: unknown = record([{ name: 'v', type: 'int' }], 'R0');
    for (let i = 1; i <= 60; i++)
      type = record(
        [
          { name: 'a', type },
          { name: 'b', type: `R${i - 1}` },
        ],
        `R${i}`,
      );
    expect(decodeFailure({ type: 'array', items: type }, huge)).toMatchObject({ code: 'DECODE_FAILED' });
  });

  it('name the place where they go wrong', () => {
    const schema = record([{ name: 'items', type: { type: 'array', items: record([{ name: 'ok', type: 'boolean' }], 'Item') } }]);
    expect(decodeFailure(schema, Buffer.from([4, 1, 5, 0]))).toMatchObject({ facts: { path: 'items[1].ok', subject: 'orders-value' } });
  });

  it('with the map key __proto__ change no prototype', () => {
    const schema = { type: 'map', values: { type: 'map', values: 'int' } };
    const bytes = encode(codecOf(schema), JSON.parse('{"__proto__":{"polluted":1}}'));
    const codec = codecOf<Record<string, unknown>>(schema);
    const read = codec.decode(bytes, 0, bytes.length, codec.schema);
    expect(Object.getPrototypeOf(read)).toBe(Object.prototype);
    expect(Object.keys(read)).toEqual(['__proto__']);
    expect(({} as { polluted?: number }).polluted).toBeUndefined();
  });

  it('never crash or hang it: 20,000 mutated buffers end in a value or DECODE_FAILED', () => {
    const random = lcg(7);
    for (let round = 0; round < 200; round++) {
      const schema = randomSchema(random, 4);
      const codec = codecOf<unknown>(schema);
      const seed = encode(codec, randomValue(random, schema));
      for (let i = 0; i < 100; i++) {
        const bytes = Buffer.from(seed.length > 0 && i % 4 > 0 ? seed : Buffer.alloc(random(30)));
        for (let n = 1 + random(3); n > 0 && bytes.length > 0; n--) bytes[random(bytes.length)] = random(256);
        try {
          codec.decode(bytes, 0, bytes.length, codec.schema);
        } catch (error) {
          if ((error as TurnpikeError).code !== 'DECODE_FAILED' || (error as TurnpikeError).cause !== undefined) throw error;
        }
      }
    }
  });
});

describe('events written with another version of the schema', () => {
  it('are promoted as the specification says', async () => {
    expect(await evolve('int', 'long', 5)).toBe(5n);
    expect(await evolve('int', 'double', 5)).toBe(5);
    expect(await evolve('long', 'double', 5n)).toBe(5);
    expect(await evolve('float', 'double', 0.5)).toBe(0.5);
    expect(await evolve('string', 'bytes', 'x')).toEqual(Buffer.from('x'));
    expect(await evolve('bytes', 'string', Buffer.from('x'))).toBe('x');
    expect(await evolve('int', ['null', 'long'], 5)).toBe(5n);
    expect(await evolve(['null', 'int'], 'int', 5)).toBe(5);
  });

  it('lose fields that this one lacks, and get the defaults of those that they lack, by alias too', async () => {
    const writer = record([
      { name: 'gone', type: { type: 'map', values: 'string' } },
      { name: 'old', type: 'int' },
    ]);
    const reader = record([
      { name: 'added', type: 'string', default: 'd' },
      { name: 'renamed', aliases: ['old'], type: 'long' },
    ]);
    expect(await evolve(writer, reader, { gone: { a: 'b' }, old: 3 })).toEqual({ added: 'd', renamed: 3n });
  });

  it('resolve recursive schemas', async () => {
    const node = (extra: unknown[]) => record([{ name: 'v', type: 'int' }, { name: 'next', type: ['null', 'Node'] }, ...extra], 'Node');
    expect(await evolve(node([]), node([{ name: 'w', type: 'int', default: 0 }]), { v: 1, next: { v: 2, next: null } })).toEqual({
      v: 1,
      w: 0,
      next: { v: 2, w: 0, next: null },
    });
  });

  it('take an enum’s default for a symbol that this one doesn’t know, or fail with that record alone', async () => {
    const writer = { type: 'enum', name: 'E', symbols: ['A', 'B'] };
    expect(await evolve(writer, { type: 'enum', name: 'E', symbols: ['A', 'X'], default: 'X' }, 'B')).toBe('X');
    expect(await evolve(writer, { type: 'enum', name: 'E', symbols: ['A'] }, 'A')).toBe('A');
    await expect(evolve(writer, { type: 'enum', name: 'E', symbols: ['A'] }, 'B')).rejects.toMatchObject({
      code: 'DECODE_FAILED',
      message: expect.stringContaining('symbol B'),
    });
  });

  it('fail with that record alone where only one branch of a union is unknown', async () => {
    expect(await evolve(['int', 'string'], ['null', 'int'], 5)).toBe(5);
    await expect(evolve(['int', 'string'], ['null', 'int'], 'x')).rejects.toMatchObject({ code: 'DECODE_FAILED' });
  });

  it.each([
    ['string', 'int'],
    ['double', 'float'],
    ['long', 'int'],
    [record([]), record([{ name: 'a', type: 'int' }])],
    [record([], 'A'), record([], 'B')],
    [
      { type: 'fixed', name: 'F', size: 1 },
      { type: 'fixed', name: 'F', size: 2 },
    ],
    [
      { type: 'array', items: 'string' },
      { type: 'array', items: 'int' },
    ],
    [['string', 'bytes'], 'int'],
  ])('%j as %j is SCHEMA_INCOMPATIBLE', async (writer, reader) => {
    const text = JSON.stringify(writer);
    await expect(codecOf(reader).prepare(refOf(text), text)).rejects.toMatchObject({
      code: 'SCHEMA_INCOMPATIBLE',
      message: expect.stringContaining('turnpike generate'),
    });
  });

  it('must be prepared first', () => {
    const codec = codecOf('int');
    expect(failure(() => codec.decode(Buffer.from([2]), 0, 1, refOf('"other"')))).toMatchObject({ code: 'DECODE_FAILED' });
  });
});

describe('random schemas and values', () => {
  // avsc with longs as bigint: the second opinion on every byte.
  const longType = avsc.types.LongType.__with({
    fromBuffer: (b: Buffer) => b.readBigInt64LE(),
    toBuffer: (n: bigint) => {
      const b = Buffer.alloc(8);
      b.writeBigInt64LE(n);
      return b;
    },
    fromJSON: BigInt,
    toJSON: Number,
    isValid: (n: unknown) => typeof n === 'bigint',
    compare: (a: bigint, b: bigint) => (a < b ? -1 : a > b ? 1 : 0),
  });

  it('are written byte for byte as avsc does, and read back alike', () => {
    const random = lcg(42);
    for (let round = 0; round < 300; round++) {
      const schema = randomSchema(random, 4);
      const value = randomValue(random, schema);
      const other = avsc.Type.forSchema(structuredClone(schema) as avsc.Type, { registry: { long: longType } });
      const codec = codecOf<unknown>(schema);
      const bytes = encode(codec, value);
      expect(bytes.equals(other.toBuffer(value)), JSON.stringify(schema)).toBe(true);
      expect(codec.decode(bytes, 0, bytes.length, codec.schema)).toEqual(value);
    }
  });
});

type Random = (below: number) => number;

function lcg(seed: number): Random {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

let serial = 0;
function randomSchema(random: Random, depth: number): unknown {
  const leaf = ['null', 'boolean', 'int', 'long', 'float', 'double', 'string', 'bytes'];
  const kind = random(depth > 0 ? 14 : 8);
  if (kind < 8) return leaf[kind];
  serial++;
  switch (kind) {
    case 8:
      return { type: 'array', items: randomSchema(random, depth - 1) };
    case 9:
      return { type: 'map', values: randomSchema(random, depth - 1) };
    case 10:
      return { type: 'enum', name: `E${serial}`, symbols: ['A', 'B', 'C'] };
    case 11:
      return { type: 'fixed', name: `ns.F${serial}`, size: 1 + random(8) };
    case 12:
      return random(2) === 0 ? ['null', 'string', 'long', 'boolean'] : ['null', 'string', 'int', 'double', `bytes`];
    default: {
      const name = `R${serial}`;
      return {
        type: 'record',
        name,
        namespace: 'ns',
        fields: Array.from({ length: random(6) }, (_, i) => ({ name: `f${i}`, type: randomSchema(random, depth - 1) })),
      };
    }
  }
}

function randomValue(random: Random, schema: unknown): unknown {
  if (Array.isArray(schema)) {
    const branch = schema[random(schema.length)] as string;
    const wrapped = schema.includes('int') && schema.includes('double');
    const value = randomValue(random, branch);
    return wrapped && branch !== 'null' ? { [branch]: value } : value;
  }
  const s = (typeof schema === 'string' ? { type: schema } : schema) as Record<string, unknown>;
  const many = <T>(make: (i: number) => T) => Array.from({ length: random(4) }, (_, i) => make(i));
  switch (s.type) {
    case 'null':
      return null;
    case 'boolean':
      return random(2) === 1;
    case 'int':
      return (random(2 ** 32) | 0) >> random(32);
    case 'long':
      return BigInt.asIntN(64, (BigInt(random(2 ** 32)) << 32n) | BigInt(random(2 ** 32))) >> BigInt(random(64));
    case 'float':
      return Math.fround((random(2 ** 30) - 2 ** 29) / 977);
    case 'double':
      return (random(2 ** 32) - 2 ** 31) / 977;
    case 'string':
      return many(() => ['a', 'é', '€', '😀', 'long text '.repeat(random(12))][random(5)]).join('');
    case 'bytes':
      return Buffer.from(many(() => random(256)));
    case 'fixed':
      return Buffer.alloc(s.size as number, random(256));
    case 'enum':
      return (s.symbols as string[])[random(3)];
    case 'array':
      return many(() => randomValue(random, s.items));
    case 'map':
      return Object.fromEntries(many((i) => [['__proto__', 'key', 'ü', ''][i], randomValue(random, s.values)]));
    default:
      return Object.fromEntries((s.fields as { name: string; type: unknown }[]).map((f) => [f.name, randomValue(random, f.type)]));
  }
}
