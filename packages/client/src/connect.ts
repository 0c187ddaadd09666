import { CleanUp, compileConsumerOptions, compileProducerOptions, type GroupConsumer, iterate, TurnpikeError } from '@turnpike/core';
import { type ClusterDescriptor, type Identity, noTelemetry, type Serde, type Telemetry, type Transport } from '@turnpike/core/spi';
import { accessPolicy, quotaGates } from '@turnpike/policy';
import { confluentSerde, grantIds, localIds, registryClient, registryIds, type SchemaIds, stringSerde } from '@turnpike/schema';
import { openTelemetry } from '@turnpike/telemetry';
import { ClusterConnection } from './cluster-connection.ts';
import { clusterFor, readDescriptors } from './clusters.ts';
import type { AnyTopic, ServiceContract } from './generated.ts';
import { type GrantInForce, resolveRights } from './grant.ts';
import { environmentOf } from './identity.ts';
import { type ConnectOptions, readSettings, type Settings } from './settings.ts';
import { onShutdown } from './shutdown.ts';
import type { Consumer, ConsumerInit, Consumes, EventOf, GroupOf, InputOf, Kafka, KeyOf, Producer, Produces, TypedSendOptions } from './types.ts';

/** Connects a service, as its generated contract describes it, to the clusters that it uses.
 *
 *  Reads options and environment once; proves the identity; verifies the grant against the contract's root keys; reaches each cluster; looks up the ids of the pinned schemas.
 *  So what is wrong with a deployment fails here, each step within `connectTimeoutMs`, with a TurnpikeError that says what to do: CONFIG_INVALID, IDENTITY_INVALID, TOKEN_UNAVAILABLE,
 *  PRINCIPAL_MISMATCH, GRANT_MISSING, GRANT_INVALID, GRANT_EXPIRED, TLS_FAILED, AUTHENTICATION_FAILED, AUTHORIZATION_FAILED, BROKER_UNAVAILABLE, CLUSTER_MISMATCH,
 *  TOPIC_UNKNOWN, SCHEMA_UNKNOWN, SCHEMA_UNAVAILABLE, CAPABILITY_MISSING. */
export async function connect<P extends Produces, C extends Consumes>(service: ServiceContract<P, C>, options: ConnectOptions = {}): Promise<Kafka<P, C>> {
  const settings = readSettings(options);
  const environment = environmentOf(service, settings);
  const cleanUp = new CleanUp();
  try {
    const { identity, grant } = await resolveRights(service, environment, settings, cleanUp);
    const clusters = await openClusters(service, { settings, environment, identity, grant, cleanUp });
    return new Connection(service, { settings, environment, identity, clusters, cleanUp }) as Kafka<P, C>;
  } catch (error) {
    await cleanUp[Symbol.asyncDispose]().catch(() => {}); // What went wrong first is what the caller can mend.
    throw error;
  }
}

interface Opening {
  readonly settings: Settings;
  readonly environment: string;
  readonly identity: Identity;
  readonly grant: GrantInForce;
  readonly cleanUp: CleanUp;
}

async function openClusters(service: ServiceContract, opening: Opening): Promise<Map<string, ClusterConnection>> {
  const { settings, environment, identity, grant, cleanUp } = opening;
  const { clock, logger, onQuota: onExceeded } = settings;
  const { transport } = settings;
  const produced = Object.values(service.produces);
  const names = [...new Set([...produced, ...Object.values(service.consumes).map((c) => c.topic)].map((t) => t.cluster))];
  const descriptors = await descriptorsOf(transport, settings);
  const telemetry = telemetryOf(settings, service.name);
  const serdes = serdesOf(idsOf(transport, opening));
  const opened = await Promise.allSettled(
    names.map(async (name) => {
      const claims = () => grant.claims();
      const gates = quotaGates({ claims, cluster: name, clock, logger, onExceeded });
      const connection = await ClusterConnection.open(
        {
          cluster: descriptors ? clusterFor(name, { environment, descriptors, identity }) : { name, bootstrap: [] },
          transport,
          identity,
          clientId: settings.clientId ?? service.name,
          connectTimeoutMs: settings.connectTimeoutMs,
          access: accessPolicy({ claims, cluster: name, clock, logger }),
          gate: gates,
          fetchGate: gates,
          telemetry,
          logger,
          clock,
          stages: settings.stages,
          producer: compileProducerOptions({ ...settings.producer, minLingerMs: Math.max(settings.producer.minLingerMs ?? 0, claims().minLingerMs ?? 0) }),
          serdes,
        },
        produced.filter((topic) => topic.cluster === name),
      );
      cleanUp.use(connection);
      return [name, connection] as const;
    }),
  );
  const failed = opened.find((o) => o.status === 'rejected');
  if (failed) throw failed.reason;
  return new Map(opened.map((o) => (o as PromiseFulfilledResult<readonly [string, ClusterConnection]>).value));
}

/** undefined = none are needed: the memory transport reaches nobody. */
async function descriptorsOf(transport: Transport, settings: Settings): Promise<readonly ClusterDescriptor[] | undefined> {
  if (settings.clusters !== undefined) return readDescriptors(settings.clusters);
  if (transport.name === 'memory') return undefined;
  throw new TurnpikeError('CONFIG_INVALID', 'No cluster descriptors: set TURNPIKE_CLUSTERS to their file; the platform injects it (locally: turnpike dev).');
}

/** What the options ask for; also for a guard, which has no connection. */
export function telemetryOf(settings: Settings, clientId: string): Telemetry {
  const { telemetry, logger, clock } = settings;
  if (telemetry === 'off') return noTelemetry;
  return 'process' in telemetry ? telemetry : openTelemetry({ clientId: settings.clientId ?? clientId, logger, now: () => clock.now(), ...telemetry });
}

/** Ids are the registry's own and differ by environment: from the grant, else looked up by text; never from another registry, never registered. */
function idsOf(transport: Transport, { settings, identity, grant }: Opening): SchemaIds {
  if (settings.registry !== undefined) {
    const { clock, logger } = settings;
    return grantIds(grant.claims().schemas, registryIds(registryClient({ url: settings.registry, http: identity.http, clock, logger })));
  }
  if (transport.name === 'memory') return localIds();
  return grantIds(grant.claims().schemas);
}

function serdesOf(ids: SchemaIds): (topic: AnyTopic) => { key: Serde<unknown>; value: Serde<unknown> } {
  const made = new Map<AnyTopic, { key: Serde<unknown>; value: Serde<unknown> }>();
  return (topic) => {
    const found = made.get(topic) ?? {
      key: stringSerde() as Serde<unknown>,
      value: confluentSerde({ codec: topic.value.codec(), text: topic.value.text, ids, topic: topic.name }) as Serde<unknown>,
    };
    made.set(topic, found);
    return found;
  };
}

interface ConnectionInit {
  readonly settings: Settings;
  readonly environment: string;
  readonly identity: Identity;
  readonly clusters: ReadonlyMap<string, ClusterConnection>;
  readonly cleanUp: CleanUp;
}

class Connection implements Kafka<Produces, Consumes> {
  readonly principal: string;
  readonly environment: string;
  readonly #service: ServiceContract;
  readonly #init: ConnectionInit;
  readonly #producers = new Map<string, Producer<unknown, unknown>>();
  readonly #consumers = new Set<GroupConsumer>();
  readonly #signals: Disposable;
  #closing: Promise<void> | undefined;
  /** Handlers that are still draining may get producers. */
  #handlersDone = false;

  constructor(service: ServiceContract, init: ConnectionInit) {
    this.principal = init.identity.principal;
    this.environment = init.environment;
    this.#service = service;
    this.#init = init;
    this.#signals = onShutdown(init.settings.shutdownSignals, () => this.close());
  }

  producer<T extends string>(name: T): Producer<InputOf<AnyTopic>, KeyOf<AnyTopic>> {
    if (this.#handlersDone) throw closed();
    const topic = Object.hasOwn(this.#service.produces, name) ? this.#service.produces[name] : undefined;
    if (!topic) throw undeclared(this.#service, name, 'produces');
    const existing = this.#producers.get(name);
    if (existing) return existing;
    // One that is closed makes room for another: the connection outlives it.
    const made = typedProducer(topic, this.#cluster(topic), () => this.#producers.delete(name));
    this.#producers.set(name, made);
    return made;
  }

  consumer<T extends string>(names: readonly T[], init: ConsumerInit<GroupOf<Consumes, T>> = {}): Consumer<EventOf<Consumes, T>> {
    if (this.#closing) throw closed();
    if (!Array.isArray(names))
      throw new TurnpikeError('CONFIG_INVALID', `consumer() takes an array of topics${typeof names === 'string' ? `: consumer(['${names}'])` : ''}.`);
    if (names.length === 0) throw new TurnpikeError('CONFIG_INVALID', 'consumer() needs at least one topic.');
    const { consumes } = this.#service;
    const declared = names.map((name) => (Object.hasOwn(consumes, name) && consumes[name]) || fail(undeclared(this.#service, name, 'consumes')));
    const topics = declared.map((d) => d.topic);
    const { group: asked, ...options } = init;
    const group = asked ?? soleGroup(declared, names);
    for (const [i, d] of declared.entries())
      if (!d.groups.includes(group))
        throw new TurnpikeError('CONFIG_INVALID', `turnpike.yaml declares no group ${group} for ${names[i]}; it has ${d.groups.join(', ')}.`, { group });
    const [first = fail(new TurnpikeError('CONFIG_INVALID', 'consumer() needs at least one topic.'))] = topics;
    const elsewhere = topics.find((t) => t.cluster !== first.cluster);
    if (elsewhere)
      throw new TurnpikeError(
        'CONFIG_INVALID',
        `${first.name} is on the cluster ${first.cluster} and ${elsewhere.name} on ${elsewhere.cluster}; a group lives on one cluster: use a consumer for each.`,
      );
    const consumer = this.#cluster(first).consumer(topics, compileConsumerOptions(group, { ...this.#init.settings.consumer, ...options }));
    this.#consumers.add(consumer);
    return typedConsumer(group, consumer, () => this.#consumers.delete(consumer)) as Consumer<EventOf<Consumes, T>>;
  }

  async flush(signal?: AbortSignal): Promise<void> {
    await Promise.all([...this.#producers.values()].map((p) => p.flush(signal)));
  }

  close(): Promise<void> {
    this.#closing ??= this.#closeInOrder().catch((error: unknown) => {
      this.#init.settings.logger.error('connection.close_failed', { message: error instanceof Error ? error.message : String(error) });
      throw error;
    });
    return this.#closing;
  }

  /** Consumers first: what their handlers still send is flushed after them. What fails keeps nothing else open. */
  async #closeInOrder(): Promise<void> {
    const consumers = await Promise.allSettled([...this.#consumers].map((c) => c.close()));
    this.#handlersDone = true;
    const producers = await Promise.allSettled([...this.#producers.values()].map((p) => p.close()));
    const rest = await Promise.allSettled([this.#init.cleanUp[Symbol.asyncDispose]()]);
    this.#signals[Symbol.dispose]();
    const failed = [...consumers, ...producers, ...rest].find((r) => r.status === 'rejected');
    if (failed) throw failed.reason;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #cluster(topic: AnyTopic): ClusterConnection {
    return this.#init.clusters.get(topic.cluster) ?? fail(new TurnpikeError('INTERNAL', `${topic.name}: no connection to the cluster ${topic.cluster}.`));
  }
}

function typedProducer(topic: AnyTopic, cluster: ClusterConnection, onClose: () => void): Producer<unknown, unknown> {
  const producer = cluster.producer(topic);
  return {
    topic: topic.name,
    send: (event, options) => producer.send(event, options),
    post: (event, onError, options) => producer.post(event, onError, options),
    ready: () => producer.ready(),
    sendBatch: (events, options) => producer.sendBatch(events, options),
    tombstone: (key, options) => producer.send(null, { ...options, key }),
    flush: (signal) => producer.flush(signal),
    close: () => {
      onClose();
      return producer.close();
    },
    [Symbol.asyncDispose]: () => producer.flush(),
  } satisfies Producer<unknown, unknown> & { send(event: unknown, options?: TypedSendOptions<unknown>): Promise<unknown> };
}

function typedConsumer(group: string, consumer: GroupConsumer, onEnd: () => void): Consumer<unknown> {
  const close = () => consumer.close().finally(onEnd);
  /** Of the one run that a consumer has; another, and one that is refused, ends nothing. */
  const ending = (run: () => Promise<void>) => {
    const before = consumer.started;
    const running = run();
    return !before && consumer.started ? running.finally(onEnd) : running;
  };
  return {
    group,
    run: (handler) => ending(() => consumer.run(handler as Parameters<GroupConsumer['run']>[0])),
    runBatch: (handler, options) => ending(() => consumer.runBatch(handler as Parameters<GroupConsumer['runBatch']>[0], options)),
    close,
    async *[Symbol.asyncIterator]() {
      const before = consumer.started;
      try {
        yield* iterate(consumer);
      } finally {
        if (!before) onEnd();
      }
    },
    [Symbol.asyncDispose]: close,
  };
}

function soleGroup(declared: readonly { readonly groups: readonly string[] }[], names: readonly string[]): string {
  const groups = [...new Set(declared.flatMap((d) => d.groups))];
  if (groups.length === 1 && groups[0] !== undefined) return groups[0];
  throw new TurnpikeError(
    'CONFIG_INVALID',
    `turnpike.yaml declares the groups ${groups.join(', ')} for ${names.join(', ')}; say which: consumer(topics, { group }).`,
  );
}

function undeclared(service: ServiceContract, topic: string, what: 'produces' | 'consumes'): TurnpikeError {
  const known = Object.keys(service[what]).join(', ') || 'nothing';
  return new TurnpikeError(
    'TOPIC_UNDECLARED',
    `${service.name} ${what} ${known}, not ${topic}. Declare it under ${what} in turnpike.yaml and run turnpike generate.`,
    { topic, written: 'no' },
  );
}

const closed = (): TurnpikeError => new TurnpikeError('CLOSED', 'The connection is closed; connect() again.', { written: 'no' });

function fail(error: TurnpikeError): never {
  throw error;
}
