import { metadataV12 } from '@platformatic/kafka';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type LinkContext, pause } from '@turnpike/core/spi';
import type { Address, Connections } from './connections.ts';
import { brokerError, final, responseIn } from './errors.ts';

export interface PartitionMetadata {
  readonly partition: number;
  /** -1 = none at the moment. */
  readonly leader: number;
  readonly leaderEpoch: number;
  readonly replicas: readonly number[];
  readonly isr: readonly number[];
}

export interface TopicMetadata {
  readonly name: string;
  readonly id: string;
  readonly internal: boolean;
  readonly partitions: readonly PartitionMetadata[];
}

export interface BrokerAddress extends Address {
  readonly id: number;
  readonly rack?: string;
}

type Response = Awaited<ReturnType<typeof metadataV12.api.async>>;
/** A topic that was created a moment ago may not be known to every broker yet. */
const UNKNOWN_TOPIC_PATIENCE_MS = 1_500;
const RETRY_MS = 100;
/** Of `topicAuthorizedOperations` (KIP-430), by AclOperation's codes. */
const OPERATION_BITS = { read: 1 << 3, write: 1 << 4 } as const;

/** Where brokers and leaders are, as one identity may see it. */
export class Metadata {
  readonly #context: LinkContext;
  readonly #connections: Connections;
  readonly #bootstrap: readonly Address[];
  readonly #topics = new Map<string, TopicMetadata>();
  /** What was ever asked for and isn't there: asked for again with each refresh. */
  readonly #gone = new Map<string, TurnpikeError>();
  /** Addresses that did not answer: asked last. */
  readonly #silent = new Set<string>();
  readonly #listeners = new Set<() => void>();
  readonly #maxAgeMs: number;
  #brokers = new Map<number, BrokerAddress>();
  #refreshing: { readonly names: ReadonlySet<string>; readonly done: Promise<ReadonlyMap<string, TurnpikeError>> } | undefined;
  #timer: Disposable | undefined;
  #closed = false;
  clusterId: string | undefined;
  controller = -1;

  constructor(context: LinkContext, connections: Connections, maxAgeMs: number) {
    this.#context = context;
    this.#connections = connections;
    this.#maxAgeMs = maxAgeMs;
    this.#bootstrap = context.cluster.bootstrap.map(parseAddress);
    this.#schedule();
  }

  topic(name: string): TopicMetadata | undefined {
    return this.#topics.get(name);
  }

  /** Why a topic that was known is not any more: it was deleted. */
  gone(topic: string): TurnpikeError | undefined {
    return this.#gone.get(topic);
  }

  leader(topic: string, partition: number): number {
    return this.#topics.get(topic)?.partitions[partition]?.leader ?? -1;
  }

  /** Of the leader that leader() names; -1 = not known. */
  leaderEpoch(topic: string, partition: number): number {
    return this.#topics.get(topic)?.partitions[partition]?.leaderEpoch ?? -1;
  }

  broker(id: number): BrokerAddress | undefined {
    return this.#brokers.get(id);
  }

  brokers(): readonly BrokerAddress[] {
    return [...this.#brokers.values()];
  }

  /** Any broker: those known, then the bootstrap addresses. */
  addresses(): readonly Address[] {
    const known = this.brokers();
    const isKnown = (a: Address) => known.some((k) => k.host === a.host && k.port === a.port);
    const all = [...known, ...this.#bootstrap.filter((a) => !isKnown(a))];
    return [...all.filter((a) => !this.#silent.has(textOf(a))), ...all.filter((a) => this.#silent.has(textOf(a)))];
  }

  /** Called after each refresh. */
  onRefresh(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) };
  }

  /** Makes these topics known and keeps them fresh. Rejects with AUTHORIZATION_FAILED, TOPIC_UNKNOWN, BROKER_UNAVAILABLE. */
  async require(names: readonly string[]): Promise<void> {
    const { clock } = this.#context;
    const until = clock.monotonic() + UNKNOWN_TOPIC_PATIENCE_MS;
    for (;;) {
      const missing = names.filter((n) => !this.#topics.has(n));
      if (missing.length === 0) return;
      const errors = await this.refresh(missing);
      const error = missing.map((n) => errors.get(n)).find((e) => e !== undefined);
      if (error === undefined) continue;
      if (!error.retriable || clock.monotonic() >= until) throw final(error);
      await pause(clock, RETRY_MS);
    }
  }

  /** Asks a broker for these topics and those known; several callers share one request. What could not be had is in the answer. */
  async refresh(names: readonly string[] = []): Promise<ReadonlyMap<string, TurnpikeError>> {
    while (this.#refreshing) {
      const { names: asked, done } = this.#refreshing;
      const errors = await done;
      if (names.every((n) => asked.has(n))) return errors;
    }
    const asked = new Set([...names, ...this.#topics.keys(), ...this.#gone.keys()]);
    const done = this.#ask([...asked]).finally(() => {
      this.#refreshing = undefined;
    });
    this.#refreshing = { names: asked, done };
    return done;
  }

  /** All topics that this identity may see. */
  async list(): Promise<readonly string[]> {
    const response = await this.#request(null);
    return response.topics.flatMap((t) => (t.errorCode === 0 && t.name ? [t.name] : []));
  }

  /** Without keeping them. */
  async describe(names: readonly string[]): Promise<{ readonly topics: readonly TopicMetadata[]; readonly errors: ReadonlyMap<string, TurnpikeError> }> {
    const response = await this.#request(names);
    const topics: TopicMetadata[] = [];
    const errors = new Map<string, TurnpikeError>();
    for (const topic of response.topics) {
      const name = topic.name ?? '';
      if (topic.errorCode === 0) topics.push(topicOf(name, topic));
      else errors.set(name, brokerError(topic.errorCode, { doing: `see ${name}`, topic: name, principal: this.#context.identity.principal, written: 'no' }));
    }
    return { topics, errors };
  }

  /** Of these topics those that this identity may not read, or write; the broker tells so with TOPIC_AUTHORIZATION_FAILED (29). */
  async denied(operation: keyof typeof OPERATION_BITS, names: readonly string[]): Promise<readonly TurnpikeError[]> {
    const { principal } = this.#context.identity;
    const { topics } = await this.#request(names, { rights: true });
    const isDenied = (t: Response['topics'][number]) =>
      t.errorCode === 29 || (t.errorCode === 0 && (t.topicAuthorizedOperations & OPERATION_BITS[operation]) === 0);
    return topics.filter(isDenied).map(({ name }) => brokerError(29, { doing: `${operation} ${name}`, topic: name ?? '', principal, written: 'no' }));
  }

  close(): void {
    this.#closed = true;
    this.#timer?.[Symbol.dispose]();
    this.#listeners.clear();
  }

  async #ask(names: readonly string[]): Promise<ReadonlyMap<string, TurnpikeError>> {
    const { topics, errors } = await this.describe(names);
    for (const topic of topics) {
      this.#topics.set(topic.name, topic);
      this.#gone.delete(topic.name);
    }
    for (const [name, error] of errors)
      if (error.code === 'TOPIC_UNKNOWN' && this.#topics.delete(name)) {
        this.#gone.set(name, error);
        this.#context.logger.warn('metadata.topic_gone', { topic: name, message: error.message });
      }
    for (const listener of this.#listeners) listener();
    return errors;
  }

  async #request(names: readonly string[] | null, { rights = false } = {}): Promise<Response> {
    let last: unknown;
    for (const address of this.addresses()) {
      try {
        const response = this.#learn(await this.#from(address, names, rights));
        this.#silent.delete(textOf(address));
        return response;
      } catch (error) {
        const ours = asTurnpikeError(error, 'INTERNAL', 'metadata');
        if (!ours.retriable) throw ours;
        this.#silent.add(textOf(address));
        last = ours;
      }
    }
    throw last ?? new TurnpikeError('CONFIG_INVALID', `The cluster ${this.#context.cluster.name} has no address in its descriptor.`);
  }

  async #from(address: Address, names: readonly string[] | null, rights: boolean): Promise<Response> {
    try {
      return await this.#connections.call(address, 'metadata', metadataV12.api, [names as string[], false, rights], {
        doing: 'ask for its metadata',
        written: 'no',
      });
    } catch (error) {
      const response = responseIn<Response>(error);
      if (response === undefined) throw error;
      return response;
    }
  }

  #learn(response: Response): Response {
    const { cluster } = this.#context;
    const id = response.clusterId ?? undefined;
    if (cluster.id !== undefined && id !== cluster.id)
      throw new TurnpikeError(
        'CLUSTER_MISMATCH',
        `The descriptor of ${cluster.name} names the cluster ${cluster.id}, but ${id} answers at ${cluster.bootstrap.join(', ')}. Check TURNPIKE_CLUSTERS: nothing was sent.`,
        { cluster: cluster.name, written: 'no' },
      );
    this.clusterId = id;
    this.controller = response.controllerId;
    this.#brokers = new Map(response.brokers.map((b) => [b.nodeId, { id: b.nodeId, host: b.host, port: b.port, ...(b.rack ? { rack: b.rack } : {}) }]));
    return response;
  }

  #schedule(): void {
    this.#timer = this.#context.clock.after(this.#maxAgeMs, () => {
      void this.refresh()
        .catch((error: unknown) => this.#context.logger.debug('metadata.refresh_failed', { message: (error as Error).message }))
        .finally(() => {
          if (!this.#closed) this.#schedule();
        });
    });
  }
}

function topicOf(name: string, topic: Response['topics'][number]): TopicMetadata {
  const partitions: PartitionMetadata[] = [];
  for (const p of topic.partitions)
    partitions[p.partitionIndex] = { partition: p.partitionIndex, leader: p.leaderId, leaderEpoch: p.leaderEpoch, replicas: p.replicaNodes, isr: p.isrNodes };
  return { name, id: topic.topicId, internal: topic.isInternal, partitions };
}

const textOf = ({ host, port }: Address): string => `${host}:${port}`;

function parseAddress(text: string): Address {
  const at = text.lastIndexOf(':');
  return { host: text.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(text.slice(at + 1)) };
}
