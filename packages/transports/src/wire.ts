import { TurnpikeError } from '@turnpike/core';
import type { Transport } from '@turnpike/core/spi';
export function wireTransport(): Transport {
  throw new TurnpikeError('INTERNAL', 'being written');
}
