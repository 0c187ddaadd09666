import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { inspect } from 'node:util';
import type { TurnpikeError } from '@turnpike/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { mtlsIdentity } from './mtls.ts';
import { oauthIdentity } from './oauth.ts';

const here = import.meta.filename;
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'turnpike-identity-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const SECRET = 'c2VjcmV0LXRleHQ';
const pem = `-----BEGIN PRIVATE KEY-----\n${SECRET}\n-----END PRIVATE KEY-----`;
const oauth = { tokenUrl: 'https://issuer.example/token', clientId: 'flight-ops' };

const refusedBy: Readonly<Record<string, (value: string) => Promise<unknown>>> = {
  // Each file is read; the first that is wrong is told, so the others are ones that exist.
  TURNPIKE_TLS_KEY: (keyFile) => mtlsIdentity({ caFile: here, certFile: here, keyFile }),
  TURNPIKE_TLS_CERT: (certFile) => mtlsIdentity({ caFile: here, certFile, keyFile: here }),
  TURNPIKE_TLS_CA: (caFile) => mtlsIdentity({ caFile, certFile: here, keyFile: here }),
  TURNPIKE_CLIENT_SECRET_FILE: (clientSecretFile) => oauthIdentity({ ...oauth, clientSecretFile }),
  TURNPIKE_CLIENT_KEY_FILE: (privateKeyFile) => oauthIdentity({ ...oauth, privateKeyFile }),
};

const refusal = async (variable: string, value: string): Promise<TurnpikeError> =>
  (refusedBy[variable]?.(value) ?? Promise.resolve()).then(
    () => expect.unreachable('it was not refused'),
    (error: TurnpikeError) => error,
  );

describe.each(Object.keys(refusedBy))('%s', (variable) => {
  it.each([
    ['the key itself', pem, 'a private key'],
    ['a certificate itself', `-----BEGIN CERTIFICATE-----\n${SECRET}`, 'PEM text'],
    ['a token', `eyJhbGciOiJFUzI1NiJ9.${SECRET}.${SECRET}`, 'a signed token'],
    ['a JWK', `{"kty":"EC","d":"${SECRET}"}`, 'JSON'],
    ['a URL', `https://user:${SECRET}@vault/key?sig=${SECRET}`, 'the URL https://vault/key'],
    ['a long secret', SECRET.repeat(100), 'text of 1500 characters'],
  ])('that holds %s is refused without quoting it', async (_what, value, kind) => {
    const error = await refusal(variable, value);
    expect(error).toMatchObject({
      code: 'IDENTITY_INVALID',
      message: `[IDENTITY_INVALID] ${variable} is ${kind}, not the path of a file that holds it. Mount it as a file, and set ${variable} to its path.`,
    });
    expect(inspect(error, { depth: 9 })).not.toContain(SECRET);
  });

  it.each([SECRET, `${SECRET}/more+`, `8Q8~${SECRET}.x`])('that names no file and may be a secret (%s) is not quoted', async (value) => {
    const error = await refusal(variable, value);
    expect(error.message).toContain(`${variable} takes the path of a file, and names none that is there`);
    expect(inspect(error, { depth: 9 })).not.toContain(SECRET);
  });

  it('that names a file which is not there is told by its path', async () => {
    const nowhere = path.join(folder, 'nowhere');
    expect(await refusal(variable, nowhere)).toMatchObject({
      message: `[IDENTITY_INVALID] ${variable}: ${nowhere} can't be read: there is no such file; it takes a path. Mount it, or correct the path.`,
      facts: { path: nowhere },
    });
  });
});
