import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { inspect } from 'node:util';
import type { TurnpikeError } from '@turnpike/core';
import { MemoryCluster, memoryTransport } from '@turnpike/core/memory';
import { type GrantClaims, silentLogger } from '@turnpike/core/spi';
import { developmentKey, generateSigningKey, signGrant } from '@turnpike/policy';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connect } from './connect.ts';
import { flights } from './flights.fixture.ts';
import type { ConnectOptions } from './settings.ts';

let folder: string;
let key: Awaited<ReturnType<typeof generateSigningKey>>;
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'turnpike-grant-'));
  key = await generateSigningKey();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const nowS = () => Math.floor(Date.now() / 1000);
const claims = (more: Partial<GrantClaims> = {}): GrantClaims => ({
  v: 1,
  mode: 'enforce',
  iss: 'platform',
  aud: 'dev',
  sub: 'flight-ops-dev',
  rev: 3,
  nbf: nowS() - 10,
  exp: nowS() + 3600,
  refreshAfterS: 300,
  onExpiry: 'hold',
  topics: [{ cluster: 'airside', name: 'flights.departed', ops: ['write'], mode: 'enforce' }],
  groups: [],
  transactionalIdPrefixes: [],
  schemas: [],
  quotas: [],
  ...more,
});

async function grantFile(more: Partial<GrantClaims> = {}, signing: { readonly privateJwk: Parameters<typeof signGrant>[1]['key'] } = key): Promise<string> {
  const file = path.join(folder, `${crypto.randomUUID()}.jws`);
  writeFileSync(file, await signGrant(claims(more), { key: signing.privateJwk }));
  return file;
}

const open = (options: ConnectOptions) =>
  connect(
    { ...flights, rootKeys: [key.publicJwk as Readonly<Record<string, string>>] },
    {
      environment: 'dev',
      transport: memoryTransport({ cluster: new MemoryCluster({ topics: { 'flights.departed': 1, 'flights.landed': 1 } }) }),
      env: {},
      logger: silentLogger,
      telemetry: 'off',
      shutdownSignals: [],
      ...options,
    },
  );

const refused = async (options: ConnectOptions): Promise<TurnpikeError> =>
  open(options).then(
    async (kafka) => {
      await kafka.close();
      return expect.unreachable('it was not refused');
    },
    (error: TurnpikeError) => error,
  );

const departed = { id: 'f-1', origin: 'JFK', delayMinutes: 1 };

describe('the grant', () => {
  it('from TURNPIKE_GRANT is what is enforced: the topic, the operation, the group', async () => {
    await using kafka = await open({ env: { TURNPIKE_GRANT: await grantFile() } });
    await kafka.producer('flights.departed').send(departed);
    await expect(kafka.producer('flights.landed').send(departed)).rejects.toMatchObject({
      code: 'GRANT_DENIED',
      written: 'no',
      facts: { topic: 'flights.landed', grantRevision: 3 },
    });
    await expect(kafka.consumer(['flights.departed'], { group: 'ops.audit' }).run(() => {})).rejects.toMatchObject({ code: 'GRANT_DENIED' });
  });

  it('that is refused for a topic does not keep connect() from the others', async () => {
    const cluster = new MemoryCluster({ topics: { 'flights.departed': 1 } }); // flights.landed isn't even there.
    await using kafka = await open({ grant: await grantFile(), transport: memoryTransport({ cluster }) });
    await kafka.producer('flights.departed').send(departed);
  });

  it.each<[string, () => Promise<string>, string, RegExp]>([
    ['is not there', async () => '/nowhere/grant.jws', 'GRANT_MISSING', /\/nowhere\/grant\.jws can't be read.*set TURNPIKE_GRANT to its path/],
    [
      'is a URL',
      async () => 'https://platform/grant',
      'CONFIG_INVALID',
      /TURNPIKE_GRANT is the URL https:\/\/platform\/grant, not the path of one: a grant is read from a file; have the platform mount it/,
    ],
    [
      'is signed by another key',
      async () => grantFile({}, await generateSigningKey()),
      'GRANT_INVALID',
      /which the generated contract does not pin\. Run turnpike generate/,
    ],
    [
      'is signed by the development key',
      () => grantFile({}, developmentKey),
      'GRANT_INVALID',
      /"turnpike-development", which the generated contract does not pin/,
    ],
    ['is for another environment', () => grantFile({ aud: 'prod' }), 'GRANT_INVALID', /for the environment prod, this service runs in dev/],
    ['is for another principal', () => grantFile({ sub: 'delay-monitor' }), 'PRINCIPAL_MISMATCH', /for delay-monitor, but the identity proves flight-ops-dev/],
    ['has expired and says refuse', () => grantFile({ exp: nowS() - 3600, onExpiry: 'refuse' }), 'GRANT_EXPIRED', /expired at .*turnpike grant issue/],
  ])('that %s ends connect() with what to do', async (_what, file, code, message) => {
    expect(await refused({ grant: await file() })).toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it.each<[string, () => Promise<string>, string]>([
    ['the grant itself', async () => readFileSync(await grantFile(), 'utf8'), 'a grant'],
    ['a URL with a password', async () => 'https://user:pass-word@platform/grant?sig=pass-word', 'the URL https://platform/grant'],
    ['text of several lines', async () => 'pass-word\npass-word', 'text of several lines'],
  ])('that is %s instead of a path is refused without quoting it', async (_what, value, kind) => {
    const grant = await value();
    const error = await refused({ env: { TURNPIKE_GRANT: grant } });
    expect(error).toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining(`TURNPIKE_GRANT is ${kind}, not the path of one: `) });
    const told = inspect(error, { depth: 9 });
    for (const secret of [grant, 'pass-word', ...grant.split('.')]) expect(told).not.toContain(secret);
  });

  it('may be signed by the development key in the environment local, which reaches this machine only', async () => {
    const grant = await grantFile({ aud: 'local', sub: 'flight-ops' }, developmentKey);
    await using kafka = await open({ environment: 'local', grant });
    expect(kafka).toMatchObject({ environment: 'local', principal: 'flight-ops' });
  });

  it('is needed on every transport that reaches somebody', async () => {
    const { name: _, ...rest } = memoryTransport();
    const identity = { kind: 'mtls', principal: 'flight-ops-dev' } as unknown as NonNullable<ConnectOptions['identity']>;
    expect(await refused({ transport: { ...rest, name: 'wire' }, identity })).toMatchObject({
      code: 'GRANT_MISSING',
      message: expect.stringMatching(/No grant for flight-ops-dev: set TURNPIKE_GRANT to its file\. The platform issues it with turnpike grant issue/),
    });
  });
});
