import { TurnpikeError } from '../errors.ts';
import type { CompiledConsumerOptions, CompiledProducerOptions, Transport } from './transport.ts';

/** Asked before anything is opened: what a transport can't do must fail a deployment, not its first event. @throws TurnpikeError CAPABILITY_MISSING. */
export function requireCapabilities(
  { name, capabilities }: Pick<Transport, 'name' | 'capabilities'>,
  options: { readonly producer?: Partial<CompiledProducerOptions>; readonly consumer?: Partial<CompiledConsumerOptions> },
): void {
  const { producer = {}, consumer = {} } = options;
  const missing = (what: string, remedy: string): TurnpikeError =>
    new TurnpikeError('CAPABILITY_MISSING', `The ${name} transport has no ${what}; ${remedy}, or use a transport that has it (docs/transports.md).`);
  const { compression = 'none', idempotent, transactionalId } = producer;
  if (!capabilities.compression.includes(compression))
    throw missing(`${compression} compression`, `set producer.compression to ${capabilities.compression.join(' or ')}`);
  if (idempotent && !capabilities.idempotence) throw missing('idempotent producer', 'set producer.idempotent to false and accept duplicates');
  if (transactionalId !== undefined && !capabilities.transactions) throw missing('transactions', 'leave out producer.transactionalId');
  const { groupProtocol, instanceId, isolation } = consumer;
  if (groupProtocol && !capabilities.groupProtocols.includes(groupProtocol))
    throw missing(groupProtocol === 'consumer' ? 'KIP-848 groups' : 'classic groups', 'leave out consumer.groupProtocol');
  if (instanceId !== undefined && !capabilities.staticMembership) throw missing('static membership', 'leave out consumer.instanceId');
  if (isolation === 'read_committed' && !capabilities.readCommitted) throw missing('read_committed', 'leave out consumer.isolation');
}
