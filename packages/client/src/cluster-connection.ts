import {
  type CompiledConsumer,
  type CompiledProducer,
  GroupConsumer,
  isTurnpikeError,
  Scratch,
  type Stage,
  StickyPartition,
  settleRecords,
  TopicProducer,
} from '@turnpike/core';
import {
  type AccessPolicy,
  type Clock,
  type ClusterRef,
  type DrainGate,
  type FetchGate,
  type Identity,
  type Link,
  type Logger,
  type ProducerPort,
  requireCapabilities,
  type Serde,
  type Telemetry,
  type Transport,
} from '@turnpike/core/spi';
import type { AnyTopic } from './generated.ts';

export interface ClusterLayers {
  readonly cluster: ClusterRef;
  readonly transport: Transport;
  readonly identity: Identity;
  readonly clientId: string;
  readonly connectTimeoutMs: number;
  readonly access: AccessPolicy;
  readonly gate: DrainGate;
  readonly fetchGate: FetchGate;
  readonly telemetry: Telemetry;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly stages: readonly Stage[];
  readonly producer: CompiledProducer;
  readonly serdes: (topic: AnyTopic) => { readonly key: Serde<unknown>; readonly value: Serde<unknown> };
}

/** One cluster as this service sees it: a link, the producer that all its topics share, and its policy. */
export class ClusterConnection implements AsyncDisposable {
  readonly #layers: ClusterLayers;
  readonly #link: Link;
  readonly #port: ProducerPort;
  readonly #scratch = new Scratch();

  private constructor(layers: ClusterLayers, link: Link, port: ProducerPort) {
    this.#layers = layers;
    this.#link = link;
    this.#port = port;
  }

  /** Reaches the cluster and makes the granted topics ready, so that a missing topic, ACL or schema fails a deployment and not its first event. */
  static async open(layers: ClusterLayers, produced: readonly AnyTopic[]): Promise<ClusterConnection> {
    const { cluster, transport, identity, clientId, connectTimeoutMs, clock, logger, gate, fetchGate, telemetry } = layers;
    const events = settleRecords(telemetry, (broker, ms) => logger.debug('broker.throttled', { broker, ms }));
    const link = await transport.connect({ cluster, identity, clientId, connectTimeoutMs, clock, logger, gate, fetchGate, events });
    try {
      const port = await link.producer(layers.producer);
      const connection = new ClusterConnection(layers, link, port);
      await connection.#warm(produced.filter((topic) => connection.#granted(topic)));
      return connection;
    } catch (error) {
      await link[Symbol.asyncDispose]();
      throw error;
    }
  }

  producer(topic: AnyTopic): TopicProducer {
    const { access, gate, telemetry, clock, stages, producer } = this.#layers;
    const { key, value } = this.#layers.serdes(topic);
    return new TopicProducer({
      topic: topic.name,
      keyOf: topic.key.format === 'string' ? topic.key.of : undefined,
      key,
      value,
      stages,
      access,
      gate,
      telemetry,
      clock,
      port: this.#port,
      scratch: this.#scratch,
      sticky: new StickyPartition({ random: Math.random, switchBytes: 16_384 }),
      options: producer,
    });
  }

  consumer(topics: readonly AnyTopic[], options: CompiledConsumer): GroupConsumer {
    const { access, telemetry, clock, logger, transport } = this.#layers;
    requireCapabilities(transport, { consumer: options });
    const serdes = new Map(topics.map((topic) => [topic.name, this.#layers.serdes(topic)]));
    return new GroupConsumer({ topics: serdes, access, telemetry, clock, logger, port: this.#link.consumer(options), options });
  }

  flush(signal?: AbortSignal): Promise<void> {
    return this.#port.flush(signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#port[Symbol.asyncDispose]();
    await this.#link[Symbol.asyncDispose]();
  }

  async #warm(topics: readonly AnyTopic[]): Promise<void> {
    await Promise.all(topics.map((topic) => this.#layers.serdes(topic).value.ready()));
    if (topics.length > 0) await this.#port.warm(topics.map((topic) => topic.name));
  }

  /** What the grant refuses needs no metadata: send() says so itself, to the caller who tries. */
  #granted(topic: AnyTopic): boolean {
    try {
      this.#layers.access.produce(topic.name);
      return true;
    } catch (error) {
      if (isTurnpikeError(error)) return false;
      throw error;
    }
  }
}
