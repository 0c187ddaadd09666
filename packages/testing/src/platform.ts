import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { CleanUp, OptionReader, TurnpikeError } from '@turnpike/core';
import type { ClusterSite } from '@turnpike/core/spi';
import { type BrokerCluster, type BrokerNode, startBrokers } from './broker.ts';
import { type CertificateAuthority, type CertificateFiles, type CertificateRequest, certificateAuthority, writePrivate } from './certificates.ts';
import { guardFolder } from './child.ts';
import { prepareKafka } from './distribution.ts';
import { type ClientMethod, type Issuer, startIssuer } from './issuer.ts';
import { type EmbeddedRegistry, startRegistry } from './registry.ts';

export interface PlatformOptions {
  /** Brokers. Default 1; 3 = replication factor 3, at least 2 in sync. */
  readonly nodes?: 1 | 3;
  /** Default true; false = issuer, registry and certificates only, for the memory transport. */
  readonly kafka?: boolean;
  /** A registry elsewhere, instead of the embedded one. */
  readonly registryUrl?: string;
  /** How long a token lives, in s (>= 1). Default 300. */
  readonly tokenTtlSeconds?: number;
  /** After how long a broker asks an OAUTHBEARER connection to re-authenticate, in ms (KIP-368). Default 300_000. */
  readonly reauthMs?: number;
  /** More broker properties; they win over the platform's own. */
  readonly properties?: Readonly<Record<string, string>>;
  /** A PLAINTEXT listener beside, for a benchmark of clients that speak no TLS: whoever reaches this machine's loopback is a super user there. Default false. */
  readonly plaintext?: boolean;
  /** What each broker's Java is started with, instead of what has it start fast and stay small (C1 only, a heap of 256 MiB or less). */
  readonly javaOptions?: readonly string[];
  /** Where keys, logs and data go: a folder that isn't there yet, or is empty. Default: a new one under the system's temporary folder. */
  readonly directory?: string;
  /** Keep the folder when the platform is closed, or this process ends. Default false. */
  readonly keep?: boolean;
  /** SIGINT, SIGTERM and SIGHUP close the platform, then end the process if nobody else listens. Default true; false = the caller closes it, when what uses it has ended. */
  readonly closeOnSignal?: boolean;
  /** Told what is started and where. */
  readonly onProgress?: (line: string) => void;
}

/** A principal's ways to prove itself. */
export interface LocalPrincipal {
  readonly name: string;
  readonly mtls: CertificateFiles;
  readonly oauth: {
    readonly tokenUrl: string;
    readonly clientId: string;
    readonly clientSecretFile?: string;
    readonly privateKeyFile?: string;
    readonly scope: string;
    readonly caFile: string;
  };
}

/** A real Kafka cluster, OIDC issuer and registry on loopback; gone when it is disposed, and with this process, however that ends. */
export interface Platform extends AsyncDisposable {
  readonly directory: string;
  /** undefined without Kafka. */
  readonly cluster: ClusterSite | undefined;
  readonly nodes: readonly BrokerNode[];
  readonly issuer: Issuer;
  /** undefined when `registryUrl` was given. */
  readonly registry: EmbeddedRegistry | undefined;
  readonly registryUrl: string;
  readonly certificates: CertificateAuthority;
  /** The super user of the brokers and the registry. */
  readonly admin: LocalPrincipal;
  /** Issues a certificate and an OAuth client for a name; the same again for the same name. `method` counts when it is first named (default "client_secret_basic").
   *  Rejects with CONFIG_INVALID when it was issued with another one. */
  principal(name: string, options?: { readonly method?: ClientMethod }): Promise<LocalPrincipal>;
  /** Issues a certificate with wishes of its own (expired, another name), as files. */
  certificateFiles(name: string, request: CertificateRequest, authority?: CertificateAuthority): Promise<CertificateFiles>;
  /** The environment variables of a service that runs as this principal, but for its grant and cluster descriptors. */
  environment(name: string, kind: 'mtls' | 'oauth'): Promise<Record<string, string>>;
}

const ADMIN = 'platform-admin';

/** Starts the local platform. @throws TurnpikeError PLATFORM_UNAVAILABLE (no Java, no Kafka, a broker that doesn't start), CONFIG_INVALID. */
export async function startPlatform(options: PlatformOptions = {}): Promise<Platform> {
  const read = new OptionReader('startPlatform', options);
  const nodes = read.oneOf<1 | 3>('nodes', [1, 3], 1);
  const kafka = read.boolean('kafka', true);
  const registryUrl = read.string('registryUrl');
  const tokenTtlSeconds = read.number('tokenTtlSeconds', { min: 1, default: 300 });
  const reauthMs = read.number('reauthMs', { min: 1, default: 300_000 });
  const properties = (read.any('properties') ?? {}) as Readonly<Record<string, string>>;
  const plaintext = read.boolean('plaintext', false);
  const javaOptions = read.any('javaOptions') as readonly string[] | undefined;
  const given = read.string('directory');
  const keep = read.boolean('keep', false);
  const closeOnSignal = read.boolean('closeOnSignal', true);
  const say = (read.any('onProgress') ?? (() => {})) as (line: string) => void;
  read.end();

  const distribution = kafka ? await prepareKafka(say) : undefined;
  const directory = given === undefined ? temporaryFolder() : emptyFolder(given);
  const cleanUp = new CleanUp();
  if (!keep) {
    cleanUp.use(guardFolder(directory));
    cleanUp.defer(() => rmSync(directory, { recursive: true, force: true }));
  }
  try {
    const certificates = await certificateAuthority();
    const server = await certificates.issue({ commonName: 'localhost', usage: 'server' });
    const issuer = cleanUp.use(await startIssuer({ certificate: server, tokenTtlSeconds }));
    say(`issuer      ${issuer.url}`);
    const registry =
      registryUrl === undefined ? cleanUp.use(await startRegistry({ certificate: server, writers: [ADMIN], verifyToken: (t) => issuer.verify(t) })) : undefined;
    say(`registry    ${registryUrl ?? registry?.url}`);
    // The issuer must answer before a broker starts: a refused JWKS connection is fatal to it.
    const brokers =
      distribution &&
      (await startBrokers({
        distribution,
        folder: directory,
        nodes,
        authority: certificates,
        issuer,
        superUsers: [ADMIN],
        reauthMs,
        properties,
        plaintext,
        javaOptions,
      }));
    if (brokers) {
      cleanUp.defer(() => brokers.stop());
      say(`kafka       ${brokers.nodes.map((n) => `127.0.0.1:${n.ports.mtls} (mTLS), 127.0.0.1:${n.ports.oauth} (OAuth)`).join('; ')}`);
    }
    const platform = new LocalPlatform({ directory, certificates, issuer, registry, registryUrl: registryUrl ?? registry?.url ?? '', brokers, cleanUp });
    await platform.open();
    if (closeOnSignal) closeOnSignals(platform);
    return platform;
  } catch (error) {
    await cleanUp[Symbol.asyncDispose]();
    throw error;
  }
}

function temporaryFolder(): string {
  try {
    return mkdtempSync(path.join(tmpdir(), 'turnpike-'));
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code ?? String(cause);
    throw new TurnpikeError(
      'PLATFORM_UNAVAILABLE',
      `No folder can be made in ${tmpdir()} (${why}); set TMPDIR to a folder that is there and may be written to, or give startPlatform.directory.`,
      { cause },
    );
  }
}

/** The folder is removed in the end: one that holds anything is not ours to remove. */
function emptyFolder(given: string): string {
  const folder = path.resolve(given);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  if (readdirSync(folder).length > 0)
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `startPlatform.directory is ${folder}, which is not empty; name a folder that is, or a new one: it is removed when the platform is closed.`,
    );
  chmodSync(folder, 0o700);
  return folder;
}

interface Parts {
  readonly directory: string;
  readonly certificates: CertificateAuthority;
  readonly issuer: Issuer;
  readonly registry: EmbeddedRegistry | undefined;
  readonly registryUrl: string;
  readonly brokers: BrokerCluster | undefined;
  readonly cleanUp: CleanUp;
}

/** Platforms that are open in this process: a signal closes them in order before it ends the process. */
const open = new Set<LocalPlatform>();
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

function onSignal(signal: NodeJS.Signals): void {
  void Promise.allSettled([...open].map((p) => p[Symbol.asyncDispose]())).then(() => {
    for (const s of SIGNALS) process.off(s, onSignal);
    if (process.listenerCount(signal) === 0) process.kill(process.pid, signal);
  });
}

function closeOnSignals(platform: LocalPlatform): void {
  if (open.size === 0) for (const signal of SIGNALS) process.on(signal, onSignal);
  open.add(platform);
}

class LocalPlatform implements Platform {
  readonly directory: string;
  readonly certificates: CertificateAuthority;
  readonly issuer: Issuer;
  readonly registry: EmbeddedRegistry | undefined;
  readonly registryUrl: string;
  readonly nodes: readonly BrokerNode[];
  readonly cluster: ClusterSite | undefined;
  readonly #parts: Parts;
  readonly #principals = new Map<string, { readonly method: ClientMethod; readonly made: Promise<LocalPrincipal> }>();
  #admin: LocalPrincipal | undefined;
  #closing: Promise<void> | undefined;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.directory = parts.directory;
    this.certificates = parts.certificates;
    this.issuer = parts.issuer;
    this.registry = parts.registry;
    this.registryUrl = parts.registryUrl;
    this.nodes = parts.brokers?.nodes ?? [];
    this.cluster = parts.brokers && {
      id: parts.brokers.id,
      bootstrap: { mtls: this.nodes.map((n) => `127.0.0.1:${n.ports.mtls}`), oauth: this.nodes.map((n) => `127.0.0.1:${n.ports.oauth}`) },
    };
  }

  async open(): Promise<void> {
    this.#admin = await this.principal(ADMIN);
  }

  get admin(): LocalPrincipal {
    if (!this.#admin) throw new TurnpikeError('INTERNAL', 'The platform is not open.');
    return this.#admin;
  }

  async principal(name: string, { method }: { readonly method?: ClientMethod } = {}): Promise<LocalPrincipal> {
    const known = this.#principals.get(name);
    // A client has one secret or key: another one would end the first.
    if (known && method !== undefined && method !== known.method)
      throw new TurnpikeError('CONFIG_INVALID', `The principal ${name} was issued with ${known.method}; name it so, or take another name for ${method}.`);
    if (known) return known.made;
    const issued = { method: method ?? 'client_secret_basic', made: this.#issue(name, method ?? 'client_secret_basic') };
    this.#principals.set(name, issued);
    issued.made.catch(() => this.#principals.delete(name));
    return issued.made;
  }

  certificateFiles(name: string, request: CertificateRequest, authority: CertificateAuthority = this.certificates): Promise<CertificateFiles> {
    return authority.issueTo(path.join(this.directory, 'certificates', fileName(name)), 'client', request);
  }

  async environment(name: string, kind: 'mtls' | 'oauth'): Promise<Record<string, string>> {
    const { mtls, oauth } = await this.principal(name);
    const common = { TURNPIKE_REGISTRY: this.registryUrl, TURNPIKE_TLS_CA: mtls.caFile };
    if (kind === 'mtls') return { ...common, TURNPIKE_TLS_CERT: mtls.certFile, TURNPIKE_TLS_KEY: mtls.keyFile };
    return {
      ...common,
      TURNPIKE_TOKEN_URL: oauth.tokenUrl,
      TURNPIKE_CLIENT_ID: oauth.clientId,
      ...(oauth.privateKeyFile === undefined
        ? { TURNPIKE_CLIENT_SECRET_FILE: oauth.clientSecretFile ?? '' }
        : { TURNPIKE_CLIENT_KEY_FILE: oauth.privateKeyFile }),
      TURNPIKE_SCOPE: oauth.scope,
    };
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#parts.cleanUp[Symbol.asyncDispose]().finally(() => {
      open.delete(this);
      if (open.size === 0) for (const signal of SIGNALS) process.off(signal, onSignal);
    });
    return this.#closing;
  }

  async #issue(name: string, method: ClientMethod): Promise<LocalPrincipal> {
    const folder = path.join(this.directory, 'principals', fileName(name));
    const mtls = await this.certificates.issueTo(folder, 'client', { commonName: name, ...(name.startsWith('spiffe://') ? { uris: [name] } : {}) });
    const client = await this.issuer.addClient(name, method);
    const common = { tokenUrl: this.issuer.tokenUrl, clientId: name, scope: this.issuer.scope, caFile: mtls.caFile };
    if (client.secret !== undefined) {
      const clientSecretFile = path.join(folder, 'client-secret');
      writePrivate(clientSecretFile, client.secret);
      return { name, mtls, oauth: { ...common, clientSecretFile } };
    }
    const privateKeyFile = path.join(folder, 'client-assertion.key.pem');
    writePrivate(privateKeyFile, client.privateKeyPem ?? '');
    return { name, mtls, oauth: { ...common, privateKeyFile } };
  }
}

/** Names that differ get files that differ. */
function fileName(name: string): string {
  if (/^[A-Za-z0-9_-][A-Za-z0-9_.-]*$/.test(name)) return name;
  return `${name.replace(/[^A-Za-z0-9_-]+/g, '_')}-${createHash('sha256').update(name).digest('hex').slice(0, 8)}`;
}
