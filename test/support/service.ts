import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { type ConnectOptions, type ConsumedEvent, type ConsumerInit, connect, type Kafka } from '@turnpike/client';
import { avroCodec, defineService, type ServiceContract, type TopicContract } from '@turnpike/client/generated';
import { settleRecords } from '@turnpike/core';
import {
  type AclBinding,
  type AdminPort,
  type EnforcementMode,
  type GrantClaims,
  type GrantQuota,
  type Identity,
  type Link,
  noTelemetry,
  openGate,
  silentLogger,
  systemClock,
  type Transport,
} from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { generateSigningKey, signGrant } from '@turnpike/policy';
import { fingerprint, registryClient } from '@turnpike/schema';
import type { Platform } from '@turnpike/testing';
import { wireTransport } from '@turnpike/transports/wire';

export interface Measured {
  id: string;
  n: number;
}

const CLUSTER = 'local';
const text = JSON.stringify({
  type: 'record',
  name: 'Measured',
  namespace: 'test',
  fields: [
    { name: 'id', type: 'string' },
    { name: 'n', type: 'int' },
  ],
});

type Produces = Readonly<Record<string, TopicContract<Measured, Measured, string>>>;
type Consumes = Readonly<Record<string, { topic: TopicContract<Measured, Measured, string>; groups: readonly string[] }>>;
export type MeasuredKafka = Kafka<Produces, Consumes>;

/** A contract as `turnpike generate` would make it, with topics of one event type. */
function measuredTopic(name: string): TopicContract<Measured, Measured, string> {
  const schema = { subject: `${name}-value`, sha256: fingerprint(text) };
  return {
    name,
    cluster: CLUSTER,
    key: { format: 'string', of: (e) => e.id },
    value: { format: 'avro', schema, text, codec: () => avroCodec<Measured>(schema, text) },
  };
}

/** The platform team's side, at the seam: topics, ACLs, subjects and grants without a manifest. */
export class Desk implements AsyncDisposable {
  readonly platform: Platform;
  readonly admin: AdminPort;
  readonly link: Link;
  readonly #identity: Identity & AsyncDisposable;
  readonly #key = generateSigningKey('ES256');
  #revision = 0;

  private constructor(platform: Platform, link: Link, identity: Identity & AsyncDisposable) {
    this.platform = platform;
    this.link = link;
    this.#identity = identity;
    this.admin = link.admin as AdminPort;
  }

  static async open(platform: Platform): Promise<Desk> {
    const identity = await mtlsIdentity(platform.admin.mtls);
    return new Desk(platform, await openLink(platform, identity), identity);
  }

  async topic(
    name: string,
    init: { readonly partitions?: number; readonly replicationFactor?: number; readonly configs?: Record<string, string> } = {},
  ): Promise<void> {
    const [result] = await this.admin.createTopics([
      { name, partitions: init.partitions ?? 3, replicationFactor: init.replicationFactor ?? 1, configs: init.configs ?? {} },
    ]);
    if (result?.error) throw result.error;
    const registry = registryClient({ url: this.platform.registryUrl, http: this.#identity.http, clock: systemClock, logger: silentLogger });
    await registry.register(`${name}-value`, text);
  }

  async allow(
    principal: string,
    what: {
      readonly write?: readonly string[];
      readonly read?: readonly string[];
      readonly groups?: readonly string[];
      readonly transactionalIds?: readonly string[];
    },
  ): Promise<void> {
    const binding = (resourceType: AclBinding['resourceType'], resourceName: string, operation: AclBinding['operation']): AclBinding => ({
      resourceType,
      resourceName,
      pattern: 'literal',
      principal: `User:${principal}`,
      host: '*',
      operation,
      permission: 'allow',
    });
    await this.admin.createAcls([
      ...(what.write ?? []).map((t) => binding('topic', t, 'write')),
      ...(what.read ?? []).map((t) => binding('topic', t, 'read')),
      ...(what.groups ?? []).map((g) => binding('group', g, 'read')),
      ...(what.transactionalIds ?? []).map((id) => binding('transactionalId', id, 'write')),
    ]);
  }

  /** A contract and the options to connect with, granted everything that it declares. */
  async service(init: {
    readonly name: string;
    readonly kind?: 'mtls' | 'oauth';
    readonly produces?: readonly string[];
    readonly consumes?: readonly string[];
    readonly groups?: readonly string[];
    readonly quotas?: readonly GrantQuota[];
    readonly mode?: EnforcementMode;
    readonly denied?: readonly string[];
    readonly transactionalIdPrefixes?: readonly string[];
  }): Promise<{
    readonly service: ServiceContract<Produces, Consumes>;
    readonly options: ConnectOptions;
    readonly grantFile: string;
  }> {
    const {
      name,
      kind = 'mtls',
      produces = [],
      consumes = [],
      groups = [`${name}.group`],
      quotas = [],
      mode = 'enforce',
      denied = [],
      transactionalIdPrefixes = [],
    } = init;
    const key = await this.#key;
    const service = defineService({
      name,
      team: 'test',
      environments: { dev: { principals: [name] } },
      rootKeys: [key.publicJwk as Readonly<Record<string, string>>],
      produces: Object.fromEntries(produces.map((t) => [t, measuredTopic(t)])),
      consumes: Object.fromEntries(consumes.map((t) => [t, { topic: measuredTopic(t), groups }])),
    });
    const topics = [...new Set([...produces, ...consumes])].filter((t) => !denied.includes(t));
    const now = Math.floor(Date.now() / 1000);
    const claims: GrantClaims = {
      v: 1,
      mode,
      iss: 'test',
      aud: 'dev',
      sub: name,
      rev: ++this.#revision,
      nbf: now - 5,
      exp: now + 3600,
      refreshAfterS: 300,
      onExpiry: 'hold',
      topics: topics.map((t) => ({
        cluster: CLUSTER,
        name: t,
        ops: [...(consumes.includes(t) ? ['read' as const] : []), ...(produces.includes(t) ? ['write' as const] : [])],
        mode,
      })),
      groups: [...groups],
      transactionalIdPrefixes: [...transactionalIdPrefixes],
      schemas: [],
      quotas: [...quotas],
    };
    const folder = path.join(this.platform.directory, 'grants');
    mkdirSync(folder, { recursive: true });
    const grantFile = path.join(folder, `${name}-${claims.rev}.jws`);
    writeFileSync(grantFile, await signGrant(claims, { key: key.privateJwk }));
    const env = { ...(await this.platform.environment(name, kind)), TURNPIKE_ENV: 'dev', TURNPIKE_GRANT: grantFile };
    const clusters = this.platform.cluster ? [{ name: CLUSTER, epoch: 1, primary: this.platform.cluster }] : [];
    return { service, grantFile, options: { env, clusters, telemetry: 'off', shutdownSignals: [], logger: silentLogger } };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.link[Symbol.asyncDispose]();
    await this.#identity[Symbol.asyncDispose]();
  }
}

export function openLink(
  platform: Platform,
  identity: Identity,
  init: { readonly bootstrap?: readonly string[]; readonly id?: string; readonly connectTimeoutMs?: number; readonly transport?: Transport } = {},
): Promise<Link> {
  const kind = identity.kind === 'oauth' ? 'oauth' : 'mtls';
  return (init.transport ?? wireTransport()).connect({
    cluster: { name: CLUSTER, id: init.id ?? platform.cluster?.id ?? '', bootstrap: init.bootstrap ?? platform.cluster?.bootstrap[kind] ?? [] },
    identity,
    clientId: 'test',
    connectTimeoutMs: init.connectTimeoutMs ?? 10_000,
    clock: systemClock,
    logger: silentLogger,
    gate: openGate,
    fetchGate: openGate,
    events: settleRecords(noTelemetry, () => {}),
  });
}

/** Connects a service that is allowed what it declares. */
export async function openService(desk: Desk, init: Parameters<Desk['service']>[0], more: ConnectOptions = {}): Promise<MeasuredKafka> {
  const { service, options } = await desk.service(init);
  await desk.allow(init.name, { write: init.produces ?? [], read: init.consumes ?? [], groups: init.groups ?? [`${init.name}.group`] });
  return connect(service, { ...options, ...more });
}

/** Reads until `count` have come. */
export async function readEvents(
  kafka: MeasuredKafka,
  topic: string,
  count: number,
  init: ConsumerInit<string> = {},
): Promise<ConsumedEvent<string, Measured, string>[]> {
  const got: ConsumedEvent<string, Measured, string>[] = [];
  for await (const event of kafka.consumer([topic], init)) {
    got.push(event);
    if (got.length >= count) break;
  }
  return got;
}

export const measured = (n: number): Measured[] => Array.from({ length: n }, (_, i) => ({ id: `k${i % 17}`, n: i }));
