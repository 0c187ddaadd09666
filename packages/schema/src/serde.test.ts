import { RecordHeaders, TurnpikeError } from '@turnpike/core';
import type { Serde } from '@turnpike/core/spi';
import { describe, expect, it } from 'vitest';
import { avroCodec } from './avro/codec.ts';
import { fingerprint } from './fingerprint.ts';
import type { SchemaIds } from './ids.ts';
import { bytesSerde, confluentSerde, stringSerde } from './serde.ts';

interface Order {
  id: string;
  qty?: number;
  note?: string;
}

const field = (name: string, type: string, more: object = {}) => ({ name, type, ...more });
const schemaOf = (...fields: object[]) => JSON.stringify({ type: 'record', name: 'Order', fields });
const older = schemaOf(field('id', 'string'));
const current = schemaOf(field('id', 'string'), field('qty', 'int', { default: 1 }));
const newer = schemaOf(field('id', 'string'), field('note', 'string', { default: '' }), field('qty', 'int', { default: 1 }));
const foreign = schemaOf(field('id', 'int'));

const down = new TurnpikeError('SCHEMA_UNAVAILABLE', 'the registry is down', { retriable: true });
const notThere = new TurnpikeError('SCHEMA_UNKNOWN', 'not registered');

/** One registry: its own numbering of texts. Counts what it is asked. */
class Registry implements SchemaIds {
  readonly asked: string[] = [];
  failure: TurnpikeError | undefined;
  readonly #texts: Readonly<Record<number, string>>;

  constructor(texts: Readonly<Record<number, string>>) {
    this.#texts = texts;
  }

  async idOf(_ref: unknown, text: string): Promise<number> {
    this.asked.push('idOf');
    if (this.failure) throw this.failure;
    const found = Object.entries(this.#texts).find(([, t]) => t === text);
    if (!found) throw notThere;
    return Number(found[0]);
  }

  async textOf(id: number) {
    this.asked.push(`textOf ${id}`);
    if (this.failure) throw this.failure;
    const text = this.#texts[id];
    if (text === undefined) throw notThere;
    return { text, references: [] };
  }
}

function serdeOf(ids: SchemaIds, text = current): Serde<Order> {
  const schema = { subject: 'orders-value', sha256: fingerprint(text) };
  return confluentSerde<Order>({ codec: avroCodec<Order>(schema, text), text, ids, topic: 'orders' });
}

function encode(serde: Serde<Order>, value: Order): Buffer {
  const dst = Buffer.alloc(200, 0xee);
  const end = serde.encodeInto(value, dst, 2);
  expect(dst.subarray(0, 2)).toEqual(Buffer.from([0xee, 0xee]));
  return Buffer.from(dst.subarray(2, end));
}

const none = new RecordHeaders([]);
const frame = (id: number, ...value: number[]) => {
  const prefix = Buffer.alloc(5);
  prefix.writeInt32BE(id, 1);
  return Buffer.concat([prefix, Buffer.from(value)]);
};

const written = async (registry: Registry, text: string, value: Order) => {
  const serde = serdeOf(registry, text);
  await serde.ready();
  return encode(serde, value);
};

async function read(serde: Serde<Order>, bytes: Buffer): Promise<Order> {
  await serde.prepare(bytes, none);
  return serde.decode(bytes, none);
}

function failure(run: () => unknown): TurnpikeError {
  try {
    run();
  } catch (error) {
    return error as TurnpikeError;
  }
  throw new Error('nothing was thrown');
}

describe('the frame', () => {
  it('is a 0 and the id in 4 bytes, big end first, then the value', async () => {
    const bytes = await written(new Registry({ 16909060: current }), current, { id: 'ab', qty: 5 });
    expect(bytes).toEqual(Buffer.from([0, 1, 2, 3, 4, 4, 97, 98, 10]));
  });

  it('says by a negative number that it doesn’t fit, for every length that is too short', async () => {
    const serde = serdeOf(new Registry({ 1: current }));
    await serde.ready();
    const { length } = encode(serde, { id: 'ab', qty: 5 });
    for (let n = 0; n < length; n++) expect(serde.encodeInto({ id: 'ab', qty: 5 }, Buffer.alloc(n + 3), 3)).toBeLessThan(0);
    expect(serde.encodeInto({ id: 'ab', qty: 5 }, Buffer.alloc(length + 3), 3)).toBe(length + 3);
  });

  it.each([
    ['nothing', Buffer.alloc(0), 'a value of 0 bytes has no schema prefix'],
    ['fewer than 5 bytes', Buffer.from([0, 0, 0, 1]), 'a value of 4 bytes that begins with 00000001 (hex)'],
    ['another magic byte', Buffer.from([1, 0, 0, 0, 1, 2]), 'begins with 0100000001 (hex)'],
    ['JSON', Buffer.from('{"id":1}'), 'begins with 7b22696422 (hex)'],
    ['a negative id', frame(-1, 0), 'begins with 00ffffffff (hex)'],
  ])('of %s is DECODE_FAILED with the topic, and asks no registry', async (_name, bytes, message) => {
    const registry = new Registry({ 1: current });
    const serde = serdeOf(registry);
    expect(serde.prepare(bytes, none)).toBeUndefined();
    const error = failure(() => serde.decode(bytes, none));
    expect(error).toMatchObject({ code: 'DECODE_FAILED', facts: { topic: 'orders' } });
    expect(error.message).toContain(`orders: `);
    expect(error.message).toContain(message);
    expect(registry.asked).toEqual([]);
  });

  it('with nothing after it is DECODE_FAILED', async () => {
    const serde = serdeOf(new Registry({ 1: current }));
    await expect(read(serde, frame(1))).rejects.toMatchObject({ code: 'DECODE_FAILED' });
  });

  it('of a hostile length, or that goes on after the value, is DECODE_FAILED', async () => {
    const serde = serdeOf(new Registry({ 1: current }));
    await expect(read(serde, frame(1, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f))).rejects.toMatchObject({ code: 'DECODE_FAILED' });
    await expect(read(serde, Buffer.concat([frame(1, 2, 97, 2), Buffer.alloc(1_000)]))).rejects.toMatchObject({ code: 'DECODE_FAILED' });
  });
});

describe('before it is ready', () => {
  it('encoding is a retriable SCHEMA_UNAVAILABLE that starts one look-up', async () => {
    const registry = new Registry({ 1: current });
    const serde = serdeOf(registry);
    for (let i = 0; i < 3; i++)
      expect(failure(() => encode(serde, { id: 'a' }))).toMatchObject({
        code: 'SCHEMA_UNAVAILABLE',
        retriable: true,
        written: 'no',
        facts: { topic: 'orders', subject: 'orders-value' },
      });
    await serde.ready();
    expect(encode(serde, { id: 'a' })[4]).toBe(1);
    expect(registry.asked).toEqual(['idOf']);
  });

  it('stays so while the registry is down, with the reason as its cause, and works when it is back', async () => {
    const registry = new Registry({ 1: current });
    registry.failure = down;
    const serde = serdeOf(registry);
    await expect(serde.ready()).rejects.toBe(down);
    expect(failure(() => encode(serde, { id: 'a' }))).toMatchObject({ code: 'SCHEMA_UNAVAILABLE', retriable: true, cause: down });
    await expect(serde.ready()).rejects.toBe(down);
    registry.failure = undefined;
    await serde.ready();
    expect(encode(serde, { id: 'a' })[4]).toBe(1);
  });

  // "Send again shortly" would be said for ever of a schema that nobody has registered.
  it('says why, once it is known that no waiting helps', async () => {
    const serde = serdeOf(new Registry({ 1: older }));
    await expect(serde.ready()).rejects.toMatchObject({ code: 'SCHEMA_UNKNOWN' });
    expect(failure(() => encode(serde, { id: 'a' }))).toMatchObject({ code: 'SCHEMA_UNKNOWN', retriable: false, written: 'no' });
  });
});

describe('events of other writers', () => {
  const texts = { 1: older, 2: current, 3: newer, 4: foreign };

  it('older and newer are resolved against the own schema', async () => {
    const registry = new Registry(texts);
    const serde = serdeOf(registry);
    expect(await read(serde, await written(registry, older, { id: 'o' }))).toEqual({ id: 'o', qty: 1 });
    expect(await read(serde, await written(registry, newer, { id: 'n', note: 'x', qty: 7 }))).toEqual({ id: 'n', qty: 7 });
  });

  it('are asked for once, however many wait', async () => {
    const registry = new Registry(texts);
    const serde = serdeOf(registry);
    const bytes = await written(registry, older, { id: 'o' });
    registry.asked.length = 0;
    const first = serde.prepare(bytes, none);
    expect(serde.prepare(bytes, none)).toBe(first);
    await first;
    expect(serde.prepare(bytes, none)).toBeUndefined();
    expect(registry.asked).toEqual(['idOf', 'textOf 1']);
  });

  it('must be prepared first', () => {
    expect(failure(() => serdeOf(new Registry(texts)).decode(frame(1, 0), none))).toMatchObject({ code: 'DECODE_FAILED', facts: { topic: 'orders' } });
  });

  it('of the own schema need no look-up of its text', async () => {
    const registry = new Registry(texts);
    const bytes = await written(registry, current, { id: 'a', qty: 2 });
    registry.asked.length = 0;
    expect(await read(serdeOf(registry), bytes)).toEqual({ id: 'a', qty: 2 });
    expect(registry.asked).toEqual(['idOf']);
  });

  it('of the own text under another id are not parsed again', async () => {
    const registry = new Registry({ 1: current, 2: current });
    const schema = { subject: 'orders-value', sha256: fingerprint(current) };
    const codec = avroCodec<Order>(schema, current);
    const prepared: string[] = [];
    const prepare = (...[writer, text]: Parameters<typeof codec.prepare>) => {
      prepared.push(writer.sha256);
      return codec.prepare(writer, text);
    };
    const serde = confluentSerde({ codec: { ...codec, prepare }, text: current, ids: registry, topic: 'orders' });
    expect(await read(serde, frame(2, 2, 97, 2))).toEqual({ id: 'a', qty: 1 });
    // The codec knows its own fingerprint: nothing is compiled for it.
    expect(prepared).toEqual([schema.sha256]);
  });

  it('that nobody registered are SCHEMA_UNKNOWN, asked for again at the next record', async () => {
    const registry = new Registry(texts);
    const serde = serdeOf(registry);
    for (let i = 0; i < 2; i++) await expect(serde.prepare(frame(99, 0), none)).rejects.toMatchObject({ code: 'SCHEMA_UNKNOWN', retriable: false });
    expect(registry.asked.filter((a) => a === 'textOf 99')).toHaveLength(2);
  });

  it('while the registry is down are retriable, never poison, and read when it is back', async () => {
    const registry = new Registry(texts);
    const bytes = await written(registry, older, { id: 'o' });
    const serde = serdeOf(registry);
    registry.failure = down;
    await expect(serde.prepare(bytes, none)).rejects.toBe(down);
    registry.failure = undefined;
    expect(await read(serde, bytes)).toEqual({ id: 'o', qty: 1 });
  });

  it('that the own schema can’t read are SCHEMA_INCOMPATIBLE, and the others go on', async () => {
    const registry = new Registry(texts);
    const serde = serdeOf(registry);
    await expect(serde.prepare(frame(4, 2), none)).rejects.toMatchObject({ code: 'SCHEMA_INCOMPATIBLE', facts: { subject: 'orders-value' } });
    expect(await read(serde, await written(registry, current, { id: 'a', qty: 3 }))).toEqual({ id: 'a', qty: 3 });
  });

  it('whose schema is broken in the registry are SCHEMA_INVALID', async () => {
    const serde = serdeOf(new Registry({ 2: current, 5: 'not JSON' }));
    await expect(serde.prepare(frame(5, 2), none)).rejects.toMatchObject({ code: 'SCHEMA_INVALID' });
  });

  it('are read by the ids of their own registry: where two number alike differently, neither takes the other’s', async () => {
    const [here, there] = [new Registry({ 1: older, 2: newer, 3: current }), new Registry({ 1: newer, 2: older, 4: current })];
    for (const registry of [here, there]) {
      const serde = serdeOf(registry);
      expect(await read(serde, await written(registry, older, { id: 'o' }))).toEqual({ id: 'o', qty: 1 });
      expect(await read(serde, await written(registry, newer, { id: 'n', note: 'x', qty: 9 }))).toEqual({ id: 'n', qty: 9 });
    }
    expect((await written(here, current, { id: 'a' }))[4]).toBe(3);
    expect((await written(there, current, { id: 'a' }))[4]).toBe(4);
  });
});

describe('a string key', () => {
  const serde = stringSerde();
  const encoded = (value: string) => {
    const dst = Buffer.alloc(200);
    return Buffer.from(dst.subarray(1, serde.encodeInto(value, dst, 1)));
  };

  it.each(['', 'a', 'plain ascii of more than thirty-two characters', 'ünïcode', '\u20ac and \u{1f600}', '\ufeffwith a mark', '\0'])(
    '%j is its UTF-8 and comes back',
    (value) => {
      expect(encoded(value)).toEqual(Buffer.from(value, 'utf8'));
      expect(serde.decode(encoded(value), none)).toBe(value);
      expect(serde.prepare(encoded(value), none)).toBeUndefined();
    },
  );

  it.each(['abc', 'ü', 'a\u{1f600}b', 'x'.repeat(40), `${'x'.repeat(40)}€`])('%j says by a negative number that it doesn’t fit', (value) => {
    const { length } = Buffer.from(value);
    for (let n = 0; n < length; n++) expect(serde.encodeInto(value, Buffer.alloc(n + 2), 2)).toBeLessThan(0);
    expect(serde.encodeInto(value, Buffer.alloc(length + 2), 2)).toBe(length + 2);
  });

  it('refuses half a surrogate pair: two keys would become one', () => {
    for (const value of ['\ud800', 'ab\udc00', `${'x'.repeat(50)}\ud83d`])
      expect(failure(() => encoded(value))).toMatchObject({
        code: 'ENCODE_FAILED',
        written: 'no',
        message: expect.stringContaining('half of a surrogate pair'),
      });
  });

  it('refuses what is no string', () => {
    for (const value of [5, null, undefined, Buffer.from('a')])
      expect(failure(() => encoded(value as unknown as string))).toMatchObject({ code: 'ENCODE_FAILED', written: 'no' });
  });

  it('refuses bytes that aren’t UTF-8', () => {
    for (const bytes of [[0xff], [0xc3], [0xed, 0xa0, 0x80], [0xc0, 0x80], [0xf5, 0x80, 0x80, 0x80]])
      expect(failure(() => serde.decode(Buffer.from(bytes), none))).toMatchObject({
        code: 'DECODE_FAILED',
        message: expect.stringContaining('format: string'),
      });
  });
});

describe('bytes', () => {
  const serde = bytesSerde();

  it('come back as a copy of their own', () => {
    const dst = Buffer.alloc(4);
    expect(serde.encodeInto(new Uint8Array([1, 2, 3]), dst, 1)).toBe(4);
    const back = serde.decode(dst.subarray(1), none);
    dst.fill(9);
    expect(back).toEqual(Buffer.from([1, 2, 3]));
  });

  it('say by a negative number that they don’t fit', () => {
    for (let n = 0; n < 3; n++) expect(serde.encodeInto(Buffer.alloc(3), Buffer.alloc(n + 1), 1)).toBeLessThan(0);
    expect(serde.encodeInto(Buffer.alloc(0), Buffer.alloc(0), 0)).toBe(0);
  });

  it('refuse what is no bytes', () => {
    for (const value of ['text', null, undefined, [1]])
      expect(failure(() => serde.encodeInto(value as unknown as Buffer, Buffer.alloc(9), 0))).toMatchObject({ code: 'ENCODE_FAILED', written: 'no' });
  });
});
