import { execFile } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import { TurnpikeError } from '@turnpike/core';
import { type CertificateAuthority, writePrivate } from './certificates.ts';
import { type Child, startChild } from './child.ts';
import type { KafkaDistribution } from './distribution.ts';

const run = promisify(execFile);

export interface BrokerOptions {
  readonly distribution: KafkaDistribution;
  readonly folder: string;
  readonly nodes: 1 | 3;
  readonly authority: CertificateAuthority;
  readonly issuer: { readonly url: string; readonly jwksUrl: string; readonly audience: string };
  readonly superUsers: readonly string[];
  readonly reauthMs: number;
  readonly properties: Readonly<Record<string, string>>;
  /** A listener without proof beside, for super users' work on loopback. */
  readonly plaintext: boolean;
  /** What Java is told, instead of what has a broker start fast and stay small. */
  readonly javaOptions: readonly string[] | undefined;
}

export interface BrokerPorts {
  readonly mtls: number;
  readonly oauth: number;
  /** Where the platform was asked for it. */
  readonly plaintext?: number;
}

/** One broker and controller of the cluster. */
export interface BrokerNode {
  readonly id: number;
  readonly ports: BrokerPorts;
  /** Of the broker's Java; undefined until it is started. */
  readonly pid: number | undefined;
  readonly running: boolean;
  /** SIGKILL: as a machine that is gone. */
  kill(): Promise<void>;
  /** SIGTERM: in order. */
  stop(): Promise<void>;
  start(): Promise<void>;
  /** SIGSTOP: alive, but silent. */
  pause(): void;
  resume(): void;
}

export interface BrokerCluster {
  readonly id: string;
  readonly nodes: readonly BrokerNode[];
  stop(): Promise<void>;
}

const START_TIMEOUT_MS = 90_000;
const PORT_TRIES = 3;
/** Below those that a system gives to outgoing connections (Linux: from 32768): one of them may take a broker's port while the broker is down, or be connected to itself. */
const PORTS = { from: 15_000, to: 32_000 };
/** Java's exit code after SIGTERM, when all its hooks have run. */
const SIGTERM_EXIT = 143;

/** Starts a KRaft cluster of combined nodes. Ports are free ones; where one is taken before the broker has it, all are chosen anew. */
export async function startBrokers(options: BrokerOptions): Promise<BrokerCluster> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await tryStart(options);
    } catch (error) {
      if (attempt >= PORT_TRIES || !/Address already in use|BindException/.test(String((error as Error).message))) throw error;
      rmSync(path.join(options.folder, 'kafka'), { recursive: true, force: true });
    }
  }
}

async function tryStart(options: BrokerOptions): Promise<BrokerCluster> {
  const { distribution, nodes: count, authority } = options;
  const bootstrap = await bootstrapCheckpoint(distribution);
  const clusterId = uuid();
  const ports = await freePorts(count * 4);
  const nodes = Array.from({ length: count }, (_, i) => ({
    id: i + 1,
    controller: ports[i * 4] as number,
    ports: {
      mtls: ports[i * 4 + 1] as number,
      oauth: ports[i * 4 + 2] as number,
      ...(options.plaintext ? { plaintext: ports[i * 4 + 3] as number } : {}),
    },
  }));
  const voters = nodes.map((n) => `${n.id}@127.0.0.1:${n.controller}`).join(',');
  const archive = classArchive(distribution);
  const made = await Promise.all(
    nodes.map(async (node) => {
      const folder = path.join(options.folder, 'kafka', String(node.id));
      const data = path.join(folder, 'data');
      mkdirSync(data, { recursive: true, mode: 0o700 });
      const certificate = await authority.issue({ commonName: `broker-${node.id}`, usage: 'both' });
      writePrivate(path.join(folder, 'keystore.pem'), `${certificate.key}\n${certificate.cert}\n${certificate.ca}`);
      writePrivate(path.join(folder, 'ca.pem'), certificate.ca);
      writeFileSync(path.join(folder, 'log4j2.xml'), LOG4J);
      writePrivate(path.join(folder, 'server.properties'), propertiesOf(options, { ...node, folder, data, voters, count }));
      // What `kafka-storage format` writes, without a JVM for it: 1.4 to 5 s saved at each start.
      writeFileSync(path.join(data, 'meta.properties'), `version=1\ncluster.id=${clusterId}\nnode.id=${node.id}\ndirectory.id=${uuid()}\n`);
      copyFileSync(bootstrap, path.join(data, 'bootstrap.checkpoint'));
      return new Node(options, node, folder, archive);
    }),
  );
  const failed = new AbortController();
  let failure: unknown;
  await Promise.allSettled(
    made.map((n) =>
      n.start(failed.signal).catch((error: unknown) => {
        // The others end because of the first one: it alone says why.
        failure ??= error;
        failed.abort();
      }),
    ),
  );
  if (failed.signal.aborted) {
    await Promise.all(made.map((n) => n.kill()));
    throw failure;
  }
  return {
    id: clusterId,
    nodes: made,
    // All at once: a quorum that loses its members one by one waits for those that are gone.
    stop: async () => void (await Promise.all(made.map((n) => n.stop()))),
  };
}

class Node implements BrokerNode {
  readonly id: number;
  readonly ports: BrokerPorts;
  readonly #options: BrokerOptions;
  readonly #folder: string;
  readonly #archive: ClassArchive;
  #child: Child | undefined;

  constructor(options: BrokerOptions, { id, ports }: { id: number; ports: BrokerPorts }, folder: string, archive: ClassArchive) {
    this.#options = options;
    this.id = id;
    this.ports = ports;
    this.#folder = folder;
    this.#archive = archive;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  get running(): boolean {
    return this.#child?.running ?? false;
  }

  async start(signal?: AbortSignal): Promise<void> {
    if (this.running) return;
    this.#child = await startChild({
      folder: this.#folder,
      name: `broker-${this.id}`,
      command: this.#command(),
      ready: /Kafka Server started/,
      timeoutMs: START_TIMEOUT_MS,
      ...(signal ? { signal } : {}),
    });
  }

  async kill(): Promise<void> {
    this.#child?.signal('SIGKILL');
    await this.#child?.exited;
  }

  async stop(): Promise<void> {
    const code = await this.#child?.stop();
    if (code !== undefined) this.#archive.stopped(code);
  }

  pause(): void {
    this.#child?.signal('SIGSTOP');
  }

  resume(): void {
    this.#child?.signal('SIGCONT');
  }

  #command(): string[] {
    const { distribution, nodes, issuer, javaOptions } = this.#options;
    const small = [`-Xmx${nodes === 1 ? 256 : 192}m`, '-Xms64m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-Xshare:auto'];
    return [
      distribution.java,
      // An archive of classes serves the options that it was made under.
      ...(javaOptions ?? [...small, ...this.#archive.flags()]),
      '-Djava.awt.headless=true',
      `-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=${issuer.jwksUrl}`,
      `-Dlog4j2.configurationFile=${path.join(this.#folder, 'log4j2.xml')}`,
      '-cp',
      path.join(distribution.libs, '*'),
      'kafka.Kafka',
      path.join(this.#folder, 'server.properties'),
    ];
  }
}

interface ClassArchive {
  flags(): string[];
  stopped(code: number): void;
}

/** Java's class data sharing: the first broker that stops in order leaves an archive, and later ones start in half the time (JEP 350). An archive serves one build of Java. */
function classArchive({ cache, javaVersion }: KafkaDistribution): ClassArchive {
  const file = path.join(cache, `classes-java-${javaVersion}.jsa`);
  if (existsSync(file)) return { flags: () => [`-XX:SharedArchiveFile=${file}`], stopped: () => {} };
  // Of its own even within this process: two platforms may stop at the same time.
  const fresh = `${file}.${randomBytes(6).toString('hex')}`;
  let taken = false;
  return {
    flags() {
      if (taken) return [];
      taken = true;
      return [`-XX:ArchiveClassesAtExit=${fresh}`];
    },
    stopped(code) {
      if (!existsSync(fresh)) return;
      // Killed while it wrote, it has left a part of one.
      if (code === 0 || code === SIGTERM_EXIT) renameSync(fresh, file);
      else rmSync(fresh, { force: true });
    },
  };
}

/** The first metadata records of a cluster; they name no node or port, so one `format` per version serves all. */
async function bootstrapCheckpoint({ java, libs, cache }: KafkaDistribution): Promise<string> {
  const file = path.join(cache, 'bootstrap.checkpoint');
  if (existsSync(file)) return file;
  const folder = mkdtempSync(path.join(cache, 'format-'));
  try {
    const properties = path.join(folder, 'server.properties');
    writeFileSync(
      properties,
      `process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:1\nlisteners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1\ncontroller.listener.names=CONTROLLER\nlistener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\nlog.dirs=${folder}/data\n`,
    );
    await run(java, [
      '-Xmx128m',
      '-XX:+UseSerialGC',
      '-XX:TieredStopAtLevel=1',
      '-cp',
      path.join(libs, '*'),
      'kafka.tools.StorageTool',
      'format',
      '-t',
      uuid(),
      '-c',
      properties,
    ]);
    renameSync(path.join(folder, 'data', 'bootstrap.checkpoint'), file);
  } catch (cause) {
    if (!existsSync(file)) throw new TurnpikeError('PLATFORM_UNAVAILABLE', `Kafka's storage tool failed: ${(cause as Error).message.slice(0, 500)}`, { cause });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return file;
}

function propertiesOf(
  options: BrokerOptions,
  node: { id: number; controller: number; ports: BrokerPorts; folder: string; data: string; voters: string; count: number },
): string {
  const { issuer } = options;
  const replicas = node.count;
  const inSync = Math.min(2, replicas);
  const oauth = 'listener.name.oauth.oauthbearer';
  const { ports } = node;
  const listeners = [`MTLS://127.0.0.1:${ports.mtls}`, `OAUTH://127.0.0.1:${ports.oauth}`];
  if (ports.plaintext !== undefined) listeners.push(`PLAINTEXT://127.0.0.1:${ports.plaintext}`);
  const superUsers = [...options.superUsers, ...Array.from({ length: node.count }, (_, i) => `broker-${i + 1}`), ...(options.plaintext ? ['ANONYMOUS'] : [])];
  const properties: Record<string, string> = {
    'process.roles': 'broker,controller',
    'node.id': String(node.id),
    'controller.quorum.voters': node.voters,
    listeners: [...listeners, `CONTROLLER://127.0.0.1:${node.controller}`].join(','),
    'advertised.listeners': listeners.join(','),
    'listener.security.protocol.map': 'MTLS:SSL,OAUTH:SASL_SSL,PLAINTEXT:PLAINTEXT,CONTROLLER:SSL',
    'controller.listener.names': 'CONTROLLER',
    'inter.broker.listener.name': 'MTLS',
    'log.dirs': node.data,
    'ssl.keystore.type': 'PEM',
    'ssl.keystore.location': path.join(node.folder, 'keystore.pem'),
    'ssl.truststore.type': 'PEM',
    'ssl.truststore.location': path.join(node.folder, 'ca.pem'),
    'ssl.enabled.protocols': 'TLSv1.3,TLSv1.2',
    'ssl.client.auth': 'none',
    'listener.name.mtls.ssl.client.auth': 'required',
    'listener.name.controller.ssl.client.auth': 'required',
    // The subject's CN is the principal, also one that is a SPIFFE id.
    'ssl.principal.mapping.rules': 'RULE:^CN=([A-Za-z0-9_.-]+)(,.*)?$/$1/,RULE:^CN=(spiffe:[^,]+)(,.*)?$/$1/,DEFAULT',
    'listener.name.oauth.sasl.enabled.mechanisms': 'OAUTHBEARER',
    // Trust-store options alone kill the broker ("No principal name in JWT claim: sub"): the login needs a claim, though nobody logs in.
    [`${oauth}.sasl.jaas.config`]: `org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="unused" ssl.truststore.type="PEM" ssl.truststore.location="${path.join(node.folder, 'ca.pem')}";`,
    [`${oauth}.sasl.server.callback.handler.class`]: 'org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler',
    [`${oauth}.sasl.oauthbearer.jwks.endpoint.url`]: issuer.jwksUrl,
    [`${oauth}.sasl.oauthbearer.expected.audience`]: issuer.audience,
    [`${oauth}.sasl.oauthbearer.expected.issuer`]: issuer.url,
    [`${oauth}.sasl.oauthbearer.clock.skew.seconds`]: '5',
    [`${oauth}.connections.max.reauth.ms`]: String(options.reauthMs),
    'authorizer.class.name': 'org.apache.kafka.metadata.authorizer.StandardAuthorizer',
    'super.users': superUsers.map((u) => `User:${u}`).join(';'),
    'allow.everyone.if.no.acl.found': 'false',
    'auto.create.topics.enable': 'false',
    'num.network.threads': '2',
    'num.io.threads': '4',
    'group.initial.rebalance.delay.ms': '0',
    'offsets.topic.num.partitions': '4',
    'transaction.state.log.num.partitions': '4',
    'share.coordinator.state.topic.num.partitions': '2',
    'default.replication.factor': String(replicas),
    'min.insync.replicas': String(inSync),
    'offsets.topic.replication.factor': String(replicas),
    'transaction.state.log.replication.factor': String(replicas),
    'transaction.state.log.min.isr': String(inSync),
    'share.coordinator.state.topic.replication.factor': String(replicas),
    'share.coordinator.state.topic.min.isr': String(inSync),
    'log.cleaner.dedupe.buffer.size': '4194304',
    'log.segment.bytes': '67108864',
    // Short windows, so that throttling shows within seconds.
    'quota.window.num': '11',
    'quota.window.size.seconds': '1',
    ...(replicas > 1
      ? { 'controller.quorum.election.timeout.ms': '1000', 'controller.quorum.fetch.timeout.ms': '2000', 'broker.session.timeout.ms': '6000' }
      : {}),
    ...options.properties,
  };
  return Object.entries(properties)
    .map(([k, v]) => `${k}=${v}`)
    .join('\n');
}

/** Ports that were free a moment ago, all different. */
async function freePorts(count: number): Promise<number[]> {
  const servers: Server[] = [];
  for (let tries = 0; servers.length < count; tries++) {
    if (tries > 1_000 + count)
      throw new TurnpikeError('PLATFORM_UNAVAILABLE', `No ${count} ports are free on 127.0.0.1 from ${PORTS.from} to ${PORTS.to}; stop what holds them.`);
    const server = await listening(randomInt(PORTS.from, PORTS.to));
    if (server) servers.push(server);
  }
  const ports = servers.map((s) => (s.address() as { port: number }).port);
  await Promise.all(servers.map((s) => new Promise<void>((resolve) => s.close(() => resolve()))));
  return ports;
}

/** undefined = the port is taken. */
function listening(port: number): Promise<Server | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(undefined));
    server.listen(port, '127.0.0.1', () => resolve(server));
  });
}

/** Kafka's Uuid: 16 bytes as base64url; one that begins with "-" would be taken for an option. */
const uuid = (): string => `A${randomBytes(16).toString('base64url').slice(1)}`;

const LOG4J = `<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR"><Appenders><Console name="o"><PatternLayout pattern="[%d] %p %m (%c)%n"/></Console></Appenders>
<Loggers><Root level="INFO"><AppenderRef ref="o"/></Root>
<Logger name="org.apache.kafka.common.config.AbstractConfig" level="WARN"/><Logger name="org.reflections" level="ERROR"/></Loggers></Configuration>
`;
