import { OptionReader, TurnpikeError } from '@turnpike/core';
import {
  type AdminPort,
  accumulate,
  type Capabilities,
  type Clock,
  type CompiledConsumerOptions,
  type CompiledProducerOptions,
  type ConsumerPort,
  type Link,
  type LinkContext,
  type ProducerPort,
  pause,
  type Transport,
} from '@turnpike/core/spi';
import { wireAdmin } from './wire/admin.ts';
import { Connections } from './wire/connections.ts';
import { WireConsumer } from './wire/consumer.ts';
import { Metadata } from './wire/metadata.ts';
import { WireProduceDriver } from './wire/produce.ts';
import { COMPRESSIONS } from './wire/record-batch.ts';

export interface WireOptions {
  /** How old the knowledge of leaders and partitions may grow, in ms (>= 1000). Default 60_000: an error refreshes it at once; this is for partitions that were added. */
  readonly metadataMaxAgeMs?: number;
}

const RETRY_MS = 200;
const ADMIN_TIMEOUT_MS = 20_000;
/** Any broker can answer for the cluster: one that is slow is left for the next. */
const METADATA_TIMEOUT_MS = 4_000;

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
    admin: true,
  };
  return { name: 'wire', capabilities, connect: (context) => openLink(context, metadataMaxAgeMs) };
}

async function openLink(context: LinkContext, metadataMaxAgeMs: number): Promise<Link> {
  const { clock, cluster, connectTimeoutMs } = context;
  const connections = new Connections(context, (purpose) => (purpose === 'metadata' ? METADATA_TIMEOUT_MS : ADMIN_TIMEOUT_MS));
  const metadata = new Metadata(context, connections, metadataMaxAgeMs);
  const link = new WireLink(context, connections, metadata);
  const until = clock.monotonic() + connectTimeoutMs;
  try {
    for (;;) {
      try {
        await answerBefore(until, clock, metadata.refresh(), cluster.name);
        return link;
      } catch (error) {
        // A broker that is just restarting deserves a second try; a refused identity doesn't.
        if (!(error as TurnpikeError).retriable || clock.monotonic() + RETRY_MS >= until) throw error;
        context.logger.debug('broker.unavailable', { cluster: cluster.name, message: (error as Error).message });
        await pause(clock, RETRY_MS);
      }
    }
  } catch (error) {
    await link[Symbol.asyncDispose]();
    throw error;
  }
}

/** Several addresses that swallow what they get would each take their own timeout. */
async function answerBefore(until: number, clock: Clock, answer: Promise<unknown>, cluster: string): Promise<void> {
  const over = new AbortController();
  const late = pause(clock, Math.max(until - clock.monotonic(), 0), over.signal).then(() => {
    if (!over.signal.aborted)
      throw new TurnpikeError('BROKER_UNAVAILABLE', `No broker of ${cluster} answered in time; check the addresses in its descriptor.`, {
        cluster,
        retriable: true,
      });
  });
  await Promise.race([answer, late]).finally(() => over.abort());
}

class WireLink implements Link {
  readonly admin: AdminPort;
  readonly #context: LinkContext;
  readonly #connections: Connections;
  readonly #metadata: Metadata;
  readonly #ports = new Set<AsyncDisposable>();

  constructor(context: LinkContext, connections: Connections, metadata: Metadata) {
    this.#context = context;
    this.#connections = connections;
    this.#metadata = metadata;
    this.admin = wireAdmin(context, metadata, connections);
  }

  get clusterId(): string | undefined {
    return this.#metadata.clusterId;
  }

  async producer(options: CompiledProducerOptions): Promise<ProducerPort> {
    if (options.transactionalId !== undefined) throw missing('transactions', 'leave out producer.transactionalId');
    if (!COMPRESSIONS.includes(options.compression)) throw missing(`${options.compression} compression`, `use one of ${COMPRESSIONS.join(', ')}`);
    const connections = new Connections(this.#context, () => options.requestTimeoutMs);
    const driver = new WireProduceDriver(this.#context, this.#metadata, connections, options);
    return this.#keep(accumulate(driver, this.#context, options));
  }

  consumer(options: CompiledConsumerOptions): ConsumerPort {
    if (options.groupProtocol !== 'classic') throw missing('KIP-848 groups', 'leave out consumer.groupProtocol');
    if (options.instanceId !== undefined) throw missing('static membership', 'leave out consumer.instanceId');
    const { requestTimeoutMs, rebalanceTimeoutMs, fetchWaitMs } = options;
    const extra = { group: rebalanceTimeoutMs, fetch: fetchWaitMs } as Partial<Record<string, number>>;
    const connections = new Connections(this.#context, (purpose) => requestTimeoutMs + (extra[purpose] ?? 0));
    const port: WireConsumer = this.#keep(new WireConsumer(this.#context, this.#metadata, connections, options, () => this.#ports.delete(port)));
    return port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#ports].map((port) => port[Symbol.asyncDispose]()));
    this.#metadata.close();
    await this.#connections[Symbol.asyncDispose]();
  }

  #keep<T extends AsyncDisposable>(port: T): T {
    this.#ports.add(port);
    return port;
  }
}

const missing = (what: string, remedy: string): TurnpikeError =>
  new TurnpikeError('CAPABILITY_MISSING', `The wire transport has no ${what} yet; ${remedy}, or use a transport whose capabilities list it.`);
