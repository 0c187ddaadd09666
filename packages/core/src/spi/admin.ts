import type { TurnpikeError } from '../errors.ts';
import type { CommitOffset, SeekTarget, TopicPartition } from './transport.ts';

/** The outcome of one item of a batched request; `error` absent = done. */
export interface ItemResult {
  readonly name: string;
  readonly error?: TurnpikeError;
}

export interface TopicSpec {
  readonly name: string;
  readonly partitions: number;
  readonly replicationFactor: number;
  readonly configs?: Readonly<Record<string, string>>;
}

export interface TopicDescription {
  readonly name: string;
  readonly id?: string;
  readonly internal: boolean;
  readonly partitions: readonly {
    readonly partition: number;
    readonly leader: number;
    readonly replicas: readonly number[];
    readonly isr: readonly number[];
  }[];
}

export interface ConfigEntry {
  readonly name: string;
  readonly value: string | null;
  /** Set on the topic itself, not inherited. */
  readonly own: boolean;
}

export type AclResourceType = 'topic' | 'group' | 'cluster' | 'transactionalId';
export type AclOperation =
  | 'all'
  | 'read'
  | 'write'
  | 'create'
  | 'delete'
  | 'alter'
  | 'describe'
  | 'clusterAction'
  | 'describeConfigs'
  | 'alterConfigs'
  | 'idempotentWrite';

/** KIP-11, KIP-290. */
export interface AclBinding {
  readonly resourceType: AclResourceType;
  readonly resourceName: string;
  readonly pattern: 'literal' | 'prefixed';
  /** With its type: `User:flight-ops`. */
  readonly principal: string;
  readonly host: string;
  readonly operation: AclOperation;
  readonly permission: 'allow' | 'deny';
}

/** The same text for the same binding. */
export const aclKey = (b: AclBinding): string => [b.principal, b.permission, b.operation, b.resourceType, b.pattern, b.resourceName, b.host].join(' ');

export type QuotaKey = 'producer_byte_rate' | 'consumer_byte_rate' | 'request_percentage' | 'controller_mutation_rate';

/** A client quota of one user (KIP-546); a value of null removes it. Bytes per second, per broker. */
export interface ClientQuota {
  readonly user: string;
  readonly values: Readonly<Partial<Record<QuotaKey, number | null>>>;
}

export interface GroupDescription {
  readonly group: string;
  readonly state: string;
  readonly members: readonly { readonly memberId: string; readonly clientId: string; readonly host: string; readonly partitions: readonly TopicPartition[] }[];
}

/** Administration over the same connection, identity and errors. Batched: one request for many items, an outcome each, in their order. */
export interface AdminPort {
  cluster(): Promise<{
    readonly id: string;
    readonly controller: number;
    readonly brokers: readonly { readonly id: number; readonly host: string; readonly port: number; readonly rack?: string }[];
  }>;
  listTopics(): Promise<readonly string[]>;
  /** Topics that don't exist are left out. */
  describeTopics(names: readonly string[]): Promise<readonly TopicDescription[]>;
  createTopics(topics: readonly TopicSpec[]): Promise<readonly ItemResult[]>;
  createPartitions(counts: readonly { readonly topic: string; readonly partitions: number }[]): Promise<readonly ItemResult[]>;
  deleteTopics(names: readonly string[]): Promise<readonly ItemResult[]>;
  topicConfigs(names: readonly string[]): Promise<ReadonlyMap<string, readonly ConfigEntry[]>>;
  /** Incremental (KIP-339); null deletes a key. */
  alterTopicConfigs(changes: readonly { readonly topic: string; readonly set: Readonly<Record<string, string | null>> }[]): Promise<readonly ItemResult[]>;
  acls(): Promise<readonly AclBinding[]>;
  createAcls(bindings: readonly AclBinding[]): Promise<void>;
  deleteAcls(bindings: readonly AclBinding[]): Promise<void>;
  quotas(): Promise<readonly ClientQuota[]>;
  alterQuotas(quotas: readonly ClientQuota[]): Promise<void>;
  listGroups(): Promise<readonly string[]>;
  describeGroups(groups: readonly string[]): Promise<readonly GroupDescription[]>;
  deleteGroups(groups: readonly string[]): Promise<readonly ItemResult[]>;
  groupOffsets(group: string): Promise<readonly CommitOffset[]>;
  offsets(partitions: readonly TopicPartition[], target: SeekTarget): Promise<readonly CommitOffset[]>;
}
