import { type DrainGate, type Identity, type Link, type Logger, openGate, type SettledBatch, silentLogger, systemClock } from '@turnpike/core/spi';
import type { CertificateAuthority } from '@turnpike/testing';
import { wireTransport } from '@turnpike/transports/wire';
import type { FakeBroker } from './fake-broker.ts';

/** The wire transport at a fake broker, whose certificates are this authority's; each record is told how it ended. */
export function linkTo(
  broker: FakeBroker,
  { ca }: CertificateAuthority,
  onSettled: (batches: readonly SettledBatch[]) => void = () => {},
  gate: DrainGate = openGate,
  logger: Logger = silentLogger,
): Promise<Link> {
  const identity = { kind: 'mtls', principal: 'svc', tls: () => ({ ca }), onChange: () => ({ [Symbol.dispose]: () => {} }) } as unknown as Identity;
  return wireTransport().connect({
    cluster: { name: 'fake', bootstrap: broker.bootstrap },
    identity,
    clientId: 'svc',
    connectTimeoutMs: 5_000,
    clock: systemClock,
    logger,
    gate,
    fetchGate: openGate,
    events: {
      settled(batches) {
        onSettled(batches);
        for (const b of batches) for (const [i, p] of b.pendings.entries()) b.error ? p.fail(b.error) : p.acknowledge(b, i);
      },
      retried: () => {},
      wrote: () => {},
      throttled: () => {},
    },
  });
}

/** The same numbers from 0 to 1 for the same seed. */
export const random = (seed: number) => () => {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
  return seed / 2 ** 32;
};
