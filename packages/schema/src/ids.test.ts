import { TurnpikeError } from '@turnpike/core';
import { describe, expect, it } from 'vitest';
import { selfContained } from './avro/inline.ts';
import { fingerprint } from './fingerprint.ts';
import { grantIds, localIds, registryIds, type SchemaIds } from './ids.ts';
import { plainHttp, type Reply, scriptedServer } from './registry.fixture.ts';
import { registryClient } from './registry.ts';

const money = '{"type":"record","name":"Money","namespace":"acme","fields":[{"name":"cents","type":"long"}]}';
const order = '{"type":"record","name":"Order","namespace":"acme","fields":[{"name":"total","type":"Money"}]}';
const ref = (text: string, subject = 'orders-value') => ({ subject, sha256: fingerprint(text) });
const unknown: Reply = { status: 404, body: { error_code: 40403, message: 'Schema not found' } };

/** Ids from a registry that answers by path. */
async function registryOf(replies: Readonly<Record<string, Reply | undefined>>) {
  const server = await scriptedServer(({ method, path }) => replies[`${method} ${path}`] ?? unknown);
  const ids = registryIds(registryClient({ url: server.url, http: plainHttp, attempts: 1 }));
  const asked = () => server.asked.map((a) => `${a.method} ${a.path}`);
  return { ids, server, asked, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
}

describe('ids from a registry', () => {
  it('are looked up once by text, for all who ask at the same time and for ever', async () => {
    await using r = await registryOf({ 'POST /subjects/orders-value': { body: { id: 7 } } });
    expect(await Promise.all([r.ids.idOf(ref(money), money), r.ids.idOf(ref(money), money)])).toEqual([7, 7]);
    expect(await r.ids.idOf(ref(money), money)).toBe(7);
    expect(r.asked()).toEqual(['POST /subjects/orders-value']);
  });

  it('are asked for again after a failure', async () => {
    await using r = await registryOf({});
    r.server.reply = (_asked, n) => (n === 0 ? { status: 503, body: '' } : { body: { id: 7 } });
    await expect(r.ids.idOf(ref(money), money)).rejects.toMatchObject({ code: 'SCHEMA_UNAVAILABLE', retriable: true });
    expect(await r.ids.idOf(ref(money), money)).toBe(7);
  });

  it('never register: what isn’t there is SCHEMA_UNKNOWN', async () => {
    await using r = await registryOf({});
    await expect(r.ids.idOf(ref(money), money)).rejects.toMatchObject({ code: 'SCHEMA_UNKNOWN' });
    expect(r.asked().filter((a) => a.endsWith('/versions'))).toEqual([]);
  });

  it('give a writer’s schema with what it refers to put in', async () => {
    await using r = await registryOf({
      'GET /schemas/ids/9': { body: { schema: order, references: [{ name: 'acme.Money', subject: 'money', version: 1 }] } },
      'GET /subjects/money/versions/1': { body: { subject: 'money', version: 1, id: 2, schema: money } },
    });
    expect(await r.ids.textOf(9)).toMatchObject({ text: selfContained(order, [money]), references: [{ subject: 'money' }] });
    await r.ids.textOf(9);
    expect(r.asked()).toEqual(['GET /schemas/ids/9', 'GET /subjects/money/versions/1']);
  });

  it('fetch what references refer to, each once, and end where they refer to each other', async () => {
    const to = (...subjects: string[]) => subjects.map((subject) => ({ name: subject, subject, version: 1 }));
    const record = (name: string, ...types: string[]) => JSON.stringify({ type: 'record', name, fields: types.map((type, i) => ({ name: `f${i}`, type })) });
    await using r = await registryOf({
      'GET /schemas/ids/1': { body: { schema: record('Top', 'Left', 'Right'), references: to('left', 'right') } },
      'GET /subjects/left/versions/1': { body: { version: 1, id: 2, schema: record('Left', 'Base'), references: to('base') } },
      'GET /subjects/right/versions/1': { body: { version: 1, id: 3, schema: record('Right', 'Base'), references: to('base') } },
      'GET /subjects/base/versions/1': { body: { version: 1, id: 4, schema: record('Base'), references: to('left') } },
    });
    const { text } = await r.ids.textOf(1);
    expect(JSON.parse(text)).toMatchObject({
      name: 'Top',
      fields: [{ type: { name: 'Left', fields: [{ type: { name: 'Base' } }] } }, { type: { name: 'Right', fields: [{ type: 'Base' }] } }],
    });
    expect(r.asked().filter((a) => a.includes('base'))).toHaveLength(1);
  });

  it('say that a writer’s schema is of another format', async () => {
    await using r = await registryOf({ 'GET /schemas/ids/9': { body: { schema: 'syntax = "proto3";', schemaType: 'PROTOBUF' } } });
    await expect(r.ids.textOf(9)).rejects.toMatchObject({ code: 'SCHEMA_INCOMPATIBLE', message: expect.stringContaining('id 9 is of the format protobuf') });
  });

  // A service holds its schema self-contained, but CI registers it as it stands in its file, with references: looked up by the one text, the other was never found.
  describe('of a schema that was registered with references', () => {
    const references = [{ name: 'acme.Money', subject: 'money', version: 1 }];
    const respaced = order.replaceAll(',', ', ');
    const replies = {
      'GET /subjects/money/versions/1': { body: { version: 1, id: 2, schema: money } },
      'GET /subjects/orders-value/versions/latest': { body: { version: 3, id: 30, schema: order.replace('total', 'sum'), references } },
      'GET /subjects/orders-value/versions/1': { body: { version: 1, id: 10, schema: respaced, references } },
    };
    const own = selfContained(order, [money]);

    it('are found by what its versions are when put together, also where one was deleted', async () => {
      await using r = await registryOf(replies);
      expect(await r.ids.idOf(ref(own), own)).toBe(10);
      expect(r.asked()).toEqual([
        'POST /subjects/orders-value',
        'GET /subjects/orders-value/versions/latest',
        'GET /subjects/money/versions/1',
        'GET /subjects/orders-value/versions/2',
        'GET /subjects/orders-value/versions/1',
      ]);
    });

    it('are SCHEMA_UNKNOWN where no version is the same', async () => {
      await using r = await registryOf({ ...replies, 'GET /subjects/orders-value/versions/1': undefined });
      await expect(r.ids.idOf(ref(own), own)).rejects.toMatchObject({ code: 'SCHEMA_UNKNOWN', facts: { subject: 'orders-value' } });
    });

    it('are not given up while the registry is down', async () => {
      await using r = await registryOf({ ...replies, 'GET /subjects/orders-value/versions/2': { status: 503, body: '' } });
      await expect(r.ids.idOf(ref(own), own)).rejects.toMatchObject({ code: 'SCHEMA_UNAVAILABLE', retriable: true });
    });
  });
});

describe('ids from a grant', () => {
  const schemas = [{ ...ref(money), id: 4 }];
  const fallback = (): SchemaIds & { asked: string[] } => {
    const asked: string[] = [];
    return {
      asked,
      idOf: async ({ subject }) => asked.push(`idOf ${subject}`) + 100,
      textOf: async (id) => ({ text: `${asked.push(`textOf ${id}`)}`, references: [] }),
    };
  };

  it('come first, so that a service starts with the registry down', async () => {
    const registry = fallback();
    expect(await grantIds(schemas, registry).idOf(ref(money), money)).toBe(4);
    expect(await grantIds(schemas).idOf(ref(money), money)).toBe(4);
    expect(registry.asked).toEqual([]);
  });

  it('hold for exactly that subject and fingerprint; anything else is asked of the registry', async () => {
    const registry = fallback();
    const ids = grantIds(schemas, registry);
    expect(await ids.idOf(ref(money, 'another-value'), money)).toBe(101);
    expect(await ids.idOf(ref(order), order)).toBe(102);
    expect((await ids.textOf(4)).text).toBe('3');
    expect(registry.asked).toEqual(['idOf another-value', 'idOf orders-value', 'textOf 4']);
  });

  it('without a registry are all there is, and the refusal says what to set', async () => {
    const ids = grantIds(schemas);
    for (const asked of [ids.idOf(ref(order), order), ids.textOf(9)]) {
      const error = await asked.then(
        () => undefined,
        (e: TurnpikeError) => e,
      );
      expect(error).toBeInstanceOf(TurnpikeError);
      expect(error).toMatchObject({ code: 'SCHEMA_UNKNOWN', message: expect.stringContaining('TURNPIKE_REGISTRY') });
    }
  });
});

describe('ids without a registry', () => {
  it('are the same in every process, positive, and give back the text', async () => {
    const [one, other] = [localIds(), localIds()];
    const id = await one.idOf(ref(money), money);
    expect(await other.idOf(ref(money), money)).toBe(id);
    expect(await one.idOf(ref(order), order)).not.toBe(id);
    expect(id).toBeGreaterThanOrEqual(0);
    expect(id).toBeLessThanOrEqual(0x7fffffff);
    expect(await one.textOf(id)).toEqual({ text: money, references: [] });
  });

  it('of another process are SCHEMA_UNKNOWN', async () => {
    await expect(localIds().textOf(5)).rejects.toMatchObject({ code: 'SCHEMA_UNKNOWN', message: expect.stringContaining('TURNPIKE_REGISTRY') });
  });
});

describe('a fingerprint', () => {
  it('without references is what sha256sum says of the file, to the last space', () => {
    expect(fingerprint('"int"')).toBe('3f2b87a9fe7cc9b13835598c3981cd45e3e355309e5090aa0933d7becb6fba45');
    expect(fingerprint('"int" ')).not.toBe(fingerprint('"int"'));
  });

  it('changes with each reference, its subject and its place', () => {
    const [a, b] = [ref(money, 'a'), ref(money, 'b')];
    const all = [[], [a], [b], [a, b], [b, a], [{ ...a, sha256: fingerprint(order) }]].map((references) => fingerprint(order, references));
    expect(new Set(all).size).toBe(all.length);
  });
});
