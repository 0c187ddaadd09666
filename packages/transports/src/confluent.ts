import { OptionReader } from '@turnpike/core';
import {
  type AdminPort,
  accumulate,
  type Capabilities,
  type CompiledConsumerOptions,
  type CompiledProducerOptions,
  type ConsumerPort,
  type Link,
  type LinkContext,
  type ProducerPort,
  type Transport,
} from '@turnpike/core/spi';
import { ConfluentConsumer } from './confluent/consumer.ts';
import { type Library, loadLibrary } from './confluent/library.ts';
import { ConfluentProduceDriver } from './confluent/produce.ts';
import { Control } from './wire/control.ts';

export interface ConfluentOptions {
  /** How old the knowledge of leaders and partitions may grow, in ms (>= 1000). Default 60_000: an error refreshes it at once; this is for partitions that were added. */
  readonly metadataMaxAgeMs?: number;
}

/** Records over Confluent's client (librdkafka), which the service installs: `npm install @confluentinc/kafka-javascript`. Administration, and what the library
 *  hides, go over a wire link beside it. Needs Apache Kafka 3.3 or newer. @throws TurnpikeError CONFIG_INVALID. */
export function confluentTransport(options: ConfluentOptions = {}): Transport {
  const read = new OptionReader('confluentTransport', options);
  const metadataMaxAgeMs = read.number('metadataMaxAgeMs', { min: 1_000, default: 60_000 });
  read.end();
  const capabilities: Capabilities = {
    quotaBasis: 'estimate',
    compression: ['none', 'gzip', 'snappy', 'lz4', 'zstd'],
    idempotence: true,
    transactions: true,
    readCommitted: true,
    groupProtocols: ['classic', 'consumer'],
    // Only what must move is asked back; but the library stops all of a member's fetches until it is given up, however long that takes.
    cooperativeRebalance: false,
    staticMembership: true,
    reauthentication: true,
    throttleTime: true,
    nullHeaders: false,
    admin: true,
  };
  return {
    name: 'confluent',
    capabilities,
    connect: async (context) => {
      const library = await loadLibrary();
      return new ConfluentLink(context, await Control.open(context, metadataMaxAgeMs), library, metadataMaxAgeMs);
    },
  };
}

class ConfluentLink implements Link {
  readonly admin: AdminPort;
  readonly #context: LinkContext;
  readonly #control: Control;
  readonly #library: Library;
  readonly #metadataMaxAgeMs: number;
  readonly #ports = new Set<AsyncDisposable>();

  constructor(context: LinkContext, control: Control, library: Library, metadataMaxAgeMs: number) {
    this.#context = context;
    this.#control = control;
    this.#library = library;
    this.#metadataMaxAgeMs = metadataMaxAgeMs;
    this.admin = control.admin;
  }

  get clusterId(): string | undefined {
    return this.#control.clusterId;
  }

  async producer(options: CompiledProducerOptions): Promise<ProducerPort> {
    let port: ProducerPort | undefined;
    const driver = await ConfluentProduceDriver.open({
      ...this.#parts(),
      options,
      memberOf: (group) => [...this.#ports].find((p): p is ConfluentConsumer => p instanceof ConfluentConsumer && p.group === group)?.client,
      onClosed: () => port && this.#ports.delete(port),
    });
    port = accumulate(driver, this.#context, options);
    this.#ports.add(port);
    return port;
  }

  consumer(options: CompiledConsumerOptions): ConsumerPort {
    const port: ConfluentConsumer = new ConfluentConsumer({ ...this.#parts(), options, onClosed: () => this.#ports.delete(port) });
    this.#ports.add(port);
    return port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#ports].map((port) => port[Symbol.asyncDispose]()));
    await this.#control[Symbol.asyncDispose]();
  }

  #parts() {
    return { context: this.#context, control: this.#control, library: this.#library, metadataMaxAgeMs: this.#metadataMaxAgeMs };
  }
}
