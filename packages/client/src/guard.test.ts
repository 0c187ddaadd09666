import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { TurnpikeError } from '@turnpike/core';
import { type ClusterDescriptor, type GrantClaims, type Identity, silentLogger } from '@turnpike/core/spi';
import { generateSigningKey, signGrant } from '@turnpike/policy';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { flights } from './flights.fixture.ts';
import { type GuardOptions, openGuard } from './guard.ts';

let folder: string;
let grant: string;
let key: Awaited<ReturnType<typeof generateSigningKey>>;
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'turnpike-guard-'));
  key = await generateSigningKey();
  grant = path.join(folder, 'grant.jws');
  const nowS = Math.floor(Date.now() / 1000);
  const claims: GrantClaims = {
    ...{
      v: 1,
      mode: 'shadow',
      iss: 'platform',
      aud: 'dev',
      sub: 'flight-ops-dev',
      rev: 3,
      nbf: nowS - 10,
      exp: nowS + 3600,
      refreshAfterS: 300,
      onExpiry: 'hold',
    },
    topics: [{ cluster: 'airside', name: 'flights.departed', ops: ['write'], mode: 'shadow' }],
    ...{ groups: ['ops.audit'], transactionalIdPrefixes: [], schemas: [], quotas: [] },
  };
  writeFileSync(grant, await signGrant(claims, { key: key.privateJwk }));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** An identity at the port, with material that changes. */
function identityOf(kind: Identity['kind'], principal = 'flight-ops-dev') {
  let n = 0;
  const identity: Identity = {
    ...{ kind, principal },
    tls: () => (kind === 'oauth' ? { ca: 'CA' } : { ca: 'CA', cert: `CERT ${n}`, key: `KEY ${n}` }),
    token: async () => ({ value: `token ${++n}`, expiresAtMs: 1_000 * n }),
    onChange: () => ({ [Symbol.dispose]: () => {} }),
    http: { request: () => Promise.reject(new Error('nobody is there')) },
  };
  return { identity, rotate: () => void n++ };
}

const descriptor = (name: string, port: number): ClusterDescriptor => ({
  ...{ name, epoch: 1 },
  primary: { id: '', bootstrap: { mtls: [`${name}.example:${port}`], oauth: [`${name}.example:${port + 1}`] } },
});
const clusters = [descriptor('airside', 9093), descriptor('landside', 9193)];

const open = (options: GuardOptions = {}) =>
  openGuard(
    { ...flights, rootKeys: [key.publicJwk as Readonly<Record<string, string>>] },
    { environment: 'dev', env: {}, identity: identityOf('mtls').identity, grant, clusters, telemetry: 'off', logger: silentLogger, ...options },
  );
const refused = (promise: Promise<unknown>) =>
  promise.then(
    () => expect.unreachable(),
    (error: TurnpikeError) => error,
  );

/** By its methods a producer of kafkajs, whichever it is. */
function producerLike() {
  const calls: { self: unknown; args: unknown[] }[] = [];
  const record = function (this: unknown, ...args: unknown[]) {
    calls.push({ self: this, args });
    return Promise.resolve([]);
  };
  return { calls, producer: { send: record, sendBatch: record, transaction: record, isIdempotent: () => false } };
}

describe('openGuard()', () => {
  it.each<[string, GuardOptions, string, RegExp]>([
    ['no grant', { grant: '' as string, env: {} }, 'CONFIG_INVALID', /connect\.grant/],
    ['a grant that is not there', { grant: '/nowhere/grant.jws' }, 'GRANT_MISSING', /nowhere/],
    ['an identity of somebody else', { identity: identityOf('mtls', 'payroll').identity }, 'PRINCIPAL_MISMATCH', /payroll/],
    ['a time-out of none', { quotaTimeoutMs: 0 }, 'CONFIG_INVALID', /openGuard\.quotaTimeoutMs is 0/],
    ['a misspelt option', { onQuotas: 'wait' } as GuardOptions, 'CONFIG_INVALID', /onQuotas is not an option/],
  ])('refuses %s', async (_what, options, code, message) => {
    const error = await refused(open(options));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });
});

describe('guard.options()', () => {
  it('has the address of the cluster that is named, for this kind of identity, and must be told which of several', async () => {
    await using guard = await open();
    expect(guard.options(guard.identity, { cluster: 'landside' })).toMatchObject({ clientId: 'flight-ops', brokers: ['landside.example:9193'] });
    expect(guard.options(identityOf('oauth').identity, { cluster: 'airside' })).toMatchObject({
      brokers: ['airside.example:9094'],
      sasl: { mechanism: 'oauthbearer' },
    });
    expect(() => guard.options()).toThrow(/CONFIG_INVALID.*airside, landside; say which/);
    expect(() => guard.options(identityOf('none').identity, { cluster: 'airside' })).toThrow(/CONFIG_INVALID.*proves nothing/);
    await using lost = await open({ clusters: [] });
    expect(() => lost.options(lost.identity, { cluster: 'airside' })).toThrow(/CONFIG_INVALID.*TURNPIKE_CLUSTERS/);
  });

  it('asks the identity each time that a library reads', async () => {
    const { identity, rotate } = identityOf('mtls');
    await using guard = await open({ identity });
    const kafkajs = guard.options(identity, { cluster: 'airside' });
    const confluent = guard.options(identity, { library: 'confluent', cluster: 'airside' });
    const raw = guard.options(identity, { library: 'rdkafka', cluster: 'airside' });
    rotate();
    expect({ ...kafkajs.ssl }).toEqual({ ca: 'CA', cert: 'CERT 1', key: 'KEY 1' });
    expect({ ...confluent }).toEqual({
      kafkaJS: { clientId: 'flight-ops', brokers: ['airside.example:9093'], ssl: true },
      ...{ 'ssl.ca.pem': 'CA', 'ssl.certificate.pem': 'CERT 1', 'ssl.key.pem': 'KEY 1' },
    });
    expect(raw).toMatchObject({ 'security.protocol': 'ssl', 'metadata.broker.list': 'airside.example:9093', 'ssl.key.pem': 'KEY 1' });
    for (const options of [kafkajs, confluent, raw]) expect(JSON.stringify(options)).not.toContain('KEY');
  });

  it('gives each library its token as it wants it', async () => {
    const { identity } = identityOf('oauth');
    await using guard = await open({ identity });
    const { sasl } = guard.options(identity, { cluster: 'airside' });
    expect(await sasl?.oauthBearerProvider()).toEqual({ value: 'token 1' });
    const { kafkaJS } = guard.options(identity, { library: 'confluent', cluster: 'airside' });
    expect(await kafkaJS.sasl?.oauthBearerProvider()).toEqual({ value: 'token 2', principal: 'flight-ops-dev', lifetime: 2_000 });
    const raw = guard.options(identity, { library: 'rdkafka', cluster: 'airside' });
    expect(raw).toMatchObject({ 'security.protocol': 'sasl_ssl', 'sasl.mechanisms': 'OAUTHBEARER', 'ssl.ca.pem': 'CA' });
    expect(await raw.oauthbearer_token_refresh_cb?.()).toEqual({ tokenValue: 'token 3', principal: 'flight-ops-dev', lifetime: 3_000 });
  });
});

describe('guard(instance)', () => {
  it('hands on what it was given, to whom it was given, and asks the grant of the cluster that is named', async () => {
    await using guard = await open();
    const { producer, calls } = producerLike();
    const guarded = guard(producer, { cluster: 'airside' });
    expect(guarded.instance).toBe(producer);
    const record = { topic: 'flights.departed', messages: [{ value: 'v' }], acks: -1 };
    await producer.send(record, 'and more');
    await producer.send(undefined);
    await producer.sendBatch({ topicMessages: [record] });
    expect(calls.map((c) => c.args)).toEqual([[record, 'and more'], [undefined], [{ topicMessages: [record] }]]);
    expect(calls.every((c) => c.self === producer)).toBe(true);
    expect(calls[0]?.args[0]).toBe(record);
    expect(guarded.report()).toMatchObject({ sent: 2, refused: 0, refusals: [] });

    const elsewhere = producerLike();
    const other = guard(elsewhere.producer, { cluster: 'landside' });
    await elsewhere.producer.send(record);
    expect(other.report().refusals).toMatchObject([{ operation: 'produce', name: 'flights.departed', cluster: 'landside' }]);
    expect(guard.report()).toMatchObject({ sent: 3, refused: 1 });
    expect(() => guard(producerLike().producer)).toThrow(/CONFIG_INVALID.*say which/);
  });

  it.each([[null], ['kafka'], [{}], [{ send: 1, sendBatch: 1 }]])('refuses %j', async (instance) => {
    await using guard = await open();
    expect(() => guard(instance as object, { cluster: 'airside' })).toThrow(/CONFIG_INVALID.*takes a Kafka, a producer or a consumer/);
  });
});
