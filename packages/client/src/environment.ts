import { TurnpikeError } from '@turnpike/core';
import type { ClusterDescriptor, ClusterRef, Identity } from '@turnpike/core/spi';
import { clusterFor, readDescriptors } from './clusters.ts';
import { identityOf, noIdentity } from './identity.ts';
import { type ConnectOptions, readSettings } from './settings.ts';

/** Who a process is and what it reaches, read as connect() reads it; for the platform's own tools, which have no service contract. */
export interface Environment extends AsyncDisposable {
  readonly name: string;
  readonly identity: Identity;
  readonly registry: string | undefined;
  /** @throws TurnpikeError CONFIG_INVALID: no descriptor, or no listener for this kind of identity. */
  cluster(name: string): ClusterRef;
}

export type EnvironmentOptions = Pick<ConnectOptions, 'environment' | 'identity' | 'clusters' | 'registry' | 'logger' | 'env'>;

/** Reads TURNPIKE_ENV, the identity's variables, TURNPIKE_CLUSTERS and TURNPIKE_REGISTRY. @throws TurnpikeError CONFIG_INVALID, IDENTITY_INVALID, TOKEN_UNAVAILABLE. */
export async function openEnvironment(options: EnvironmentOptions = {}): Promise<Environment> {
  const settings = readSettings(options);
  const { environment, clusters, registry } = settings;
  if (environment === undefined) throw new TurnpikeError('CONFIG_INVALID', 'No environment: say --env NAME, or set TURNPIKE_ENV.');
  const descriptors: readonly ClusterDescriptor[] = clusters === undefined ? [] : await readDescriptors(clusters);
  const found = await identityOf(settings);
  if (!found) throw noIdentity();
  return {
    name: environment,
    identity: found.identity,
    registry,
    cluster: (name) => clusterFor(name, { environment, descriptors, identity: found.identity }),
    [Symbol.asyncDispose]: async () => void (await found.own?.[Symbol.asyncDispose]()),
  };
}
