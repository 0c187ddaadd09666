import { TurnpikeError } from '../errors.ts';
import type { HeaderEntry } from '../headers.ts';
import type { AclBinding, AclOperation, AclResourceType, ClientQuota } from '../spi/admin.ts';
import { MemoryGroup } from './group.ts';

export interface StoredRecord {
  readonly offset: bigint;
  readonly key: Buffer | null;
  readonly value: Buffer | null;
  readonly headers: readonly HeaderEntry[] | undefined;
  readonly timestampMs: number;
}

export interface MemoryTopic {
  readonly partitions: StoredRecord[][];
  readonly configs: Map<string, string>;
}

/** A request, as a fault sees it. */
export interface FaultPoint {
  /** "produce" strikes before the records are written, "acknowledge" after: as when a connection is cut before the answer has come. */
  readonly operation: 'produce' | 'acknowledge' | 'fetch' | 'commit' | 'metadata';
  readonly topic?: string;
  readonly partition?: number;
}

export interface MemoryClusterOptions {
  readonly id?: string;
  /** Topics that exist from the start: name -> number of partitions. */
  readonly topics?: Readonly<Record<string, number>>;
  /** Refuse what no ACL allows, as a broker with StandardAuthorizer does; principals without `User:` that may do everything. Default: everybody may. */
  readonly authorizer?: { readonly superUsers: readonly string[] };
}

/** A cluster in this process's memory: partitions, offsets, groups, ACLs, and the means to break it. Shared by the links that `memoryTransport({ cluster })` makes. */
export class MemoryCluster {
  readonly id: string;
  readonly topics = new Map<string, MemoryTopic>();
  readonly groups = new Map<string, MemoryGroup>();
  readonly acls: AclBinding[] = [];
  readonly quotas = new Map<string, ClientQuota['values']>();
  /** Called before each request: throws (or rejects) what the request shall fail with; waiting in it delays the answer. Retriable errors are retried until the record's deadline. */
  fault: ((point: FaultPoint) => void | Promise<void>) | undefined;
  readonly #superUsers: ReadonlySet<string> | undefined;
  readonly #waiters = new Set<() => void>();

  constructor(options: MemoryClusterOptions = {}) {
    this.id = options.id ?? 'memory';
    this.#superUsers = options.authorizer && new Set(options.authorizer.superUsers);
    for (const [name, partitions] of Object.entries(options.topics ?? {})) this.createTopic(name, partitions);
  }

  /** @throws TurnpikeError CONFIG_INVALID when it exists or the number isn't positive. */
  createTopic(name: string, partitions: number, configs: Readonly<Record<string, string>> = {}): void {
    if (this.topics.has(name)) throw new TurnpikeError('BROKER_REJECTED', `${name} exists already.`, { topic: name, kafkaError: 'TOPIC_ALREADY_EXISTS' });
    if (!Number.isInteger(partitions) || partitions < 1)
      throw new TurnpikeError('CONFIG_INVALID', `${name}: partitions is ${partitions}; it must be a whole number from 1.`, { topic: name });
    this.topics.set(name, { partitions: Array.from({ length: partitions }, () => []), configs: new Map(Object.entries(configs)) });
    for (const group of this.groups.values()) group.topicsChanged();
    this.changed();
  }

  /** With its records and the offsets that groups have committed in it. */
  deleteTopic(name: string): void {
    this.topic(name);
    this.topics.delete(name);
    for (const group of this.groups.values()) group.topicDeleted(name);
    this.changed();
  }

  addPartitions(name: string, partitions: number): void {
    const topic = this.topic(name);
    if (partitions < topic.partitions.length)
      throw new TurnpikeError('BROKER_REJECTED', `${name} has ${topic.partitions.length} partitions; the number can only grow.`, {
        topic: name,
        kafkaError: 'INVALID_PARTITIONS',
      });
    while (topic.partitions.length < partitions) topic.partitions.push([]);
    for (const group of this.groups.values()) group.topicsChanged();
    this.changed();
  }

  topic(name: string): MemoryTopic {
    const topic = this.topics.get(name);
    if (!topic)
      throw new TurnpikeError('TOPIC_UNKNOWN', `${name} does not exist on the cluster; the platform team creates it with turnpike apply.`, {
        topic: name,
        kafkaError: 'UNKNOWN_TOPIC_OR_PARTITION',
      });
    return topic;
  }

  append(topic: string, partition: number, records: readonly Omit<StoredRecord, 'offset'>[]): bigint {
    const log = this.topic(topic).partitions[partition];
    if (!log) throw new TurnpikeError('PARTITION_UNKNOWN', `${topic} has no partition ${partition}.`, { topic, partition });
    const base = log.length;
    for (const [i, record] of records.entries()) log.push({ ...record, offset: BigInt(base + i) });
    this.changed();
    return BigInt(base);
  }

  /** All records of a topic, as a test reads them back. */
  records(topic: string): readonly StoredRecord[] {
    return this.topic(topic).partitions.flat();
  }

  group(name: string): MemoryGroup {
    const group = this.groups.get(name) ?? new MemoryGroup(name, this);
    this.groups.set(name, group);
    return group;
  }

  authorized(principal: string, operation: AclOperation, resourceType: AclResourceType, resourceName: string): boolean {
    if (!this.#superUsers || this.#superUsers.has(principal)) return true;
    const matching = this.acls.filter(
      (a) =>
        (a.principal === `User:${principal}` || a.principal === 'User:*') &&
        a.resourceType === resourceType &&
        (a.pattern === 'prefixed' ? resourceName.startsWith(a.resourceName) : a.resourceName === '*' || a.resourceName === resourceName) &&
        // Kafka: the right to read or write implies the right to describe (AclAuthorizer, KIP-11).
        (a.operation === operation || a.operation === 'all' || (operation === 'describe' && ['read', 'write', 'delete', 'alter'].includes(a.operation))),
    );
    return matching.some((a) => a.permission === 'allow') && !matching.some((a) => a.permission === 'deny');
  }

  /** Resolves at the next change of anything, for consumers that wait for records. */
  onChange(listener: () => void): Disposable {
    this.#waiters.add(listener);
    return { [Symbol.dispose]: () => this.#waiters.delete(listener) };
  }

  changed(): void {
    for (const listener of [...this.#waiters]) listener();
  }
}
