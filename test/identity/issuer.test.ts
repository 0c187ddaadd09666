// Against a real OpenID provider: what a hand-made token endpoint accepts, it may not.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { TurnpikeError } from '@turnpike/core';
import { ManualClock } from '@turnpike/core/memory';
import { type OAuthOptions, oauthIdentity } from '@turnpike/identity';
import { certificateAuthority, type Platform, startPlatform } from '@turnpike/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const TTL_S = 3;
let platform: Platform;
let folder: string;

beforeAll(async () => {
  platform = await startPlatform({ kafka: false, tokenTtlSeconds: TTL_S });
  folder = mkdtempSync(path.join(tmpdir(), 'turnpike-issuer-'));
});
afterAll(async () => {
  await platform?.[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

const write = (name: string, text: string): string => {
  const file = path.join(folder, name);
  writeFileSync(file, text, { mode: 0o600 });
  return file;
};

/** A condition that real I/O brings about; the deadline is for a machine under load. */
const eventually = <T>(f: () => T) => expect.poll(f, { timeout: 5_000 });

const refused = (attempt: Promise<unknown>): Promise<TurnpikeError> =>
  attempt.then(
    () => expect.unreachable('it was not refused'),
    (error: TurnpikeError) => error,
  );

const optionsOf = async (name: string): Promise<OAuthOptions> => (await platform.principal(name)).oauth;

describe('OAuth client credentials', () => {
  it.each(['client_secret_basic', 'private_key_jwt'] as const)('by %s give a token that the issuer signed for this client', async (method) => {
    const { oauth } = await platform.principal(`by.${method}`, { method });
    await using identity = await oauthIdentity(oauth);
    expect(identity).toMatchObject({ kind: 'oauth', principal: `by.${method}` });
    expect(await platform.issuer.verify((await identity.token()).value)).toBe(`by.${method}`);
  });

  it('reach the registry as the same identity', async () => {
    await using identity = await oauthIdentity(await optionsOf('reader'));
    const answer = await identity.http.request({ url: `${platform.registryUrl}/subjects` });
    expect(answer).toMatchObject({ status: 200, body: '[]' });
  });

  it('are refreshed before they end, and outlive an issuer that is down: served to their end, then refused, then back by themselves', async () => {
    await using identity = await oauthIdentity(await optionsOf('long-lived'));
    const first = (await identity.token()).value;
    await expect.poll(async () => (await identity.token()).value, { timeout: 10_000 }).not.toBe(first);
    await platform.issuer.down();
    try {
      const last = await identity.token();
      expect(last.expiresAtMs).toBeGreaterThan(Date.now());
      const error = await expect
        .poll(
          () =>
            identity.token().then(
              () => undefined,
              (e: TurnpikeError) => e,
            ),
          { timeout: 10_000 },
        )
        .toBeDefined()
        .then(() => refused(identity.token()));
      expect(Date.now()).toBeGreaterThanOrEqual(last.expiresAtMs);
      expect(error).toMatchObject({ code: 'TOKEN_UNAVAILABLE', retriable: true, message: expect.stringMatching(/long-lived; the last one expired at/) });
    } finally {
      await platform.issuer.up();
    }
    await expect
      .poll(
        () =>
          identity.token().then(
            (t) => platform.issuer.verify(t.value),
            () => undefined,
          ),
        { timeout: 10_000 },
      )
      .toBe('long-lived');
  });

  it("with a wrong secret are IDENTITY_INVALID, with the issuer's own word", async () => {
    const error = await refused(oauthIdentity({ ...(await optionsOf('wrong')), clientSecretFile: write('wrong', 'not it') }));
    expect(error).toMatchObject({ code: 'IDENTITY_INVALID', facts: { principal: 'wrong' } });
    expect(error.message).toMatch(/refuses the client wrong: invalid_client/);
    expect(error.message).not.toContain('not it');
  });

  it('with a secret that was rotated at the issuer and in its file go on', async () => {
    const clientId = 'rotated';
    const { secret = '' } = await platform.issuer.addClient(clientId);
    const clientSecretFile = write('rotated', secret);
    await using identity = await oauthIdentity({ ...(await optionsOf('other')), clientId, clientSecretFile });
    const first = (await identity.token()).value;
    writeFileSync(clientSecretFile, (await platform.issuer.addClient(clientId)).secret ?? '');
    await expect.poll(async () => (await identity.token()).value, { timeout: 10_000 }).not.toBe(first);
  });
});

describe('the authorities that verify the issuer', () => {
  it('missing: TLS_FAILED, and the variable that is to be set', async () => {
    const { caFile: _, ...withoutCa } = await optionsOf('unverified');
    const error = await refused(oauthIdentity(withoutCa));
    expect(error).toMatchObject({ code: 'TLS_FAILED', message: expect.stringMatching(/\(TURNPIKE_TLS_CA\)/) });
  });

  it('others: TLS_FAILED; no PEM: IDENTITY_INVALID with the file', async () => {
    const options = await optionsOf('misled');
    const { ca } = await certificateAuthority('another');
    expect(await refused(oauthIdentity({ ...options, caFile: write('another.pem', ca) }))).toMatchObject({ code: 'TLS_FAILED' });
    const caFile = write('none.pem', 'no PEM');
    expect(await refused(oauthIdentity({ ...options, caFile }))).toMatchObject({ code: 'IDENTITY_INVALID', facts: { path: caFile } });
  });

  it('are watched: new ones are in force without a restart, broken ones never', async () => {
    const clock = new ManualClock(Date.now());
    const caFile = write('watched.pem', platform.certificates.ca);
    await using identity = await oauthIdentity({ ...(await optionsOf('watching')), caFile, clock, pollMs: 1000 });
    let heard = 0;
    identity.onChange(() => heard++);
    const next = [platform.certificates.ca, (await certificateAuthority('next')).ca].join('\n');
    writeFileSync(caFile, next);
    await clock.advance(1000);
    await eventually(() => identity.tls()).toEqual({ ca: next });
    expect(heard).toBe(1);
    writeFileSync(caFile, 'no PEM');
    await eventually(() => clock.pending).toBe(2); // The refresh's and the watch's.
    await clock.advance(1000);
    await eventually(() => clock.pending).toBe(2);
    expect(identity.tls()).toEqual({ ca: next });
  });
});
