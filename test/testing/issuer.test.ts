import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { mtlsIdentity, oauthIdentity } from '@turnpike/identity';
import { certificateAuthority, type Platform, startPlatform } from '@turnpike/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

let platform: Platform;

beforeAll(async () => {
  platform = await startPlatform({ kafka: false, tokenTtlSeconds: 2 });
});
afterAll(async () => {
  await platform?.[Symbol.asyncDispose]();
});

/** GET as the admin, whose certificate and authority serve here too. */
async function document(url: string): Promise<Record<string, unknown>> {
  await using identity = await mtlsIdentity(platform.admin.mtls);
  const { status, body } = await identity.http.request({ url });
  expect(status).toBe(200);
  return JSON.parse(body) as Record<string, unknown>;
}

const part = (token: string, n: number) => JSON.parse(Buffer.from(token.split('.')[n] ?? '', 'base64url').toString()) as Record<string, unknown>;

async function tokenOf(name: string, method?: 'client_secret_basic' | 'private_key_jwt'): Promise<string> {
  const { oauth } = await platform.principal(name, method ? { method } : {});
  await using identity = await oauthIdentity(oauth);
  return (await identity.token()).value;
}

describe('the local issuer', () => {
  it('has a discovery document that leads to its token endpoint and its keys', async () => {
    const { issuer } = platform;
    const discovery = await document(`${issuer.url}/.well-known/openid-configuration`);
    expect(discovery).toMatchObject({ issuer: issuer.url, token_endpoint: issuer.tokenUrl, jwks_uri: issuer.jwksUrl });
    expect(discovery.token_endpoint_auth_methods_supported).toEqual(expect.arrayContaining(['client_secret_basic', 'private_key_jwt']));
    const { keys } = (await document(issuer.jwksUrl)) as { keys: Record<string, unknown>[] };
    expect(keys).toHaveLength(1);
    expect(keys[0]).toMatchObject({ kty: 'RSA', alg: 'RS256', use: 'sig', kid: expect.any(String) });
    expect(Object.keys(keys[0] ?? {})).not.toContain('d');
  });

  it.each(['client_secret_basic', 'private_key_jwt'] as const)('gives a signed token for the brokers, short as asked, by %s', async (method) => {
    const before = platform.issuer.tokensIssued;
    const token = await tokenOf(`by-${method}`, method);
    expect(platform.issuer.tokensIssued).toBe(before + 1);
    const { keys } = (await document(platform.issuer.jwksUrl)) as { keys: { kid: string }[] };
    expect(part(token, 0)).toMatchObject({ alg: 'RS256', kid: keys[0]?.kid });
    const claims = part(token, 1) as { exp: number; iat: number };
    expect(claims).toMatchObject({ iss: platform.issuer.url, aud: platform.issuer.audience, sub: `by-${method}`, scope: platform.issuer.scope });
    expect(claims.exp - claims.iat).toBe(2);
    expect(await platform.issuer.verify(token)).toBe(`by-${method}`);
  });

  it('takes no token that has expired, or was changed, or is another’s', async () => {
    const token = await tokenOf('brief');
    const [head, , signature] = token.split('.');
    const changed = Buffer.from(JSON.stringify({ ...part(token, 1), sub: 'platform-admin' })).toString('base64url');
    await expect(platform.issuer.verify(`${head}.${changed}.${signature}`)).rejects.toThrow();
    await using other = await startPlatform({ kafka: false });
    await using stranger = await oauthIdentity(other.admin.oauth);
    await expect(platform.issuer.verify((await stranger.token()).value)).rejects.toThrow();
    const verdict = () => platform.issuer.verify(token).catch((e: { code: string }) => e.code);
    await expect.poll(verdict, { timeout: 5_000 }).toBe('ERR_JWT_EXPIRED');
  });

  it('refuses a wrong secret, an unknown client and another’s key', async () => {
    const { oauth } = await platform.principal('guarded');
    const keyed = await platform.principal('guarded-key', { method: 'private_key_jwt' });
    const another = await platform.principal('another-key', { method: 'private_key_jwt' });
    const wrongSecret = path.join(platform.directory, 'wrong-secret');
    writeFileSync(wrongSecret, 'not-the-secret\n', { mode: 0o600 });
    const before = platform.issuer.tokensRefused;
    for (const options of [
      { ...oauth, clientSecretFile: wrongSecret },
      { ...oauth, clientId: 'unknown' },
      { ...keyed.oauth, privateKeyFile: another.oauth.privateKeyFile ?? '' },
    ])
      await expect(oauthIdentity(options)).rejects.toMatchObject({ code: 'IDENTITY_INVALID' });
    expect(platform.issuer.tokensRefused).toBe(before + 3);
  });

  it('takes the new secret of a client that is added again, and the old one no longer', async () => {
    const { oauth } = await platform.principal('renewed');
    const { secret = '' } = await platform.issuer.addClient('renewed');
    await expect(oauthIdentity(oauth)).rejects.toMatchObject({ code: 'IDENTITY_INVALID' });
    writeFileSync(oauth.clientSecretFile ?? '', secret);
    await using identity = await oauthIdentity(oauth);
    expect(identity.principal).toBe('renewed');
  });

  it('is known by its authority only', async () => {
    const other = await certificateAuthority();
    const { caFile } = await platform.certificateFiles('stranger', { commonName: 'stranger' }, other);
    await expect(oauthIdentity({ ...platform.admin.oauth, caFile })).rejects.toMatchObject({ code: 'TLS_FAILED' });
  });

  it('goes down and comes up again at the same address', async () => {
    await platform.issuer.down();
    await expect(oauthIdentity(platform.admin.oauth)).rejects.toMatchObject({ code: 'TOKEN_UNAVAILABLE', retriable: true });
    await platform.issuer.down();
    await platform.issuer.up();
    await platform.issuer.up();
    await using identity = await oauthIdentity(platform.admin.oauth);
    expect(identity.principal).toBe('platform-admin');
  });
});

describe('a platform without Kafka', () => {
  it('has everything but brokers', async () => {
    expect(platform.cluster).toBeUndefined();
    expect(platform.nodes).toEqual([]);
    expect(await platform.environment('without', 'mtls')).toMatchObject({ TURNPIKE_REGISTRY: platform.registryUrl });
  });

  it('may use a registry elsewhere', async () => {
    await using with_ = await startPlatform({ kafka: false, registryUrl: 'https://registry.example.com' });
    expect(with_.registry).toBeUndefined();
    expect(await with_.environment('x', 'oauth')).toMatchObject({ TURNPIKE_REGISTRY: 'https://registry.example.com' });
  });
});
