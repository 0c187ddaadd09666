import { generateKeyPairSync } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { TLSSocket } from 'node:tls';
import { inspect } from 'node:util';
import type { TurnpikeError } from '@turnpike/core';
import { ManualClock } from '@turnpike/core/memory';
import type { Identity, Logger } from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { type Certificate, type CertificateAuthority, certificateAuthority } from '@turnpike/testing';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';

const POLL_MS = 5_000;
const DAY_MS = 86_400_000;
let authority: CertificateAuthority;
let valid: Certificate;
let folder: string;
let clock: ManualClock;
let lines: { readonly level: string; readonly event: string; readonly facts: Readonly<Record<string, unknown>> }[];
let logger: Logger;
const opened: AsyncDisposable[] = [];

beforeAll(async () => {
  authority = await certificateAuthority();
  valid = await authority.issue({ commonName: 'flight-ops' });
});
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'turnpike-mtls-'));
  clock = new ManualClock(Date.now());
  lines = [];
  const at =
    (level: string) =>
    (event: string, facts: Readonly<Record<string, unknown>> = {}) =>
      void lines.push({ level, event, facts });
  logger = { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
});
afterEach(async () => {
  for (const one of opened.splice(0)) await one[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

const files = () => ({ caFile: path.join(folder, 'ca.crt'), certFile: path.join(folder, 'tls.crt'), keyFile: path.join(folder, 'tls.key') });

let generation = 0;
/** Mounts a secret as Kubernetes does: files are links into `..data`, which is a link to the generation's folder and is swapped in one step. */
function mount({ ca, cert, key }: Certificate): void {
  const data = `..generation-${++generation}`;
  mkdirSync(path.join(folder, data));
  for (const [name, text] of Object.entries({ 'ca.crt': ca, 'tls.crt': cert, 'tls.key': key })) {
    writeFileSync(path.join(folder, data, name), text, { mode: 0o600 });
    rmSync(path.join(folder, name), { force: true });
    symlinkSync(path.join('..data', name), path.join(folder, name));
  }
  symlinkSync(data, path.join(folder, '..data_tmp'));
  renameSync(path.join(folder, '..data_tmp'), path.join(folder, '..data'));
}

async function identify(certificate: Certificate = valid): Promise<Identity & AsyncDisposable> {
  mount(certificate);
  const identity = await mtlsIdentity({ ...files(), clock, logger });
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

/** The watch looks once more; what it reads is real I/O, so the next timer tells that it is done. */
async function look(): Promise<void> {
  await clock.advance(POLL_MS);
  await eventually(() => clock.pending).toBe(1);
}

const events = () => lines.map((l) => l.event);

describe('an identity by certificate', () => {
  it.each(['flight-ops', 'spiffe://acme/airside/flight-ops'])('is called by its CN: %s', async (commonName) => {
    const identity = await identify(await authority.issue({ commonName }));
    expect(identity).toMatchObject({ kind: 'mtls', principal: commonName });
    expect(lines).toEqual([]);
  });

  it('has no token, and says where that is to be used', async () => {
    const error = await refused((await identify()).token());
    expect(error).toMatchObject({ code: 'IDENTITY_INVALID', facts: { principal: 'flight-ops' } });
    expect(error.message).toMatch(/use the cluster's mTLS listener, or set TURNPIKE_TOKEN_URL/);
  });

  it.each([
    ['caFile', 'TURNPIKE_TLS_CA'],
    ['certFile', 'TURNPIKE_TLS_CERT'],
    ['keyFile', 'TURNPIKE_TLS_KEY'],
  ] as const)('names %s and %s when the file is not there, or holds something else', async (option, variable) => {
    mount(valid);
    const missing = await refused(mtlsIdentity({ ...files(), [option]: '/nowhere/at.pem' }));
    expect(missing).toMatchObject({ code: 'IDENTITY_INVALID', facts: { path: '/nowhere/at.pem' } });
    expect(missing.message).toBe(
      `[IDENTITY_INVALID] ${variable}: /nowhere/at.pem can't be read: there is no such file; it takes a path. Mount it, or correct the path.`,
    );
    const other = path.join(folder, 'other.pem');
    writeFileSync(other, 'no PEM', { mode: 0o600 });
    const wrong = await refused(mtlsIdentity({ ...files(), [option]: other }));
    expect(wrong).toMatchObject({ code: 'IDENTITY_INVALID', facts: { path: other } });
    expect(wrong.message).toMatch(new RegExp(`${variable}: .*other\\.pem (holds no certificate|is no private key) in PEM form`));
  });

  it.each<[string, () => Promise<Certificate>, RegExp]>([
    [
      'the key of another certificate',
      async () => ({ ...valid, key: (await authority.issue({ commonName: 'flight-ops' })).key }),
      /the key .*tls\.key does not belong to the certificate .*tls\.crt/,
    ],
    [
      'a key with a passphrase',
      async () => {
        const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
        return { ...valid, key: privateKey.export({ format: 'pem', type: 'pkcs8', cipher: 'aes-256-cbc', passphrase: 'x' }) as string };
      },
      /tls\.key is encrypted\. Mount it without a passphrase/,
    ],
    [
      'a certificate that has expired',
      () => authority.issue({ commonName: 'flight-ops', notBefore: new Date(Date.now() - 2 * DAY_MS), notAfter: new Date(Date.now() - DAY_MS) }),
      /tls\.crt expired at 20.*Z\. Have it renewed/,
    ],
    [
      'a certificate that is not valid yet',
      () => authority.issue({ commonName: 'flight-ops', notBefore: new Date(Date.now() + DAY_MS) }),
      /tls\.crt is not valid before 20.*Z, which lies ahead of this machine's clock/,
    ],
  ])('is refused with %s', async (_what, certificate, message) => {
    const { key, ...rest } = await certificate();
    const error = await refused(identify({ key, ...rest }));
    expect(error).toMatchObject({ code: 'IDENTITY_INVALID', message: expect.stringMatching(message) });
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain(key.split('\n')[1]);
    expect(clock.pending).toBe(0);
  });

  it('warns of a key that everybody may read, with the remedy', async () => {
    mount(valid);
    chmodSync(files().keyFile, 0o644);
    opened.push(await mtlsIdentity({ ...files(), clock, logger }));
    expect(lines).toMatchObject([{ level: 'warn', event: 'identity.file_mode', facts: { path: files().keyFile, mode: '0644' } }]);
    expect(lines[0]?.facts.remedy).toMatch(/chmod 600 .*on Kubernetes, defaultMode: 0400/);
  });

  it('shows no key in inspect, JSON or the log', async () => {
    const identity = await identify();
    mount(await authority.issue({ commonName: 'flight-ops' }));
    await look();
    const shown = [inspect(identity, { depth: 9, showHidden: true }), JSON.stringify(identity), lines];
    expect(JSON.stringify(shown)).not.toContain('PRIVATE KEY');
    expect(events()).toEqual(['identity.rotated']);
  });
});

describe('rotation', () => {
  it('takes over what Kubernetes swaps in, tells its listeners once, and ends with the identity', async () => {
    const identity = await identify();
    let heard = 0;
    identity.onChange(() => heard++);
    await look();
    expect(heard).toBe(0);
    const next = await authority.issue({ commonName: 'flight-ops' });
    mount(next);
    await look();
    expect(identity.tls()).toEqual(next);
    expect(heard).toBe(1);
    await look();
    expect(heard).toBe(1);
    expect(lines).toMatchObject([{ level: 'info', event: 'identity.rotated', facts: { principal: 'flight-ops' } }]);
    await identity[Symbol.asyncDispose]();
    expect(clock.pending).toBe(0);
  });

  it('sees what was swapped between the reading of the files and the first look', async () => {
    const identity = await identify();
    const next = await authority.issue({ commonName: 'flight-ops' });
    mount(next);
    await look();
    expect(identity.tls()).toEqual(next);
  });

  it('takes over other authorities alone', async () => {
    const identity = await identify();
    const ca = [(await certificateAuthority('next')).ca, valid.ca].join('\n');
    mount({ ...valid, ca });
    await look();
    expect(identity.tls()?.ca).toBe(ca);
  });

  it('never gives up what is valid for what is not; says so once; takes the next valid one', async () => {
    const identity = await identify();
    const next = await authority.issue({ commonName: 'flight-ops' });
    const expired = await authority.issue({ commonName: 'flight-ops', notBefore: new Date(Date.now() - 2 * DAY_MS), notAfter: new Date(Date.now() - DAY_MS) });
    for (const [invalid, message] of [
      [{ ...next, key: valid.key }, /does not belong/],
      [expired, /expired/],
      [{ ...next, cert: next.cert.slice(0, 40) }, /no certificate in PEM form/],
    ] as const) {
      mount(invalid);
      lines.length = 0;
      await look();
      await look();
      expect(lines).toMatchObject([
        { level: 'warn', event: 'identity.rotation_refused', facts: { code: 'IDENTITY_INVALID', message: expect.stringMatching(message) } },
      ]);
      expect(identity.tls()).toEqual(valid);
    }
    rmSync(path.join(folder, '..data'));
    await look();
    expect(identity.tls()).toEqual(valid);
    mount(next);
    await look();
    expect(identity.tls()).toEqual(next);
  });

  it('takes a certificate that was mounted too early when its time comes, though no file changes then', async () => {
    const identity = await identify();
    const next = await authority.issue({ commonName: 'flight-ops', notBefore: new Date(clock.now() + 4 * POLL_MS) });
    mount(next);
    await look();
    expect(identity.tls()).toEqual(valid);
    for (let i = 0; i < 4; i++) await look();
    expect(identity.tls()).toEqual(next);
    expect(events()).toEqual(['identity.rotation_refused', 'identity.rotated']);
  });

  it("refuses somebody else's certificate: a process keeps its principal", async () => {
    const identity = await identify();
    mount(await authority.issue({ commonName: 'delay-monitor' }));
    await look();
    expect(identity.principal).toBe('flight-ops');
    expect(identity.tls()).toEqual(valid);
    expect(lines).toMatchObject([
      { event: 'identity.rotation_refused', facts: { code: 'PRINCIPAL_MISMATCH', message: expect.stringMatching(/delay-monitor's, not flight-ops's/) } },
    ]);
  });
});

describe('HTTP by certificate', () => {
  let server: Server;
  let url: string;
  beforeAll(async () => {
    const { key, cert } = await authority.issue({ commonName: 'localhost', usage: 'server' });
    server = createServer({ key, cert, ca: authority.ca, requestCert: true }, (request, response) => {
      response.end((request.socket as TLSSocket).getPeerCertificate().serialNumber);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    url = `https://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  });
  afterAll(() => {
    server.close();
    server.closeAllConnections();
  });

  it('proves itself by the certificate that is in force, also after a rotation', async () => {
    const identity = await identify();
    const before = (await identity.http.request({ url })).body;
    mount(await authority.issue({ commonName: 'flight-ops' }));
    await look();
    const after = (await identity.http.request({ url })).body;
    expect([before, after]).toEqual([expect.stringMatching(/^[0-9A-F]+$/), expect.stringMatching(/^[0-9A-F]+$/)]);
    expect(after).not.toBe(before);
  });

  it('fails with TLS_FAILED when another authority has issued the server, and says which variable to look at', async () => {
    const identity = await identify({ ...valid, ca: (await certificateAuthority('another')).ca });
    const error = await refused(identity.http.request({ url }));
    expect(error).toMatchObject({ code: 'TLS_FAILED', retriable: false });
    expect(error.message).toMatch(/Check the CA file \(TURNPIKE_TLS_CA\), the host name and/);
  });

  it.each<[string, 'client' | 'server']>([
    ['a server whose certificate is for another name', 'server'],
    ['a server whose certificate is for clients', 'client'],
  ])('fails with TLS_FAILED at %s', async (_what, usage) => {
    const { key, cert } = await authority.issue({ commonName: 'localhost', usage });
    const other = createServer({ key, cert });
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.2', resolve));
    const identity = await identify();
    const error = await refused(identity.http.request({ url: `https://127.0.0.2:${(other.address() as AddressInfo).port}/` }));
    other.close();
    expect(error).toMatchObject({ code: 'TLS_FAILED' });
  });
});
