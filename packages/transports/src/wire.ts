import { accumulate, type Capabilities, type CommitOffset, type Link, type LinkContext, type Transport } from '@turnpike/core/spi';
import { linkOver, type MetadataOptions, metadataMaxAgeOf } from './link.ts';
import { COMPRESSIONS } from './wire/batch-writer.ts';
import { Connections } from './wire/connections.ts';
import { WireConsumer } from './wire/consumer.ts';
import { Control } from './wire/control.ts';
import { WireProduceDriver } from './wire/produce.ts';
import { type OffsetsOfMember, WireTransactions } from './wire/transaction.ts';

export type WireOptions = MetadataOptions;

/** The default transport: TypeScript all the way to the socket, over @platformatic/kafka's connections and codecs. Needs Apache Kafka 3.3 or newer.
 *  @throws TurnpikeError CONFIG_INVALID. */
export function wireTransport(options: WireOptions = {}): Transport {
  const metadataMaxAgeMs = metadataMaxAgeOf('wireTransport', options);
  const capabilities: Capabilities = {
    quotaBasis: 'wire',
    compression: COMPRESSIONS,
    idempotence: true,
    transactions: true,
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
  const consumers = new Set<WireConsumer>();
  return linkOver(control, {
    producer: async (options, onClosed, closing) => {
      const { metadata } = control;
      const { requestTimeoutMs, transactionalId } = options;
      const connections = new Connections(context, () => requestTimeoutMs);
      if (transactionalId === undefined) return accumulate(new WireProduceDriver(context, metadata, connections, options), context, options, onClosed);
      const byMember = (group: string, offsets: readonly CommitOffset[]) => offsetsByMember(consumers, group, offsets);
      const transaction = new WireTransactions({ context, metadata, connections, options, transactionalId, byMember });
      const driver = new WireProduceDriver(context, metadata, connections, options, transaction);
      const giveUp = () => void driver[Symbol.asyncDispose]();
      closing.addEventListener('abort', giveUp);
      try {
        await transaction.init();
      } catch (error) {
        await driver[Symbol.asyncDispose]();
        throw error;
      } finally {
        closing.removeEventListener('abort', giveUp);
      }
      return accumulate(driver, context, options, onClosed);
    },
    consumer: (options, onClosed) => {
      const { requestTimeoutMs, rebalanceTimeoutMs, fetchWaitMs } = options;
      const extra = { group: rebalanceTimeoutMs, fetch: fetchWaitMs } as Partial<Record<string, number>>;
      const connections = new Connections(context, (purpose) => requestTimeoutMs + (extra[purpose] ?? 0));
      const consumer: WireConsumer = new WireConsumer(context, control.metadata, connections, options, () => {
        consumers.delete(consumer);
        onClosed();
      });
      consumers.add(consumer);
      return consumer;
    },
  });
}

/** Each member commits what it owns; what none does is the first one's, whom the group refuses. */
function offsetsByMember(consumers: Iterable<WireConsumer>, group: string, offsets: readonly CommitOffset[]): readonly OffsetsOfMember[] {
  const members = [...consumers].filter((c) => c.group === group && c.isMember);
  const byOwner = Map.groupBy(offsets, (o) => members.find((c) => c.owns(o)) ?? members[0]);
  return [...byOwner].map(([member, of]) => ({ member: member?.committer(of), offsets: of }));
}
