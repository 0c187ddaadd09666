import { randomUUID } from 'node:crypto';
import { type Identity, silentLogger, systemClock } from '@turnpike/core/spi';
import { oauthIdentity } from '@turnpike/identity';
import { Missing, type OAuthFiles } from '../job.ts';
import { requireRegistryPeer } from '../registry-peers.ts';

/** A group of its own for each process: it reads from the beginning. */
export const newGroup = (): string => `bench-${randomUUID()}`;

let identity: Promise<Identity & AsyncDisposable> | undefined;

export function identityOf(oauth: OAuthFiles): Promise<Identity & AsyncDisposable> {
  identity ??= oauthIdentity({ ...oauth, clock: systemClock, logger: silentLogger });
  return identity;
}

/** For peers, which are given a token and don't ask for one themselves. */
export const tokenOf = async (oauth: OAuthFiles) => (await identityOf(oauth)).token();

/** The package that a client serializes with. @throws Missing */
export function registryPackage<T>(client: string, name: string): T {
  try {
    return requireRegistryPeer(client)(name) as T;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'MODULE_NOT_FOUND') throw new Missing(`${name} isn't installed`);
    throw error;
  }
}
