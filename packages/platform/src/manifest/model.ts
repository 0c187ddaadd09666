import type { EnforcementMode } from '@turnpike/core/spi';
import type { CompatibilityLevel } from '@turnpike/schema';
import type { Place } from './problems.ts';

/** `turnpike.dev/v1alpha1`, as read: checked, with defaults, and with the place that it was read from. */
export interface Resource {
  readonly name: string;
  readonly team: string;
  readonly at: Place;
  /** Where a key of its document stands, as `where('spec', 'key', 'from')`; of one that isn't there, the place that should have it. */
  readonly where: (...keys: readonly string[]) => Place;
}

export interface TopicResource extends Resource {
  readonly kind: 'Topic';
  /** The logical cluster. */
  readonly cluster: string;
  readonly partitions: number;
  /** undefined = the cluster's default. */
  readonly replicationFactor: number | undefined;
  /** -1 = for ever; undefined = the cluster's default. */
  readonly retentionMs: number | undefined;
  readonly configs: Readonly<Record<string, string>>;
  readonly key: { readonly format: 'none' } | { readonly format: 'string'; readonly from: string | undefined };
  readonly value: SchemaResource;
  /** The owner's consent for services of other teams. */
  readonly access: readonly { readonly service: string; readonly operations: readonly ('produce' | 'consume')[] }[];
  readonly deletion: 'protected' | 'allowed';
}

export interface SchemaResource {
  readonly format: 'avro';
  readonly subject: string;
  /** As it stands in its file. */
  readonly text: string;
  readonly file: string;
  readonly references: readonly { readonly name: string; readonly subject: string; readonly text: string }[];
  readonly compatibility: CompatibilityLevel;
}

export interface QuotaSpec {
  readonly bytesPerSecond: number | undefined;
  readonly recordsPerSecond: number | undefined;
  /** Seconds of the rate that may go at once after a quiet time. */
  readonly burstSeconds: number;
  readonly weight: number;
}

export interface Produces {
  readonly topic: string;
  readonly quota: QuotaSpec | undefined;
  readonly onExpiry: 'hold' | 'refuse';
  readonly at: Place;
  /** Where one of its keys stands. */
  readonly where: (...keys: readonly string[]) => Place;
}

export interface Consumes {
  readonly topic: string;
  readonly group: string;
  readonly quota: QuotaSpec | undefined;
  readonly onExpiry: 'hold' | 'refuse';
  readonly at: Place;
  /** Where one of its keys stands. */
  readonly where: (...keys: readonly string[]) => Place;
}

export interface ServiceEnvironment {
  readonly principals: readonly string[];
  readonly maxInstances: number;
  readonly enforcement: EnforcementMode;
  readonly at: Place;
}

export interface ServiceResource extends Resource {
  readonly kind: 'Service';
  /** "external": it doesn't use the SDK; it gets ACLs, quotas and schema checks, no grant and no code. */
  readonly runtime: 'sdk' | 'external';
  /** How it proves itself on the local platform. */
  readonly identity: 'mtls' | 'oauth';
  readonly produces: readonly Produces[];
  readonly consumes: readonly Consumes[];
  readonly environments: Readonly<Record<string, ServiceEnvironment>>;
  /** The folder that generated code goes to. */
  readonly generated: string;
  /** Public keys (JWK) that may sign its grants. */
  readonly rootKeys: readonly Readonly<Record<string, string>>[];
}

export interface ClusterResource extends Resource {
  readonly kind: 'Cluster';
  readonly replicationFactor: number | undefined;
  readonly environments: Readonly<Record<string, { readonly id: string; readonly mtls: readonly string[]; readonly oauth: readonly string[] }>>;
}

export type AnyResource = TopicResource | ServiceResource | ClusterResource;

/** What one turnpike.yaml says, and the topics and clusters of those that it imports. */
export interface Manifest {
  /** The folder that it lies in, where its lock goes. */
  readonly folder: string;
  /** The files that were read, the importing ones first. */
  readonly files: readonly string[];
  readonly topics: readonly TopicResource[];
  readonly services: readonly ServiceResource[];
  readonly clusters: readonly ClusterResource[];
  /** Of other teams' files. */
  readonly imported: { readonly topics: readonly TopicResource[]; readonly clusters: readonly ClusterResource[] };
}

/** The cluster as this manifest, or one that it imports, declares it. */
export function clusterOf(manifest: Manifest, name: string): ClusterResource | undefined {
  return [...manifest.clusters, ...manifest.imported.clusters].find((c) => c.name === name);
}

/** What a service is in an environment; undefined = it isn't there. */
export function environmentOf(service: ServiceResource, name: string): ServiceEnvironment | undefined {
  return Object.hasOwn(service.environments, name) ? service.environments[name] : undefined;
}

/** Every topic that a service uses, once, by name. */
export function topicNames(service: ServiceResource): string[] {
  return [...new Set([...service.produces, ...service.consumes].map((e) => e.topic))].sort();
}

export function topicOf(manifest: Manifest, name: string): TopicResource | undefined {
  return manifest.topics.find((t) => t.name === name) ?? manifest.imported.topics.find((t) => t.name === name);
}
