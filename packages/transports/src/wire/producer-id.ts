import { initProducerIdV4 } from '@platformatic/kafka';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import type { Connections, Purpose } from './connections.ts';
import type { Where } from './errors.ts';
import type { Metadata } from './metadata.ts';

/** A producer id for idempotent batches outside of transactions, from any broker. Rejects with AUTHORIZATION_FAILED where this identity gets none: it may write to no topic at all. */
export async function askProducerId(metadata: Metadata, connections: Connections, purpose: Purpose, facts: Pick<Where, 'principal'> = {}): Promise<bigint> {
  const where = { ...facts, doing: 'get a producer id', written: 'no' } as const;
  const args: Parameters<typeof initProducerIdV4.createRequest> = [null as unknown as string, 0];
  let last: TurnpikeError | undefined;
  for (const address of metadata.addresses()) {
    try {
      return (await connections.call(address, purpose, initProducerIdV4.api, args, where)).producerId;
    } catch (error) {
      last = asTurnpikeError(error, 'INTERNAL', where.doing);
      if (!last.retriable) throw last;
    }
  }
  throw last ?? new TurnpikeError('BROKER_UNAVAILABLE', 'No broker is known to get a producer id from.', { retriable: true, written: 'no' });
}
