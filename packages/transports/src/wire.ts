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
import { Connections } from './wire/connections.ts';
import { WireConsumer } from './wire/consumer.ts';
import { Control } from './wire/control.ts';
import { WireProduceDriver } from './wire/produce.ts';
import { COMPRESSIONS } from './wire/record-batch.ts';

export interface WireOptions {
  /** How old the knowledge of leaders and partitions may grow, in ms (>= 1000). Default 60_000: an error refreshes it at once; this is for partitions that were added. */
  readonly metadataMaxAgeMs?: number;
}

/** The default transport: TypeScript all the way to the socket, over @platformatic/kafka's connections and codecs. Needs Apache Kafka 3.3 or newer.
 *  @throws TurnpikeError CONFIG_INVALID. */
export function wireTransport(options: WireOptions = {}): Transport {
  const read = new OptionReader('wireTransport', options);
  const metadataMaxAgeMs = read.number('metadataMaxAgeMs', { min: 1_000, default: 60_000 });
  read.end();
  const capabilities: Capabilities = {
    quotaBasis: 'estimate',
    compression: COMPRESSIONS,
    idempotence: true,
    transactions: false,
    readCommitted: true,
    groupProtocols: ['classic'],
    cooperativeRebalance: true,
    staticMembership: false,
    reauthentication: true,
    throttleTime: true,
    nullHeaders: true,
    admin: true,
  };
  return { name: 'wire', capabilities, connect: (context) => openLink(context, metadataMaxAgeMs) };
}

async function openLink(context: LinkContext, metadataMaxAgeMs: number): Promise<Link> {
  return new WireLink(context, await Control.open(context, metadataMaxAgeMs));
}

class WireLink implements Link {
  readonly admin: AdminPort;
  readonly #context: LinkContext;
  readonly #control: Control;
  readonly #ports = new Set<AsyncDisposable>();

  constructor(context: LinkContext, control: Control) {
    this.#context = context;
    this.#control = control;
    this.admin = control.admin;
  }

  get clusterId(): string | undefined {
    return this.#control.clusterId;
  }

  async producer(options: CompiledProducerOptions): Promise<ProducerPort> {
    const connections = new Connections(this.#context, () => options.requestTimeoutMs);
    const driver = new WireProduceDriver(this.#context, this.#control.metadata, connections, options);
    const port: ProducerPort = this.#keep(accumulate(driver, this.#context, options, () => this.#ports.delete(port)));
    return port;
  }

  consumer(options: CompiledConsumerOptions): ConsumerPort {
    const { requestTimeoutMs, rebalanceTimeoutMs, fetchWaitMs } = options;
    const extra = { group: rebalanceTimeoutMs, fetch: fetchWaitMs } as Partial<Record<string, number>>;
    const connections = new Connections(this.#context, (purpose) => requestTimeoutMs + (extra[purpose] ?? 0));
    const port: WireConsumer = this.#keep(new WireConsumer(this.#context, this.#control.metadata, connections, options, () => this.#ports.delete(port)));
    return port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#ports].map((port) => port[Symbol.asyncDispose]()));
    await this.#control[Symbol.asyncDispose]();
  }

  #keep<T extends AsyncDisposable>(port: T): T {
    this.#ports.add(port);
    return port;
  }
}
