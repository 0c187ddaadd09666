import { accumulate, type Capabilities, type Link, type LinkContext, type Transport } from '@turnpike/core/spi';
import { linkOver, type MetadataOptions, metadataMaxAgeOf } from './link.ts';
import { Connections } from './wire/connections.ts';
import { WireConsumer } from './wire/consumer.ts';
import { Control } from './wire/control.ts';
import { WireProduceDriver } from './wire/produce.ts';
import { COMPRESSIONS } from './wire/record-batch.ts';

export type WireOptions = MetadataOptions;

/** The default transport: TypeScript all the way to the socket, over @platformatic/kafka's connections and codecs. Needs Apache Kafka 3.3 or newer.
 *  @throws TurnpikeError CONFIG_INVALID. */
export function wireTransport(options: WireOptions = {}): Transport {
  const metadataMaxAgeMs = metadataMaxAgeOf('wireTransport', options);
  const capabilities: Capabilities = {
    quotaBasis: 'wire',
    compression: COMPRESSIONS,
    idempotence: true,
    transactions: false,
    readCommitted: true,
    groupProtocols: ['classic', 'consumer'],
    cooperativeRebalance: true,
    staticMembership: true,
    reauthentication: true,
    throttleTime: true,
    nullHeaders: true,
    admin: true,
  };
  return { name: 'wire', capabilities, connect: (context) => openLink(context, metadataMaxAgeMs) };
}

async function openLink(context: LinkContext, metadataMaxAgeMs: number): Promise<Link> {
  const control = await Control.open(context, metadataMaxAgeMs);
  return linkOver(control, {
    producer: async (options, onClosed) => {
      const connections = new Connections(context, () => options.requestTimeoutMs);
      return accumulate(new WireProduceDriver(context, control.metadata, connections, options), context, options, onClosed);
    },
    consumer: (options, onClosed) => {
      const { requestTimeoutMs, rebalanceTimeoutMs, fetchWaitMs } = options;
      const extra = { group: rebalanceTimeoutMs, fetch: fetchWaitMs } as Partial<Record<string, number>>;
      const connections = new Connections(context, (purpose) => requestTimeoutMs + (extra[purpose] ?? 0));
      return new WireConsumer(context, control.metadata, connections, options, onClosed);
    },
  });
}
