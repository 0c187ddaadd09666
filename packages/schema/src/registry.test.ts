import { TurnpikeError } from '@turnpike/core';
import { ManualClock } from '@turnpike/core/memory';
import type { HttpPort, HttpRequest } from '@turnpike/core/spi';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { plainHttp, type Reply, type ScriptedServer, scriptedServer } from './registry.fixture.ts';
import { type RegistryClient, type RegistryInit, registryClient } from './registry.ts';

const unknown = { status: 404, body: { error_code: 40403, message: 'Schema not found' } };
let server: ScriptedServer;

beforeEach(async () => {
  server = await scriptedServer();
});
afterEach(async () => {
  await server[Symbol.asyncDispose]();
});

const client = (init: Partial<RegistryInit> = {}): RegistryClient => registryClient({ url: server.url, http: plainHttp, ...init });
const always = (reply: Reply) => {
  server.reply = () => reply;
};
const failure = (promise: Promise<unknown>): Promise<TurnpikeError> =>
  promise.then(
    () => Promise.reject(new Error('it did not fail')),
    (error: TurnpikeError) => error,
  );

/** Moves the clock on whenever something waits for it; the length of each wait. */
async function waits(clock: ManualClock, work: Promise<unknown>): Promise<number[]> {
  const lengths: number[] = [];
  let over = false;
  void work
    .catch(() => {})
    .finally(() => {
      over = true;
    });
  while (!over) {
    await expect.poll(() => clock.pending > 0 || over, { interval: 1 }).toBe(true);
    const from = clock.monotonic();
    while (clock.pending > 0) await clock.advance(1);
    if (!over && clock.monotonic() > from) lengths.push(clock.monotonic() - from);
  }
  return lengths;
}

describe('a registry client: its requests', () => {
  it('look an id up by text under the subject, in the path that the address has', async () => {
    always({ body: { subject: 'a', version: 1, id: 7, schema: '"int"' } });
    expect(await client({ url: `${server.url}/apis/ccompat/v7//` }).lookupId('orders/placed value', '"int"')).toBe(7);
    expect(server.asked).toMatchObject([
      {
        method: 'POST',
        path: '/apis/ccompat/v7/subjects/orders%2Fplaced%20value',
        body: { schema: '"int"' },
        headers: { 'content-type': 'application/vnd.schemaregistry.v1+json' },
      },
    ]);
    expect(server.asked[0]?.body).toEqual({ schema: '"int"' });
  });

  it('name the format and the references where they are not the default', async () => {
    always({ body: { id: 1 } });
    const references = [{ name: 'b.proto', subject: 'b', version: 2 }];
    await client().register('a', 'syntax = "proto3";', { format: 'protobuf', references });
    expect(server.asked).toMatchObject([
      { method: 'POST', path: '/subjects/a/versions', body: { schema: 'syntax = "proto3";', schemaType: 'PROTOBUF', references } },
    ]);
  });

  it('give schemas with their format and references', async () => {
    always({ body: { schema: '{}', schemaType: 'JSON', references: [{ name: 'n', subject: 's', version: 3, more: 'ignored' }] } });
    expect(await client().schemaById(5)).toEqual({ id: 5, text: '{}', format: 'json', references: [{ name: 'n', subject: 's', version: 3 }] });
    always({ body: { subject: 's', id: 9, version: 4, schema: '"int"' } });
    expect(await client().latest('s')).toEqual({ subject: 's', id: 9, version: 4, text: '"int"', format: 'avro', references: [] });
    expect(server.asked.map((a) => a.path)).toEqual(['/schemas/ids/5', '/subjects/s/versions/latest']);
  });

  it('set and read a compatibility level, and list the subjects', async () => {
    server.reply = ({ path, method }) =>
      path === '/subjects' ? { body: ['a', 'b'] } : { body: method === 'PUT' ? { compatibility: 'FULL' } : { compatibilityLevel: 'FULL' } };
    await client().setCompatibility('a', 'FULL');
    expect(await client().compatibility('a')).toBe('FULL');
    expect(await client().subjects()).toEqual(['a', 'b']);
    expect(server.asked).toMatchObject([{ method: 'PUT', path: '/config/a', body: { compatibility: 'FULL' } }, { path: '/config/a' }, { path: '/subjects' }]);
  });
});

describe('a registry client: trying again', () => {
  it.each<[string, Reply]>([
    ['429', { status: 429, body: 'slow down' }],
    ['500', { status: 500, body: { error_code: 50001, message: 'store' } }],
    ['503 with a page', { status: 503, body: '<html>' }],
    ['no answer', 'hang up'],
  ])('asks again after %s, three pauses that grow', async (_name, reply) => {
    const clock = new ManualClock();
    server.reply = (_asked, n) => (n < 3 ? reply : { body: { id: 3 } });
    const asked = client({ clock, random: () => 1 }).lookupId('a', '"int"');
    expect(await waits(clock, asked)).toEqual([100, 200, 400]);
    expect(await asked).toBe(3);
  });

  it('spreads each pause over its upper half, so that a fleet doesn’t come back at one moment', async () => {
    const clock = new ManualClock();
    always({ status: 503, body: '' });
    expect(await waits(clock, client({ clock, random: () => 0 }).lookupId('a', '"int"'))).toEqual([50, 100, 200]);
  });

  it('gives up after its attempts with a retriable SCHEMA_UNAVAILABLE that names the address and keeps the cause', async () => {
    const clock = new ManualClock();
    always({ status: 503, body: { message: 'leader election' } });
    const asked = client({ clock, attempts: 2 }).schemaById(1);
    expect(await waits(clock, asked)).toHaveLength(1);
    const error = await failure(asked);
    expect(error).toMatchObject({ code: 'SCHEMA_UNAVAILABLE', retriable: true, cause: { message: 'HTTP 503: leader election' } });
    expect(error.message).toContain(`${server.url} gave no usable answer to GET /schemas/ids/1 in 2 attempts (HTTP 503: leader election)`);
    expect(server.asked).toHaveLength(2);
  });

  it('says the same when nobody listens', async () => {
    const { url } = server;
    await server[Symbol.asyncDispose]();
    expect(await failure(client({ url, attempts: 1 }).subjects())).toMatchObject({ code: 'SCHEMA_UNAVAILABLE', retriable: true });
  });

  it('doesn’t ask again for what asking doesn’t mend: an error of the identity that isn’t retriable', async () => {
    let requests = 0;
    const refuse = (error: TurnpikeError): HttpPort => ({
      request: (_: HttpRequest) => {
        requests++;
        return Promise.reject(error);
      },
    });
    const wrongCa = new TurnpikeError('TLS_FAILED', 'self-signed certificate');
    expect(await failure(client({ http: refuse(wrongCa) }).subjects())).toBe(wrongCa);
    expect(requests).toBe(1);
    const clock = new ManualClock();
    const noToken = new TurnpikeError('TOKEN_UNAVAILABLE', 'the issuer does not answer', { retriable: true });
    const asked = client({ http: refuse(noToken), clock }).subjects();
    await waits(clock, asked);
    expect(await failure(asked)).toMatchObject({ code: 'SCHEMA_UNAVAILABLE', retriable: true, cause: noToken });
    expect(requests).toBe(5);
  });
});

describe('a registry client: what it is refused', () => {
  const methods: readonly (readonly [string, (c: RegistryClient) => Promise<unknown>])[] = [
    ['lookupId', (c) => c.lookupId('a', '"int"')],
    ['schemaById', (c) => c.schemaById(1)],
    ['register', (c) => c.register('a', '"int"')],
    ['setCompatibility', (c) => c.setCompatibility('a', 'FULL')],
    ['compatibility', (c) => c.compatibility('a')],
    ['subjects', (c) => c.subjects()],
    ['latest', (c) => c.latest('a')],
    ['version', (c) => c.version('a', 1)],
  ];

  it.each(methods)('%s: 401 and 403 are who and what, never tried again', async (name, call) => {
    always({ status: 401, body: { error_code: 40101, message: 'no' } });
    const who = await failure(call(client()));
    expect(who).toMatchObject({ code: 'AUTHENTICATION_FAILED', retriable: false });
    expect(who.message).toContain('Check the identity of this process');
    always({ status: 403, body: { error_code: 40301, message: 'no' } });
    const what = await failure(call(client()));
    expect(what).toMatchObject({ code: 'AUTHORIZATION_FAILED', retriable: false });
    const writes = name === 'register' || name === 'setCompatibility';
    expect(what.message).toContain(writes ? 'only CI may register: run turnpike apply there' : 'This identity may not read there');
    expect(server.asked).toHaveLength(2);
  });

  it.each(methods)('%s: a wrong address is told as one, retriable and never as a schema that isn’t there', async (_name, call) => {
    for (const reply of [
      { status: 404, body: '<html>not here</html>' },
      { status: 404, body: { error_code: 404, message: 'HTTP 404 Not Found' } },
      { status: 404, body: 'null' },
      { status: 400, body: '' },
    ]) {
      always(reply);
      const error = await failure(call(client()));
      expect(error).toMatchObject({ code: 'SCHEMA_UNAVAILABLE', retriable: true });
      expect(error.message).toContain('Check that the address is a Confluent-compatible API');
      expect(error.message).toContain(server.url);
    }
  });

  it.each(methods.filter(([name]) => name !== 'setCompatibility'))(
    '%s: a body that is no registry’s is a retriable SCHEMA_UNAVAILABLE',
    async (_name, call) => {
      for (const body of ['<html>please log in</html>', '', 'null', '5', '{"id":"7"}', '{"id":-1,"version":0}', '{"id":4294967296}', '{"schema":5}']) {
        always({ body });
        expect(await failure(call(client())), body).toMatchObject({ code: 'SCHEMA_UNAVAILABLE', retriable: true });
      }
    },
  );

  it('a reference of an unknown form is a retriable SCHEMA_UNAVAILABLE', async () => {
    for (const reference of [null, 5, { name: 'n' }, { name: 'n', subject: 's' }, { name: 'n', subject: 's', version: 'latest' }]) {
      always({ body: { schema: '"int"', references: [reference] } });
      expect(await failure(client().schemaById(1))).toMatchObject({ code: 'SCHEMA_UNAVAILABLE', retriable: true });
    }
  });

  it('a redirect isn’t followed', async () => {
    always({ status: 302, body: '', headers: { location: `${server.url}/elsewhere` } });
    expect(await failure(client().subjects())).toMatchObject({ code: 'SCHEMA_UNAVAILABLE' });
    expect(server.asked).toHaveLength(1);
  });

  it('404 of a schema: SCHEMA_UNKNOWN, with who must register it', async () => {
    always(unknown);
    const own = await failure(client().lookupId('orders-value', '"int"'));
    expect(own).toMatchObject({ code: 'SCHEMA_UNKNOWN', retriable: false, facts: { subject: 'orders-value' } });
    expect(own.message).toContain('A service never registers: have CI run turnpike apply');
    const writers = await failure(client().schemaById(12));
    expect(writers).toMatchObject({ code: 'SCHEMA_UNKNOWN', retriable: false });
    expect(writers.message).toContain('no schema with id 12');
    expect(await failure(client().version('a', 2))).toMatchObject({ code: 'SCHEMA_UNKNOWN', facts: { subject: 'a' } });
  });

  it('404 of a subject or its level: undefined', async () => {
    always({ status: 404, body: { error_code: 40401, message: "Subject 'a' not found." } });
    expect(await client().latest('a')).toBeUndefined();
    expect(await client().compatibility('a')).toBeUndefined();
  });

  it('409 on registering: SCHEMA_INCOMPATIBLE, with the registry’s reason', async () => {
    always({ status: 409, body: { error_code: 409, message: 'READER_FIELD_MISSING_DEFAULT_VALUE: qty' } });
    const error = await failure(client().register('orders-value', '"int"'));
    expect(error).toMatchObject({ code: 'SCHEMA_INCOMPATIBLE', retriable: false, facts: { subject: 'orders-value' } });
    expect(error.message).toContain('READER_FIELD_MISSING_DEFAULT_VALUE: qty. Change the schema, or the level in turnpike.yaml');
  });

  it('422: SCHEMA_INVALID, with the registry’s reason, cut where it is long', async () => {
    always({ status: 422, body: { error_code: 42201, message: `bad ${'x'.repeat(5_000)}` } });
    for (const asked of [client().register('a', '"int'), client().lookupId('a', '"int')]) {
      const error = await failure(asked);
      expect(error).toMatchObject({ code: 'SCHEMA_INVALID', facts: { subject: 'a' } });
      expect(error.message.length).toBeLessThan(700);
    }
  });
});

describe('a registry client: what it keeps', () => {
  it('an id and a version for ever, one request for all who ask at once', async () => {
    always({ body: { subject: 's', id: 1, version: 1, schema: '"int"' } });
    const registry = client();
    await Promise.all([registry.schemaById(1), registry.schemaById(1), registry.version('s', 1), registry.version('s', 1)]);
    await registry.schemaById(1);
    await registry.version('s', 1);
    expect(server.asked.map((a) => a.path).sort()).toEqual(['/schemas/ids/1', '/subjects/s/versions/1']);
  });

  it('no failure: what was unknown is asked for again', async () => {
    const registry = client();
    server.reply = (_asked, n) => (n === 0 ? unknown : { body: { schema: '"int"' } });
    expect(await failure(registry.schemaById(1))).toMatchObject({ code: 'SCHEMA_UNKNOWN' });
    expect(await registry.schemaById(1)).toMatchObject({ text: '"int"' });
  });

  it('neither the latest version nor a level', async () => {
    server.reply = ({ path }, n) => ({
      body: path.startsWith('/config') ? { compatibilityLevel: n < 3 ? 'NONE' : 'FULL' } : { id: n, version: n, schema: '"int"' },
    });
    const registry = client();
    expect((await registry.latest('s'))?.id).toBe(0);
    expect((await registry.latest('s'))?.id).toBe(1);
    expect(await registry.compatibility('s')).toBe('NONE');
    expect(await registry.compatibility('s')).toBe('FULL');
  });
});

describe('a registry client: its options', () => {
  it.each(['', 'registry:8081', 'ftp://registry', 'http://', 'https:///path', 'http://a b', 'http://host?x=1', 'http://host/#x'])(
    'refuse the address %j, naming the variable',
    (url) => {
      expect(() => client({ url })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringContaining('TURNPIKE_REGISTRY') }));
    },
  );

  it.each(['https://ci:hunter2@registry', 'ftp://ci:hunter2@registry', 'https://:hunter2@registry:x', 'https://registry?key=hunter2'])(
    'refuse %j without printing what is secret in it',
    (url) => {
      expect(() => client({ url })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.not.stringContaining('hunter2') }));
    },
  );

  it.each([0, 11, 1.5, Number.NaN])('refuse %d attempts', (attempts) => {
    expect(() => client({ attempts })).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringContaining('registryClient.attempts') }),
    );
  });
});
