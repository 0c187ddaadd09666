import { X509Certificate } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { get } from 'node:https';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { connect as connectTls } from 'node:tls';
import { connect } from '@turnpike/client';
import { type Logger, silentLogger } from '@turnpike/core/spi';
import { mtlsIdentity, oauthIdentity } from '@turnpike/identity';
import { certificateAuthority, type Platform, startPlatform } from '@turnpike/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Desk, openLink } from '../support/service.ts';
import { processesWith, unlessGone } from './programs.ts';

let platform: Platform;
let desk: Desk;

beforeAll(async () => {
  platform = await startPlatform();
  desk = await Desk.open(platform);
});
afterAll(async () => {
  await desk?.[Symbol.asyncDispose]();
  await platform?.[Symbol.asyncDispose]();
});

/** The local addresses on which a process listens, as `127.0.0.1:9092`; from /proc, by the inodes of its sockets. */
function listening(pid: number | 'self'): string[] {
  const inodes = new Set(readdirSync(`/proc/${pid}/fd`).map((fd) => unlessGone(() => /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1])));
  const address = (hex: string) => {
    const bytes = Buffer.from(hex, 'hex');
    // Words in the machine's order; an IPv4 address in IPv6 has it in the last.
    const last = [...bytes.subarray(-4)].reverse().join('.');
    const mapped = bytes.length === 16 && hex.startsWith('0000000000000000FFFF0000');
    return bytes.length === 4 || mapped ? last : `[${hex}]`;
  };
  return ['tcp', 'tcp6'].flatMap((table) =>
    readFileSync(`/proc/${pid}/net/${table}`, 'utf8')
      .trim()
      .split('\n')
      .slice(1)
      .map((line) => line.trim().split(/\s+/))
      .filter(([, , , state, , , , , , inode]) => state === '0A' && inodes.has(inode))
      .map(([, local = '']) => `${address(local.split(':')[0] ?? '')}:${Number.parseInt(local.split(':')[1] ?? '', 16)}`),
  );
}

function filesUnder(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath, entry.name));
}

const mode = (file: string) => (statSync(file).mode & 0o777).toString(8);

interface Tls {
  readonly ca: string;
  readonly cert: Buffer;
  readonly key: Buffer;
}

/** Whether the mTLS listener answers to ApiVersions; with TLS 1.3 a client learns only afterwards that its certificate was refused. */
function brokerAnswers(tls: Tls): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectTls({ host: '127.0.0.1', port: platform.nodes[0]?.ports.mtls ?? 0, ...tls });
    socket.setTimeout(10_000, () => socket.destroy());
    socket.on('secureConnect', () => socket.write(Buffer.from('0000000a001200000000002affff', 'hex')));
    socket.on('data', () => {
      resolve(true);
      socket.destroy();
    });
    socket.on('error', () => {});
    socket.on('close', () => resolve(false));
  });
}

function registryStatus(tls: Tls): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const answered = get(`${platform.registryUrl}/subjects`, { ...tls, agent: false }, (response) => {
      response.resume();
      resolve(response.statusCode);
    });
    answered.on('error', reject);
  });
}

describe('a local platform', () => {
  it('is up in less than 15 s, once Kafka has been fetched', async () => {
    const started = performance.now();
    await using another = await startPlatform();
    expect(performance.now() - started).toBeLessThan(15_000);
    expect(another.cluster?.id).not.toBe(platform.cluster?.id);
  });

  it('listens on 127.0.0.1 only: issuer, registry, and every port of the broker', () => {
    const [node] = platform.nodes;
    const [pid] = [...processesWith(platform.directory)].find(([, command]) => command.startsWith('java') || command.includes('/java ')) ?? [];
    const brokers = listening(pid ?? 'self');
    expect(brokers).toEqual(expect.arrayContaining([`127.0.0.1:${node?.ports.mtls}`, `127.0.0.1:${node?.ports.oauth}`]));
    expect(brokers.filter((at) => !at.startsWith('127.0.0.1:'))).toEqual([]);
    const [issuer, registry] = [platform.issuer.url, platform.registryUrl].map((url) => Number(new URL(url).port));
    const own = listening('self').filter((at) => [issuer, registry].includes(Number(at.split(':').at(-1))));
    expect(own.sort()).toEqual([`127.0.0.1:${issuer}`, `127.0.0.1:${registry}`].sort());
  });

  it('keeps what is secret to its user: files 0600, folders 0700', async () => {
    await platform.principal('secretive');
    await platform.principal('assertive', { method: 'private_key_jwt' });
    await platform.certificateFiles('another', { commonName: 'another' });
    const secret = filesUnder(platform.directory).filter(
      (file) => path.basename(file) === 'client-secret' || readFileSync(file, 'latin1').includes('PRIVATE KEY'),
    );
    // The broker's, the admin's two, the two of each of the others, and the last one.
    expect(secret.length).toBeGreaterThanOrEqual(8);
    expect(secret.filter((file) => mode(file) !== '600')).toEqual([]);
    const folders = [platform.directory, ...secret.map((file) => path.dirname(file))];
    expect(folders.filter((folder) => mode(folder) !== '700')).toEqual([]);
  });

  it('takes clients by certificate, by token with a secret, and by token with a key, each under its name', async () => {
    const { mtls, oauth } = await platform.principal('every-way');
    const keyed = await platform.principal('spiffe://acme/airside/keyed', { method: 'private_key_jwt' });
    await using certificate = await mtlsIdentity(mtls);
    await using secret = await oauthIdentity(oauth);
    await using key = await oauthIdentity(keyed.oauth);
    await using spiffe = await mtlsIdentity(keyed.mtls);
    for (const identity of [certificate, secret, key, spiffe]) {
      await using link = await openLink(platform, identity);
      expect((await link.admin?.cluster())?.id).toBe(platform.cluster?.id);
    }
    expect([certificate, secret, key, spiffe].map((i) => i.principal)).toEqual(['every-way', 'every-way', keyed.name, keyed.name]);
  });

  it('denies by default: who has no ACL sees no topic and makes none, by either listener', async () => {
    await desk.topic('p.hidden');
    expect(await desk.admin.listTopics()).toContain('p.hidden');
    const { mtls, oauth } = await platform.principal('nobody');
    await using certificate = await mtlsIdentity(mtls);
    await using token = await oauthIdentity(oauth);
    for (const identity of [certificate, token]) {
      await using link = await openLink(platform, identity);
      expect(await link.admin?.listTopics()).toEqual([]);
      const made = await link.admin?.createTopics([{ name: `p.${identity.kind}`, partitions: 1, replicationFactor: 1 }]);
      expect(made).toMatchObject([{ error: { code: 'AUTHORIZATION_FAILED' } }]);
    }
  });

  it('enforces client quotas within seconds', async () => {
    await desk.topic('p.quota', { partitions: 1 });
    await desk.allow('hasty', { write: ['p.quota'] });
    await desk.admin.alterQuotas([{ user: 'hasty', values: { producer_byte_rate: 5_000 } }]);
    const throttled: unknown[] = [];
    const logger: Logger = { ...silentLogger, debug: (event, facts) => void (event === 'broker.throttled' && throttled.push(facts?.ms)) };
    const { service, options } = await desk.service({ name: 'hasty', produces: ['p.quota'] });
    await using kafka = await connect(service, { ...options, logger });
    const until = performance.now() + 20_000;
    for (let n = 0; throttled.length === 0 && performance.now() < until; n++) await kafka.producer('p.quota').send({ id: 'x'.repeat(10_000), n });
    expect(throttled[0]).toBeGreaterThan(0);
  });

  it('refuses certificates that have expired, are not valid yet, or are another authority’s', async () => {
    const hour = 3_600_000;
    const now = Date.now();
    const requests = {
      valid: {},
      expired: { notBefore: new Date(now - 2 * hour), notAfter: new Date(now - hour) },
      early: { notBefore: new Date(now + hour) },
      foreign: {},
    };
    const other = await certificateAuthority();
    const seen: Record<string, unknown> = {};
    for (const [name, request] of Object.entries(requests)) {
      const files = await platform.certificateFiles(name, { commonName: 'platform-admin', ...request }, name === 'foreign' ? other : undefined);
      const tls = { ca: platform.certificates.ca, cert: readFileSync(files.certFile), key: readFileSync(files.keyFile) };
      seen[name] = { broker: await brokerAnswers(tls), registry: await registryStatus(tls) };
    }
    const refused = { broker: false, registry: 401 };
    expect(seen).toEqual({ valid: { broker: true, registry: 200 }, expired: refused, early: refused, foreign: refused });
  });

  it('shows certificates for localhost and 127.0.0.1, for no other host', async () => {
    const { cert } = await platform.certificates.issue({ commonName: 'localhost', usage: 'server' });
    const certificate = new X509Certificate(cert);
    expect(certificate.checkHost('localhost')).toBe('localhost');
    expect(certificate.checkIP('127.0.0.1')).toBe('127.0.0.1');
    expect(certificate.checkHost('broker.example.com')).toBeUndefined();
    expect(certificate.checkIP('127.0.0.2')).toBeUndefined();
    expect(certificate.verify(new X509Certificate(platform.certificates.ca).publicKey)).toBe(true);
  });

  it('gives the same principal again, and refuses to end its secret by another method', async () => {
    const first = await platform.principal('steady');
    expect(await platform.principal('steady')).toBe(first);
    await expect(platform.principal('steady', { method: 'private_key_jwt' })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    const keyed = await platform.principal('steady-key', { method: 'private_key_jwt' });
    const env = await platform.environment('steady-key', 'oauth');
    expect(env.TURNPIKE_CLIENT_KEY_FILE).toBe(keyed.oauth.privateKeyFile);
    expect(env).not.toHaveProperty('TURNPIKE_CLIENT_SECRET_FILE');
    const names = ['a/b', 'a_b', 'a:b', '..', '.'];
    const files = await Promise.all(names.map(async (name) => (await platform.principal(name)).mtls.keyFile));
    expect(new Set(files).size).toBe(names.length);
    expect(files.every((file) => path.dirname(path.dirname(file)) === path.join(platform.directory, 'principals'))).toBe(true);
  });

  it('runs beside another, each with its own cluster, ports, authority and end', async () => {
    const directory = path.join(mkdtempSync(path.join(tmpdir(), 'beside-')), 'new', 'folder');
    const said: string[] = [];
    try {
      const other = await startPlatform({ directory, onProgress: (line) => said.push(line) });
      const { port: issuer } = new URL(other.issuer.url);
      try {
        expect(said.map((line) => line.split(' ')[0])).toEqual(['issuer', 'registry', 'kafka']);
        expect(said.join()).toContain(`127.0.0.1:${other.nodes[0]?.ports.mtls} (mTLS), 127.0.0.1:${other.nodes[0]?.ports.oauth} (OAuth)`);
        expect(other.cluster?.id).not.toBe(platform.cluster?.id);
        await using stranger = await mtlsIdentity(platform.admin.mtls);
        await expect(openLink(other, stranger)).rejects.toMatchObject({ code: 'TLS_FAILED' });
        await using its = await Desk.open(other);
        await its.topic('p.beside');
        expect(await its.admin.listTopics()).toContain('p.beside');
      } finally {
        await other[Symbol.asyncDispose]();
      }
      expect([...processesWith(directory).values()]).toEqual([]);
      expect(existsSync(directory)).toBe(false);
      await expect(fetch(`https://127.0.0.1:${issuer}`)).rejects.toThrow();
      expect(await desk.admin.listTopics()).not.toContain('p.beside');
    } finally {
      rmSync(path.resolve(directory, '../..'), { recursive: true, force: true });
    }
  });

  it('that fails to start says the broker’s own reason, and leaves nothing', async () => {
    const directory = mkdtempSync(path.join(tmpdir(), 'failing-'));
    const error = await startPlatform({ directory, properties: { 'num.network.threads': '-1' } }).catch((e) => e as Error);
    expect(error).toMatchObject({
      code: 'PLATFORM_UNAVAILABLE',
      message: expect.stringMatching(/^\[PLATFORM_UNAVAILABLE\] broker-1 did not start: .*num\.network\.threads/),
    });
    expect([...processesWith(directory).values()]).toEqual([]);
    expect(existsSync(directory)).toBe(false);
  });

  it('takes no folder that holds anything: in the end it would remove it', async () => {
    const directory = mkdtempSync(path.join(tmpdir(), 'full-'));
    try {
      writeFileSync(path.join(directory, 'thesis.txt'), 'the only copy');
      await expect(startPlatform({ directory, kafka: false })).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining(directory) });
      expect(readFileSync(path.join(directory, 'thesis.txt'), 'utf8')).toBe('the only copy');
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });

  it.each([{ nodes: 2 }, { tokenTtlSeconds: 0 }, { kafka: 'no' }, { node: 3 }])('refuses %j', async (options) => {
    await expect(startPlatform(options as object)).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining('startPlatform.') });
  });
});
