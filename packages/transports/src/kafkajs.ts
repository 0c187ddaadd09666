import { accumulate, type Capabilities, type Link, type LinkContext, type Transport } from '@turnpike/core/spi';
import { KafkajsConsumer } from './kafkajs/consumer.ts';
import { loadLibrary } from './kafkajs/library.ts';
import { KafkajsProduceDriver } from './kafkajs/produce.ts';
import { linkOver, type MetadataOptions, metadataMaxAgeOf } from './link.ts';
import { COMPRESSIONS } from './wire/batch-writer.ts';
import { Control } from './wire/control.ts';

export type KafkajsOptions = MetadataOptions;

/** Records and groups through kafkajs, a peer that the service installs; administration, and what kafkajs doesn't tell, over the wire transport's link beside it. For services that know kafkajs and stay with it.
 *
 *  What differs from the wire transport: groups rebalance eagerly, so every member gives up all of its partitions, drained and committed, whenever one joins or leaves; members are assigned partitions as kafkajs does it ("RoundRobinAssigner"), so a group
 *  may have members that use kafkajs bare, and none that use the wire transport; of a batch that holds records which the broker finds invalid all fail.
 *  @throws TurnpikeError CONFIG_INVALID. */
export function kafkajsTransport(options: KafkajsOptions = {}): Transport {
  const metadataMaxAgeMs = metadataMaxAgeOf('kafkajsTransport', options);
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
  const control = await Control.open(context, metadataMaxAgeMs);
  const { metadata } = control;
  const parts = {
    library,
    context,
    control,
    metadataMaxAgeMs,
    addresses: (): readonly string[] => metadata.addresses().map(({ host, port }) => `${host}:${port}`),
    brokerAt: (host: string, port: number): number | undefined => metadata.brokers().find((b) => b.host === host && b.port === port)?.id,
  };
  return linkOver(control, {
    producer: async (options, onClosed) => {
      if (options.transactionalId !== undefined) await control.requireTransactionalId(options.transactionalId);
      return accumulate(new KafkajsProduceDriver({ ...parts, options }), context, options, onClosed);
    },
    consumer: (options, onClosed) => new KafkajsConsumer({ ...parts, options, onClosed }),
  });
}
