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
import { KafkajsConsumer } from './kafkajs/consumer.ts';
import { type LibraryModule, loadLibrary } from './kafkajs/library.ts';
import { KafkajsProduceDriver } from './kafkajs/produce.ts';
import { Control } from './wire/control.ts';
import { COMPRESSIONS } from './wire/record-batch.ts';

export interface KafkajsOptions {
  /** How old the knowledge of leaders and partitions may grow, in ms (>= 1000). Default 60_000: an error refreshes it at once; this is for partitions that were added. */
  readonly metadataMaxAgeMs?: number;
}

/** Records and groups through kafkajs, a peer that the service installs; administration, and what kafkajs doesn't tell, over the wire transport's link beside it. For services that know kafkajs and stay with it.
 *
 *  What differs from the wire transport: groups rebalance eagerly, so every member gives up all of its partitions, drained and committed, whenever one joins or leaves; members are assigned partitions as kafkajs does it ("RoundRobinAssigner"), so a group
 *  may have members that use kafkajs bare, and none that use the wire transport; of a batch that holds records which the broker finds invalid all fail.
 *  @throws TurnpikeError CONFIG_INVALID. */
export function kafkajsTransport(options: KafkajsOptions = {}): Transport {
  const read = new OptionReader('kafkajsTransport', options);
  const metadataMaxAgeMs = read.number('metadataMaxAgeMs', { min: 1_000, default: 60_000 });
  read.end();
  const capabilities: Capabilities = {
    quotaBasis: 'estimate',
    compression: COMPRESSIONS,
    idempotence: true,
    transactions: true,
    readCommitted: true,
    groupProtocols: ['classic'],
    cooperativeRebalance: false,
    staticMembership: false,
    reauthentication: true,
    throttleTime: true,
    nullHeaders: true,
    admin: true,
  };
  return { name: 'kafkajs', capabilities, connect: (context) => openLink(context, metadataMaxAgeMs) };
}

async function openLink(context: LinkContext, metadataMaxAgeMs: number): Promise<Link> {
  const library = await loadLibrary();
  return new KafkajsLink({ library, context, metadataMaxAgeMs, control: await Control.open(context, metadataMaxAgeMs) });
}

interface LinkParts {
  readonly library: LibraryModule;
  readonly context: LinkContext;
  readonly control: Control;
  readonly metadataMaxAgeMs: number;
}

class KafkajsLink implements Link {
  readonly admin: AdminPort;
  readonly #parts: LinkParts;
  readonly #ports = new Set<AsyncDisposable>();

  constructor(parts: LinkParts) {
    this.#parts = parts;
    this.admin = parts.control.admin;
  }

  get clusterId(): string | undefined {
    return this.#parts.control.clusterId;
  }

  async producer(options: CompiledProducerOptions): Promise<ProducerPort> {
    const { context, control } = this.#parts;
    if (options.transactionalId !== undefined) await control.requireTransactionalId(options.transactionalId);
    const driver = new KafkajsProduceDriver({ ...this.#parts, ...this.#brokers, options });
    const port: ProducerPort = this.#keep(accumulate(driver, context, options, () => this.#ports.delete(port)));
    return port;
  }

  consumer(options: CompiledConsumerOptions): ConsumerPort {
    const port: KafkajsConsumer = this.#keep(new KafkajsConsumer({ ...this.#parts, ...this.#brokers, options, onClosed: () => this.#ports.delete(port) }));
    return port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#ports].map((port) => port[Symbol.asyncDispose]()));
    await this.#parts.control[Symbol.asyncDispose]();
  }

  readonly #brokers = {
    addresses: (): readonly string[] => this.#parts.control.metadata.addresses().map(({ host, port }) => `${host}:${port}`),
    brokerAt: (host: string, port: number): number | undefined => this.#parts.control.metadata.brokers().find((b) => b.host === host && b.port === port)?.id,
  };

  #keep<T extends AsyncDisposable>(port: T): T {
    this.#ports.add(port);
    return port;
  }
}
