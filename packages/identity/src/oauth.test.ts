import { generateKeyPairSync } from 'node:crypto';
import { chmodSync, writeFileSync } from 'node:fs';
import { inspect } from 'node:util';
import type { TurnpikeError } from '@turnpike/core';
import { ManualClock } from '@turnpike/core/memory';
import type { Identity } from '@turnpike/core/spi';
import { createLocalJWKSet, exportJWK, importSPKI, jwtVerify } from 'jose';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeIssuer, folder, jwt, recordingLogger } from './issuer.fixture.ts';
import { type OAuthOptions, oauthIdentity } from './oauth.ts';

const SECRET = 'tiger:100% sure+öäü/=';
let issuer: FakeIssuer;
let files: ReturnType<typeof folder>;
let clock: ManualClock;
let logger: ReturnType<typeof recordingLogger>;
const opened: AsyncDisposable[] = [];

beforeEach(async () => {
  issuer = await FakeIssuer.start();
  files = folder();
  clock = new ManualClock();
  logger = recordingLogger();
});
afterEach(async () => {
  for (const one of opened.splice(0)) await one[Symbol.asyncDispose]();
  await issuer[Symbol.asyncDispose]();
  files[Symbol.dispose]();
});

/** An identity whose jitter is the middle of its range, unless the test says otherwise. */
async function identify(more: Partial<OAuthOptions> = {}): Promise<Identity & AsyncDisposable> {
  const secret = more.privateKeyFile === undefined ? { clientSecretFile: files.write('secret', `${SECRET}\n`) } : {};
  const identity = await oauthIdentity({ tokenUrl: issuer.tokenUrl, clientId: 'flight-ops', clock, logger, random: () => 0.5, ...secret, ...more });
  opened.push(identity);
  return identity;
}

/** A condition that real I/O brings about; the deadline is for a machine under load. */
const eventually = <T>(f: () => T) => expect.poll(f, { timeout: 5_000 });

const refused = (attempt: Promise<unknown>): Promise<TurnpikeError> =>
  attempt.then(
    () => expect.unreachable('it was not refused'),
    (error: TurnpikeError) => error,
  );

/** The background asks once more: moves the clock on, and waits for the request that this starts. */
async function refreshAfter(ms: number): Promise<void> {
  const before = issuer.asked.length;
  await clock.advance(ms);
  await eventually(() => issuer.asked.length).toBe(before + 1);
}

describe('how a client proves itself', () => {
  it('sends id and secret form-encoded, so that colons, spaces and umlauts survive (RFC 6749, 2.3.1)', async () => {
    await identify({ clientId: 'a:b c', scope: 'kafka registry', audience: 'urn:kafka' });
    const [asked] = issuer.asked;
    const [id = '', secret = ''] = Buffer.from(asked?.authorization?.replace('Basic ', '') ?? '', 'base64')
      .toString()
      .split(':');
    const decoded = (text: string) => new URLSearchParams(`x=${text}`).get('x');
    expect([decoded(id), decoded(secret)]).toEqual(['a:b c', SECRET]);
    expect(Object.fromEntries(asked?.form ?? [])).toEqual({ grant_type: 'client_credentials', scope: 'kafka registry', audience: 'urn:kafka' });
  });

  it.each([
    ['EC, P-256', 'ES256', () => generateKeyPairSync('ec', { namedCurve: 'P-256' })],
    ['EC, P-384', 'ES384', () => generateKeyPairSync('ec', { namedCurve: 'P-384' })],
    ['RSA', 'RS256', () => generateKeyPairSync('rsa', { modulusLength: 2048 })],
    ['Ed25519', 'EdDSA', () => generateKeyPairSync('ed25519')],
  ] as const)('signs an assertion with a key of the kind %s as %s', async (_kind, alg, generate) => {
    const { privateKey, publicKey } = generate();
    await identify({ privateKeyFile: files.write('key.pem', privateKey.export({ format: 'pem', type: 'pkcs8' }) as string) });
    const form = issuer.asked[0]?.form;
    expect(form?.get('client_assertion_type')).toBe('urn:ietf:params:oauth:client-assertion-type:jwt-bearer');
    expect(issuer.asked[0]?.authorization).toBeUndefined();
    const { payload, protectedHeader } = await jwtVerify(form?.get('client_assertion') ?? '', publicKey, {
      audience: issuer.tokenUrl,
      currentDate: new Date(clock.now()),
    });
    expect(protectedHeader.alg).toBe(alg);
    expect(payload).toMatchObject({ iss: 'flight-ops', sub: 'flight-ops', jti: expect.any(String) });
    expect((payload.exp ?? 0) - (payload.iat ?? 0)).toBe(60);
  });

  it('takes a JWK with its kid, and a PEM older than PKCS#8', async () => {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const jwk = { ...(await exportJWK(privateKey)), kid: 'k1' };
    await identify({ privateKeyFile: files.write('key.json', JSON.stringify(jwk)) });
    const keys = createLocalJWKSet({ keys: [{ ...(await exportJWK(publicKey)), kid: 'k1', alg: 'ES256' }] });
    await jwtVerify(issuer.asked[0]?.form.get('client_assertion') ?? '', keys, { currentDate: new Date(clock.now()) });
    await identify({ privateKeyFile: files.write('sec1.pem', privateKey.export({ format: 'pem', type: 'sec1' }) as string) });
    const spki = await importSPKI(publicKey.export({ format: 'pem', type: 'spki' }) as string, 'ES256');
    await jwtVerify(issuer.asked[1]?.form.get('client_assertion') ?? '', spki, { currentDate: new Date(clock.now()) });
  });

  it('names the file of a key that is none, and never quotes it', async () => {
    const file = files.write('key.pem', '-----BEGIN PRIVATE KEY-----\nc2VjcmV0LXRleHQ=\n-----END PRIVATE KEY-----');
    const error = await refused(identify({ privateKeyFile: file }));
    expect(error).toMatchObject({ code: 'IDENTITY_INVALID', facts: { path: file } });
    expect(error.message).toMatch(/TURNPIKE_CLIENT_KEY_FILE: .*key\.pem is no EC, RSA or Ed25519 private key/);
    expect(inspect(error, { depth: 9 })).not.toContain('c2VjcmV0');
  });

  it('refuses a secret file that is missing or empty, and both secret and key', async () => {
    const clientSecretFile = `${files.path}/nowhere`;
    expect((await refused(identify({ clientSecretFile }))).message).toMatch(
      /TURNPIKE_CLIENT_SECRET_FILE: .*nowhere can't be read: there is no such file; it takes a path\. Mount it/,
    );
    expect((await refused(identify({ clientSecretFile: files.write('empty', '\n') }))).message).toMatch(/empty is empty\. Mount the client's secret/);
    expect((await refused(identify({ clientSecretFile: 'a', privateKeyFile: 'b' }))).message).toMatch(/exactly one of clientSecretFile/);
    expect(issuer.asked).toHaveLength(0);
  });

  it('warns of a secret that everybody may read, by path and with the remedy', async () => {
    const clientSecretFile = files.write('open', SECRET);
    chmodSync(clientSecretFile, 0o644);
    await identify({ clientSecretFile });
    expect(logger.lines).toMatchObject([{ level: 'warn', event: 'identity.file_mode', facts: { path: clientSecretFile, mode: '0644', remedy: /chmod 600/ } }]);
  });

  it.each([
    ['http://issuer.example/token', /TURNPIKE_TOKEN_URL is http:\/\/issuer\.example\/token; it must be an https URL/],
    ['http://127.0.0.1.example/token', /must be an https URL/],
    ['https://me:hunter2@issuer.example/token', /is https:\/\/issuer\.example\/token; it must be an https URL without a user/],
    ['issuer.example/token', /TURNPIKE_TOKEN_URL is no URL/],
  ])('never sends a secret to %s', async (tokenUrl, message) => {
    const error = await refused(identify({ tokenUrl }));
    expect(error).toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringMatching(message) });
    expect(error.message).not.toContain('hunter2');
  });
});

describe('who it is', () => {
  it("is the token's subject, else the client's id", async () => {
    expect((await identify()).principal).toBe('flight-ops');
    issuer.answer = (response) => issuer.grant(response, { access_token: jwt({ sub: 'spiffe://acme/flight-ops' }) });
    expect((await identify()).principal).toBe('spiffe://acme/flight-ops');
  });

  it('stays the same: a token of somebody else is refused and the last good one serves', async () => {
    const sub = (name: string) => () => jwt({ sub: name, n: issuer.asked.length });
    let token = sub('flight-ops');
    issuer.answer = (response) => issuer.grant(response, { access_token: token() });
    const identity = await identify();
    const before = await identity.token();
    token = sub('somebody-else');
    await refreshAfter(85_000);
    await eventually(() => logger.lines).toMatchObject([{ event: 'identity.refresh_failed', facts: { code: 'PRINCIPAL_MISMATCH' } }]);
    expect(await identity.token()).toBe(before);
    expect(identity.principal).toBe('flight-ops');
    await clock.advance(15_001);
    const error = await refused(identity.token());
    expect(error).toMatchObject({ code: 'TOKEN_UNAVAILABLE', cause: { code: 'PRINCIPAL_MISMATCH' } });
  });
});

describe('refresh', () => {
  it.each([
    [0, 70_000],
    [1, 85_000],
  ])('comes in the last third of the life but not at its end: with a jitter of %d after %d of 100000 ms', async (jitter, at) => {
    const identity = await identify({ random: () => jitter });
    const changes: number[] = [];
    identity.onChange(() => changes.push(clock.monotonic()));
    await clock.advance(at - 1);
    expect(issuer.asked).toHaveLength(1);
    await refreshAfter(1);
    await eventually(() => changes).toEqual([at]);
    expect((await identity.token()).value).toBe('token-2');
  });

  it('is one request, however many ask', async () => {
    const identity = await identify();
    let release = () => {};
    issuer.answer = (response) => {
      release = () => issuer.grant(response);
    };
    await clock.advance(200_000); // The background has asked too, and waits.
    const asking = Array.from({ length: 50 }, () => identity.token());
    await eventually(() => issuer.asked.length).toBe(2);
    release();
    expect(new Set((await Promise.all(asking)).map((t) => t.value))).toEqual(new Set(['token-2']));
    expect(issuer.asked).toHaveLength(2);
  });

  it('reads a secret anew each time: one that was rotated in its file applies', async () => {
    const clientSecretFile = files.write('rotating', 'old');
    await identify({ clientSecretFile });
    writeFileSync(clientSecretFile, 'new\r\n');
    await refreshAfter(85_000);
    expect(issuer.asked.map((a) => Buffer.from(a.authorization?.slice(6) ?? '', 'base64').toString())).toEqual(['flight-ops:old', 'flight-ops:new']);
  });

  it.each<[string, Readonly<Record<string, unknown>>, number]>([
    ['no expires_in, but a JWT with exp', { expires_in: undefined, access_token: jwt({ sub: 'flight-ops', exp: Date.UTC(2026, 0, 1) / 1000 + 600 }) }, 600_000],
    ['no expires_in and an opaque token', { expires_in: undefined }, 60_000],
    ['expires_in as text', { expires_in: '300' }, 300_000],
  ])('counts the life of a token with %s', async (_what, body, lifeMs) => {
    issuer.answer = (response) => issuer.grant(response, body);
    const identity = await identify();
    expect((await identity.token()).expiresAtMs).toBe(clock.now() + lifeMs);
  });

  it('ends with the identity, also when that could not be opened', async () => {
    await (await identify())[Symbol.asyncDispose]();
    expect(clock.pending).toBe(0);
    // A process that goes on without this identity would otherwise have hammered the issuer with a wrong secret for ever.
    issuer.refuse(401, '{"error":"invalid_client"}');
    await refused(identify());
    expect(clock.pending).toBe(0);
  });

  it('a listener that throws keeps neither the others nor the refresh', async () => {
    const identity = await identify();
    let heard = 0;
    identity.onChange(() => {
      throw new Error('mine');
    });
    const second = identity.onChange(() => heard++);
    await refreshAfter(85_000);
    await eventually(() => heard).toBe(1);
    expect(logger.events()).toEqual(['identity.listener_failed']);
    second[Symbol.dispose]();
    await refreshAfter(85_000);
    await eventually(async () => (await identity.token()).value).toBe('token-3');
    expect(heard).toBe(1);
  });
});

describe('an issuer that fails', () => {
  it('the last good token serves until it really expires, then TOKEN_UNAVAILABLE says why; then it recovers by itself', async () => {
    const identity = await identify();
    issuer.refuse(503, 'down');
    await clock.advance(99_999); // Refreshes have been tried, in vain.
    await eventually(() => issuer.asked.length).toBeGreaterThan(1);
    await eventually(() => logger.events()).toContain('identity.refresh_failed');
    expect((await identity.token()).value).toBe('token-1');
    await clock.advance(1);
    const error = await refused(identity.token());
    expect(error).toMatchObject({ code: 'TOKEN_UNAVAILABLE', retriable: true, facts: { principal: 'flight-ops' } });
    expect(error.message).toMatch(
      /No token for flight-ops; the last one expired at 2026-01-01T00:01:40\.000Z: .*\/token gives no token to flight-ops: status 503/,
    );
    issuer.recover();
    await clock.advance(60_000);
    await eventually(async () => (await identity.token()).value).toMatch(/^token-/);
    expect(logger.events()).toContain('identity.recovered');
  });

  it('is asked again with a back-off that ends at half a minute, never less often', async () => {
    await identify();
    issuer.refuse(500, '');
    await refreshAfter(77_500);
    for (const gap of [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]) {
      // The next try is set when the failure has been seen, which is real I/O.
      await eventually(() => logger.lines.length).toBe(issuer.asked.length - 1);
      const before = issuer.asked.length;
      await clock.advance(gap - 1);
      expect(issuer.asked).toHaveLength(before);
      await refreshAfter(1);
    }
  });

  it('is not hammered by those who ask for a token: within half a second they get the last refusal', async () => {
    const identity = await identify();
    issuer.refuse(429, '{"error":"slow_down"}');
    clock.jumpWall(200_000);
    const first = await refused(identity.token());
    for (let i = 0; i < 20; i++) expect((await refused(identity.token())).message).toBe(first.message);
    expect(issuer.asked).toHaveLength(2);
    expect(first.message).toContain('slow_down');
  });

  it('serves the last good token in its last second too', async () => {
    const identity = await identify();
    issuer.refuse(500, '');
    clock.jumpWall(99_500);
    expect((await identity.token()).value).toBe('token-1');
    expect(issuer.asked).toHaveLength(2);
  });

  it.each<[string, number, string, Readonly<Record<string, string>>, string, RegExp]>([
    [
      'refuses the client',
      401,
      '{"error":"invalid_client","error_description":"no such client"}',
      {},
      'IDENTITY_INVALID',
      /refuses the client flight-ops: invalid_client: no such client\. Check TURNPIKE_CLIENT_ID/,
    ],
    ['refuses without a word', 403, '', {}, 'IDENTITY_INVALID', /status 403\. Check TURNPIKE_TOKEN_URL, TURNPIKE_CLIENT_ID/],
    ['refuses the scope', 400, '{"error":"invalid_scope"}', {}, 'IDENTITY_INVALID', /invalid_scope\. Check .*TURNPIKE_SCOPE/],
    ['has too much to do', 429, '', {}, 'TOKEN_UNAVAILABLE', /gives no token to flight-ops: status 429/],
    ['breaks', 500, '<h1>oops</h1>', { 'content-type': 'text/html' }, 'TOKEN_UNAVAILABLE', /status 500/],
    [
      'is a page',
      200,
      '<html>',
      { 'content-type': 'text/html' },
      'TOKEN_UNAVAILABLE',
      /answers 200 \(text\/html\) without an access_token.*Check TURNPIKE_TOKEN_URL/,
    ],
    ['answers null', 200, 'null', {}, 'TOKEN_UNAVAILABLE', /without an access_token/],
    ['answers a number for a token', 200, '{"access_token":7}', {}, 'TOKEN_UNAVAILABLE', /without an access_token/],
    ['is elsewhere', 404, '', {}, 'TOKEN_UNAVAILABLE', /answers 404 .*Check TURNPIKE_TOKEN_URL/],
    ['redirects', 307, '', { location: 'http://elsewhere.example/' }, 'CONFIG_INVALID', /redirect \(307\), and a secret is not sent on/],
    ['gives what has expired', 200, `{"access_token":"${jwt({ exp: 1 })}"}`, {}, 'TOKEN_UNAVAILABLE', /expired already. Check this machine's clock/],
    ['gives a token that no header can carry', 200, '{"access_token":"a\\nb"}', {}, 'TOKEN_UNAVAILABLE', /no token that can be sent/],
  ])('that %s fails the start with its reason', async (_what, status, body, headers, code, message) => {
    issuer.refuse(status, body, headers);
    const error = await refused(identify());
    expect(error).toMatchObject({ code, message: expect.stringMatching(message), retriable: code === 'TOKEN_UNAVAILABLE' });
    expect(issuer.asked).toHaveLength(1);
  });

  it('that does not answer in time, or not at all, is TOKEN_UNAVAILABLE', async () => {
    issuer.answer = () => {};
    expect((await refused(identify({ timeoutMs: 50 }))).message).toMatch(/The issuer gives no token to flight-ops: .*\/token did not answer within 50 ms/);
    const { tokenUrl } = issuer;
    await issuer[Symbol.asyncDispose]();
    expect(await refused(identify({ tokenUrl }))).toMatchObject({
      code: 'TOKEN_UNAVAILABLE',
      retriable: true,
      message: expect.stringMatching(/can't be reached: .*ECONNREFUSED/),
    });
  });

  it('never sees a broken answer shown: neither it nor the secret stands in the error', async () => {
    issuer.refuse(200, `{"token":"leaked-token"}`);
    const error = await refused(identify());
    expect(inspect(error, { depth: 9, showHidden: true })).not.toMatch(/leaked-token|tiger/);
  });
});

describe('what must not be seen', () => {
  it('neither token nor secret shows in inspect, JSON or the log', async () => {
    const identity = await identify();
    const token = await identity.token();
    await refreshAfter(85_000);
    const shown = [identity, token, { nested: [token] }].flatMap((it) => [
      inspect(it, { depth: 9, showHidden: true }),
      inspect(it, { getters: true }),
      JSON.stringify(it),
    ]);
    expect(JSON.stringify([shown, logger.lines])).not.toMatch(/token-\d|tiger/);
    expect(inspect(identity)).toBe(`OAuthIdentity { principal: "flight-ops", tokenUrl: "${issuer.tokenUrl}" }`);
    expect(token.value).toBe('token-1');
  });
});
