import { accumulate, type Capabilities, type Link, type LinkContext, type Transport } from '@turnpike/core/spi';
import { ConfluentConsumer } from './confluent/consumer.ts';
import { loadLibrary } from './confluent/library.ts';
import { ConfluentProduceDriver } from './confluent/produce.ts';
import { linkOver, type MetadataOptions, metadataMaxAgeOf } from './link.ts';
import { Control } from './wire/control.ts';

export type ConfluentOptions = MetadataOptions;

/** Records over Confluent's client (librdkafka), which the service installs: `npm install @confluentinc/kafka-javascript`. Administration, and what the library
 *  hides, go over a wire link beside it. Needs Apache Kafka 3.3 or newer. @throws TurnpikeError CONFIG_INVALID. */
export function confluentTransport(options: ConfluentOptions = {}): Transport {
  const metadataMaxAgeMs = metadataMaxAgeOf('confluentTransport', options);
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
  return { name: 'confluent', capabilities, connect: (context) => openLink(context, metadataMaxAgeMs) };
}

async function openLink(context: LinkContext, metadataMaxAgeMs: number): Promise<Link> {
  const library = await loadLibrary();
  const control = await Control.open(context, metadataMaxAgeMs);
  const parts = { context, control, library, metadataMaxAgeMs };
  const consumers = new Set<ConfluentConsumer>();
  return linkOver(control, {
    producer: async (options, onClosed) => {
      const memberOf = (group: string) => [...consumers].find((c) => c.group === group)?.client;
      return accumulate(await ConfluentProduceDriver.open({ ...parts, options, memberOf }), context, options, onClosed);
    },
    consumer: (options, onClosed) => {
      const consumer: ConfluentConsumer = new ConfluentConsumer({
        ...parts,
        options,
        onClosed: () => {
          consumers.delete(consumer);
          onClosed();
        },
      });
      consumers.add(consumer);
      return consumer;
    },
  });
}
