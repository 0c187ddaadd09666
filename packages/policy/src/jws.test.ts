import { generateKeyPairSync } from 'node:crypto';
import type { TurnpikeError } from '@turnpike/core';
import { ManualClock } from '@turnpike/core/memory';
import type { GrantClaims } from '@turnpike/core/spi';
import { CompactSign, importJWK, type JWK, type JWTPayload, UnsecuredJWT } from 'jose';
import { beforeAll, describe, expect, it } from 'vitest';
import { claimsOf, quotaOf, startS } from './claims.fixture.ts';
import { decodeGrant, type GrantKey, generateSigningKey, isExpired, signGrant, type VerifyOptions, verifyGrant } from './jws.ts';

let signing: { kid: string; privateJwk: GrantKey; publicJwk: GrantKey };
let token: string;
beforeAll(async () => {
  signing = await generateSigningKey('ES256');
  token = await signGrant(claimsOf(), { key: signing.privateJwk });
});

const verify = (given: string, more: Partial<VerifyOptions> = {}) =>
  verifyGrant(given, { rootKeys: [signing.publicJwk], audience: 'dev', principal: 'flight-ops-dev', clock: new ManualClock(), ...more });
const failure = async (given: Promise<unknown>): Promise<TurnpikeError> =>
  given.then(
    () => Promise.reject(new Error('nothing was refused')),
    (error) => error,
  );
/** Signed by the right key, with whatever header and payload. */
const forge = async (payload: unknown, header: object = {}, key: GrantKey = signing.privateJwk) =>
  new CompactSign(Buffer.from(typeof payload === 'string' ? payload : JSON.stringify(payload)))
    .setProtectedHeader({ alg: 'ES256', kid: signing.kid, typ: 'turnpike-grant+jwt', ...header })
    .sign(await importJWK(key as JWK, 'ES256'), { crit: { 'x-new': true } });
const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');

describe('a signed grant', () => {
  it('is verified by its public key, and says what was signed', async () => {
    expect(await verify(token)).toEqual(claimsOf());
    expect(decodeGrant(token)).toEqual({ header: { alg: 'ES256', kid: signing.kid, typ: 'turnpike-grant+jwt' }, claims: claimsOf() });
  });

  it('may be signed with Ed25519, or with a key in PEM', async () => {
    const ed = await generateSigningKey('EdDSA');
    expect(await verify(await signGrant(claimsOf(), { key: ed.privateJwk }), { rootKeys: [signing.publicJwk, ed.publicJwk] })).toEqual(claimsOf());
    const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const pem = pair.privateKey.export({ type: 'pkcs8', format: 'pem' }) as string;
    const publicJwk = { ...pair.publicKey.export({ format: 'jwk' }), kid: 'pem-1' };
    expect(await verify(await signGrant(claimsOf(), { key: pem, kid: 'pem-1', alg: 'ES256' }), { rootKeys: [publicJwk] })).toEqual(claimsOf());
  });

  it('isn’t made with a key that can’t sign it, nor from claims that nobody would accept', async () => {
    const given = (key: GrantKey | string, more: object = {}) => failure(signGrant(claimsOf(), { key, ...more }));
    expect(await given(signing.publicJwk)).toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining('public key') });
    expect(await given({ ...signing.privateJwk, kid: undefined })).toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining('kid') });
    expect(await given('not a key', { kid: 'k', alg: 'ES256' })).toMatchObject({ code: 'CONFIG_INVALID' });
    expect(await given({ kty: 'oct', k: 'c2VjcmV0', kid: 'k' })).toMatchObject({ code: 'CONFIG_INVALID' });
    expect(await failure(signGrant({ ...claimsOf(), rev: -1 }, { key: signing.privateJwk }))).toMatchObject({ code: 'GRANT_INVALID' });
  });

  it('past its end holds, or is refused, as it says itself', async () => {
    const clock = new ManualClock((startS + 15 * 86_400) * 1000);
    expect(await verify(token, { clock })).toEqual(claimsOf());
    expect([isExpired(claimsOf(), clock), isExpired(claimsOf(), new ManualClock())]).toEqual([true, false]);
    const refusing = await signGrant(claimsOf({ onExpiry: 'refuse' }), { key: signing.privateJwk });
    expect(await failure(verify(refusing, { clock }))).toMatchObject({ code: 'GRANT_EXPIRED', message: expect.stringContaining('turnpike grant issue') });
  });
});

describe('a grant is refused', () => {
  const refused = async (given: string, message: string, more: Partial<VerifyOptions> = {}, code = 'GRANT_INVALID') =>
    expect(await failure(verify(given, more))).toMatchObject({ code, message: expect.stringContaining(message) });

  it('with alg none', async () => {
    await refused(new UnsecuredJWT({ ...claimsOf() } as unknown as JWTPayload).encode(), 'signature is missing');
    await refused(`${part({ alg: 'none', kid: signing.kid, typ: 'turnpike-grant+jwt' })}.${part(claimsOf())}.AAAA`, 'refused');
  });

  it('with its signature stripped, or that of another grant', async () => {
    const [header, payload] = token.split('.');
    await refused(`${header}.${payload}.`, 'signature is missing');
    await refused(`${header}.${payload}`, 'signature is missing');
    const other = await signGrant(claimsOf({ rev: 8 }), { key: signing.privateJwk });
    await refused(`${header}.${payload}.${other.split('.')[2]}`, 'changed after it was signed');
  });

  it('that was changed after it was signed', async () => {
    const [header, , signature] = token.split('.');
    await refused(`${header}.${part(claimsOf({ groups: ['*'] }))}.${signature}`, 'changed after it was signed');
  });

  it('with a symmetric algorithm, keyed with the public key', async () => {
    const secret = Buffer.from(JSON.stringify(signing.publicJwk));
    const hs = await new CompactSign(Buffer.from(JSON.stringify(claimsOf())))
      .setProtectedHeader({ alg: 'HS256', kid: signing.kid, typ: 'turnpike-grant+jwt' })
      .sign(secret);
    await refused(hs, 'refused');
  });

  it('with a key that nobody pinned, also under the name of one that is', async () => {
    const stranger = await generateSigningKey('ES256');
    await refused(await signGrant(claimsOf(), { key: stranger.privateJwk }), 'does not pin');
    await refused(await signGrant(claimsOf(), { key: stranger.privateJwk, kid: signing.kid }), 'changed after it was signed');
    await refused(token, 'does not pin', { rootKeys: [] });
  });

  it('that brings its own key along', async () => {
    const stranger = await generateSigningKey('ES256');
    await refused(await forge(claimsOf(), { kid: 'mine', jwk: stranger.publicJwk }, stranger.privateJwk), 'does not pin');
  });

  it('with a critical header that this version doesn’t know', async () => {
    await refused(await forge(claimsOf(), { crit: ['x-new'], 'x-new': 1 }), 'x-new');
  });

  it('that is another kind of token, signed by the same key', async () => {
    await refused(await forge(claimsOf(), { typ: 'JWT' }), 'The grant is none: its type is "JWT"');
  });

  it('that is no token at all', async () => {
    for (const given of ['', 'x', 'a.b.c', '{"alg":"ES256"}']) expect((await failure(verify(given))).code).toBe('GRANT_INVALID');
    expect(() => decodeGrant('x')).toThrow('[GRANT_INVALID]');
  });

  it('for another environment', async () => refused(token, 'for the environment dev, this service runs in prod', { audience: 'prod' }));

  it('for another principal, and both are named', async () =>
    refused(token, 'is for flight-ops-dev, but the identity proves checkout', { principal: 'checkout' }, 'PRINCIPAL_MISMATCH'));

  it('before its time, but for a minute of skew', async () => {
    await refused(token, 'not valid before', { clock: new ManualClock((startS - 71) * 1000) });
    expect(await verify(token, { clock: new ManualClock((startS - 69) * 1000) })).toEqual(claimsOf());
  });

  it('of an older revision than was in force', async () => refused(token, 'revision 7 is older than 8', { minRevision: 8 }));

  it('where a root key is a private one, which is worse', async () => refused(token, 'private key', { rootKeys: [signing.privateJwk] }, 'CONFIG_INVALID'));

  it.each<[string, unknown]>([
    ['v', { ...claimsOf(), v: 2 }],
    ['mode', { ...claimsOf(), mode: 'off' }],
    ['sub', { ...claimsOf(), sub: '' }],
    ['aud', { ...claimsOf(), aud: ['dev', 'prod'] }],
    ['rev', { ...claimsOf(), rev: 1.5 }],
    ['exp', { ...claimsOf(), exp: '2026' }],
    ['onExpiry', { ...claimsOf(), onExpiry: undefined }],
    ['topics', { ...claimsOf(), topics: {} }],
    ['topics[0].ops[1]', claimsOf({ topics: [{ cluster: 'c', name: 't', ops: ['read', 'delete' as 'read'], mode: 'warn' }] })],
    ['topics[0].mode', claimsOf({ topics: [{ cluster: 'c', name: 't', ops: [], mode: 'x' as 'warn' }] })],
    ['groups[0]', claimsOf({ groups: [5 as unknown as string] })],
    ['schemas[0].id', claimsOf({ schemas: [{ subject: 's', sha256: 'x', id: -1 }] })],
    ['quotas[0].unit', claimsOf({ quotas: [quotaOf({ unit: 'requests' as 'bytesIn' })] })],
    ['quotas[0].rate', claimsOf({ quotas: [quotaOf({ rate: -1 })] })],
    ['quotas[0].maxInstances', claimsOf({ quotas: [quotaOf({ maxInstances: 0 })] })],
    ['quotas[1].id', claimsOf({ quotas: [quotaOf(), quotaOf()] })],
    ['claims', []],
  ])('with a wrong %s, which the message names', async (path, claims) => {
    expect(await failure(verify(await forge(claims)))).toMatchObject({
      code: 'GRANT_INVALID',
      facts: { path },
      message: expect.stringContaining('turnpike grant issue'),
    });
  });

  it('whose payload is no JSON', async () => refused(await forge('{'), 'refused'));
});

describe('claims that this version doesn’t know', () => {
  it('are ignored, as RFC 7519 asks', async () => {
    const later = { ...claimsOf(), somethingNew: { a: 1 } } as GrantClaims;
    expect(await verify(await signGrant(later, { key: signing.privateJwk }))).toMatchObject({ rev: 7 });
  });
});
