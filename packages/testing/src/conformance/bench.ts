import assert from 'node:assert/strict';
import { CleanUp, type ConsumerOptions, compileConsumerOptions, compileProducerOptions, type ProducerOptions } from '@turnpike/core';
import { memoryAdmin } from '@turnpike/core/memory';
import {
  type AclBinding,
  type AclOperation,
  type AclResourceType,
  type AdminPort,
  aclKey,
  type Capabilities,
  type ClusterRef,
  type DrainGate,
  type FetchGate,
  type Identity,
  type Link,
  type Logger,
  openGate,
  silentLogger,
  systemClock,
  type Transport,
} from '@turnpike/core/spi';
import { anonymousIdentity, mtlsIdentity, oauthIdentity } from '@turnpike/identity';
import { wireTransport } from '@turnpike/transports/wire';
import type { Platform, PlatformOptions } from '../platform.ts';
import { ConsumerBench, type ConsumerHooks } from './consumer-bench.ts';
import { Events } from './events.ts';
import type { TransportUnderTest } from './frame.ts';
import { ProducerBench } from './producer-bench.ts';
import { eventually, within } from './within.ts';

const CLUSTER = 'local';
const ADMIN = 'platform-admin';
/** How long the brokers may take to know what the controller has done, in ms. */
const SETTLE_MS = 10_000;

export interface LinkOptions {
  /** Default: the case's own. */
  readonly principal?: string;
  /** Default "mtls"; the memory transport asks for no proof. */
  readonly kind?: 'mtls' | 'oauth';
  /** Instead of the principal's own. */
  readonly identity?: Identity;
  /** Default: a new one of those under test. */
  readonly transport?: Transport;
  /** Default: the shared one. */
  readonly platform?: Platform;
  readonly cluster?: Partial<ClusterRef>;
  readonly connectTimeoutMs?: number;
  readonly clientId?: string;
  readonly gate?: DrainGate;
  readonly fetchGate?: FetchGate;
  readonly logger?: Logger;
}

export interface TopicOptions {
  readonly partitions?: number;
  readonly configs?: Readonly<Record<string, string>>;
  /** Who may read and write it. Default: the case's principal; [] = nobody. */
  readonly principals?: readonly string[];
  readonly platform?: Platform;
}

export type ConsumerBenchOptions = ConsumerOptions & { readonly group?: string } & ConsumerHooks;

/** What all cases of one suite share: the cluster and the super user's way to it. */
export class Grounds implements AsyncDisposable {
  readonly under: TransportUnderTest;
  readonly #admins = new Map<Platform | undefined, Promise<AdminPort>>();
  readonly #cleanUp = new CleanUp();
  #benches = 0;

  constructor(under: TransportUnderTest) {
    this.under = under;
  }

  async bench(): Promise<Bench> {
    // Suites of several transports, and runs one after another, share a cluster.
    const name = `${this.under.name}-${(Date.now() % 100_000_000).toString(36)}-${(++this.#benches).toString(36)}`;
    const platform = await this.under.platform?.();
    return new Bench(this, name, platform, await this.admin(platform));
  }

  /** The super user's. */
  admin(platform: Platform | undefined): Promise<AdminPort> {
    const known = this.#admins.get(platform) ?? this.#openAdmin(platform);
    this.#admins.set(platform, known);
    return known;
  }

  async #openAdmin(platform: Platform | undefined): Promise<AdminPort> {
    if (platform === undefined) {
      const { cluster, name } = this.under;
      assert.ok(cluster, `${name}: transportConformance() needs either a platform or a memory cluster`);
      return memoryAdmin(cluster);
    }
    const identity = this.#cleanUp.use(await mtlsIdentity(platform.admin.mtls));
    const link = this.#cleanUp.use(
      await wireTransport().connect({
        cluster: clusterRef(platform, 'mtls'),
        identity,
        clientId: ADMIN,
        connectTimeoutMs: 10_000,
        clock: systemClock,
        logger: silentLogger,
        gate: openGate,
        fetchGate: openGate,
        events: new Events(),
      }),
    );
    assert.ok(link.admin);
    return link.admin;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#cleanUp[Symbol.asyncDispose]();
  }
}

/** What one case works with. All that it opens is closed with it, last first. */
export class Bench implements AsyncDisposable {
  /** Begins the names of this case's topics, groups and principals. */
  readonly name: string;
  /** Who the case's links are, unless they say otherwise. */
  readonly principal: string;
  /** The super user's, over a wire link (of the memory transport: the cluster's own). */
  readonly admin: AdminPort;
  readonly capabilities: Capabilities;
  readonly under: TransportUnderTest;
  readonly within = within;
  readonly eventually = eventually;
  readonly #grounds: Grounds;
  readonly #platform: Platform | undefined;
  readonly #cleanUp = new CleanUp();
  #names = 0;

  constructor(grounds: Grounds, name: string, platform: Platform | undefined, admin: AdminPort) {
    this.#grounds = grounds;
    this.under = grounds.under;
    this.name = name;
    this.principal = name;
    this.admin = admin;
    this.#platform = platform;
    this.capabilities = grounds.under.transport().capabilities;
  }

  /** The shared one. Only where the case needs a broker. */
  get platform(): Platform {
    assert.ok(this.#platform, 'the case uses a platform but doesn\'t say `needs: "broker"`');
    return this.#platform;
  }

  /** One with options of its own, started once for all cases that ask for the same. */
  async platformWith(options: PlatformOptions): Promise<Platform> {
    assert.ok(this.under.platform, 'the case uses a platform but doesn\'t say `needs: "broker"`');
    return this.under.platform(options);
  }

  /** The super user's of another platform. */
  adminOf(platform: Platform): Promise<AdminPort> {
    return this.#grounds.admin(platform);
  }

  /** A name that nobody else uses. */
  unique(word: string): string {
    return `${this.name}.${word}${++this.#names}`;
  }

  /** Closed with the bench. */
  use<T extends AsyncDisposable>(resource: T): T {
    return this.#cleanUp.use(resource);
  }

  /** Called when the bench closes. */
  defer(step: () => unknown): void {
    this.#cleanUp.defer(step);
  }

  /** A new topic that the case's principal may read and write; known to the brokers when this resolves. */
  async topic(word = 't', { partitions = 1, configs = {}, principals = [this.principal], platform }: TopicOptions = {}): Promise<string> {
    const admin = platform ? await this.adminOf(platform) : this.admin;
    const name = this.unique(word);
    const [created] = await admin.createTopics([{ name, partitions, replicationFactor: 1, configs }]);
    if (created?.error) throw created.error;
    for (const principal of principals) await this.allow('topic', name, ['read', 'write'], { principal, ...(platform ? { platform } : {}) });
    await eventually(
      SETTLE_MS,
      () => admin.describeTopics([name]),
      ([t]) => t?.partitions.length === partitions && t.partitions.every((p) => p.leader >= 0),
      `${name} is known to the brokers`,
    );
    return name;
  }

  /** A group's name that the case's principal may use. */
  async group(word = 'g', { principal = this.principal, platform }: { readonly principal?: string; readonly platform?: Platform } = {}): Promise<string> {
    const group = this.unique(word);
    await this.allow('group', group, ['read'], { principal, ...(platform ? { platform } : {}) });
    return group;
  }

  /** A transactional id that the case's principal may use. */
  async transactionalId(
    word = 'x',
    { principal = this.principal, platform }: { readonly principal?: string; readonly platform?: Platform } = {},
  ): Promise<string> {
    const id = this.unique(word);
    await this.allow('transactionalId', id, ['write', 'describe'], { principal, ...(platform ? { platform } : {}) });
    return id;
  }

  /** In force at the brokers when it resolves. */
  async allow(type: AclResourceType, name: string, operations: readonly AclOperation[], where: AclWhere = {}): Promise<void> {
    const admin = where.platform ? await this.adminOf(where.platform) : this.admin;
    const bindings = this.#bindings(type, name, operations, where.principal);
    await admin.createAcls(bindings);
    await eventually(
      SETTLE_MS,
      () => keysOf(admin),
      (keys) => bindings.every((b) => keys.has(aclKey(b))),
      `the ACL of ${name} is in force`,
    );
  }

  /** No longer in force at the brokers when it resolves. */
  async revoke(type: AclResourceType, name: string, operations: readonly AclOperation[], where: AclWhere = {}): Promise<void> {
    const admin = where.platform ? await this.adminOf(where.platform) : this.admin;
    const bindings = this.#bindings(type, name, operations, where.principal);
    await admin.deleteAcls(bindings);
    await eventually(
      SETTLE_MS,
      () => keysOf(admin),
      (keys) => bindings.every((b) => !keys.has(aclKey(b))),
      `the ACL of ${name} is gone`,
    );
  }

  #bindings(resourceType: AclResourceType, resourceName: string, operations: readonly AclOperation[], principal = this.principal): readonly AclBinding[] {
    return operations.map((operation) => ({
      resourceType,
      resourceName,
      pattern: 'literal',
      principal: `User:${principal}`,
      host: '*',
      operation,
      permission: 'allow',
    }));
  }

  /** A principal's own identity; closed with the bench. */
  async identity({
    principal = this.principal,
    kind = 'mtls',
    platform = this.#platform,
  }: Pick<LinkOptions, 'principal' | 'kind' | 'platform'> = {}): Promise<Identity> {
    if (!platform) return anonymousIdentity(principal);
    const issued = await platform.principal(principal);
    return this.use(kind === 'mtls' ? await mtlsIdentity(issued.mtls) : await oauthIdentity(issued.oauth));
  }

  /** A link of the transport under test. Rejects with what its connect() rejects with. */
  async link(options: LinkOptions = {}): Promise<LinkBench> {
    const { platform = this.#platform, kind = 'mtls' } = options;
    const identity = options.identity ?? (await this.identity(options));
    const transport = options.transport ?? this.under.transport();
    const events = new Events();
    const link = await transport.connect({
      cluster: { ...(platform ? clusterRef(platform, kind) : { name: CLUSTER, bootstrap: [] }), ...options.cluster },
      identity,
      clientId: options.clientId ?? this.name,
      connectTimeoutMs: options.connectTimeoutMs ?? 10_000,
      clock: systemClock,
      logger: options.logger ?? silentLogger,
      gate: options.gate ?? openGate,
      fetchGate: options.fetchGate ?? openGate,
      events,
    });
    return this.use(new LinkBench(this, link, events, identity));
  }

  /** Another transport's link of the same principal, over wire: what a foreign client would see. Only where there is a broker; of the memory transport, its own. */
  foreign(options: LinkOptions = {}): Promise<LinkBench> {
    return this.link({ ...(this.#platform ? { transport: wireTransport() } : {}), ...options });
  }

  /** All records of these topics, as a foreign reader finds them, in the order of their partitions. */
  async readBack(topic: string, count: number, options: ConsumerBenchOptions = {}): Promise<ConsumerBench> {
    const link = await this.foreign();
    const consumer = await link.consumer(options);
    await consumer.subscribe([topic]);
    await consumer.untilCount(count);
    return consumer;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#cleanUp[Symbol.asyncDispose]();
  }
}

interface AclWhere {
  /** Default: the case's. */
  readonly principal?: string;
  readonly platform?: Platform;
}

/** A link, with what it has told core. */
export class LinkBench implements AsyncDisposable {
  readonly link: Link;
  readonly events: Events;
  readonly identity: Identity;
  readonly #bench: Bench;

  constructor(bench: Bench, link: Link, events: Events, identity: Identity) {
    this.#bench = bench;
    this.link = link;
    this.events = events;
    this.identity = identity;
  }

  /** Options as a service gives them; those that only the seam knows beside them. */
  async producer(options: ProducerOptions & { readonly transactionalId?: string; readonly transactionTimeoutMs?: number } = {}): Promise<ProducerBench> {
    const { transactionalId, transactionTimeoutMs, ...rest } = options;
    const compiled = {
      ...compileProducerOptions(rest),
      ...(transactionalId === undefined ? {} : { transactionalId }),
      ...(transactionTimeoutMs === undefined ? {} : { transactionTimeoutMs }),
    };
    return new ProducerBench(await this.link.producer(compiled), compiled.deliveryTimeoutMs);
  }

  /** In a group of its own, unless one is named. */
  async consumer(options: ConsumerBenchOptions = {}): Promise<ConsumerBench> {
    const { group, onAssigned, onRevoking, onLost, ...rest } = options;
    const compiled = compileConsumerOptions(group ?? (await this.#bench.group('g', { principal: this.identity.principal })), {
      heartbeatIntervalMs: 200,
      fetchWaitMs: 100,
      ...rest,
    });
    return new ConsumerBench(this.link.consumer(compiled), compiled.group, {
      ...(onAssigned ? { onAssigned } : {}),
      ...(onRevoking ? { onRevoking } : {}),
      ...(onLost ? { onLost } : {}),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.link[Symbol.asyncDispose]();
  }
}

function clusterRef(platform: Platform, kind: 'mtls' | 'oauth'): ClusterRef {
  assert.ok(platform.cluster, 'the platform was started without Kafka');
  return { name: CLUSTER, id: platform.cluster.id, bootstrap: platform.cluster.bootstrap[kind] ?? [] };
}

const keysOf = async (admin: AdminPort): Promise<ReadonlySet<string>> => new Set((await admin.acls()).map(aclKey));
