import { TurnpikeError } from '@turnpike/core';
import type { ClusterDescriptor } from '@turnpike/core/spi';
import { environmentOf, type Manifest } from './manifest/model.ts';
import { meant, thereAre } from './manifest/words.ts';

/** The descriptors of an environment's clusters, as its Cluster resources say: what TURNPIKE_CLUSTERS names. The imported ones too. */
export function clusterDescriptors(manifest: Manifest, environment: string): readonly ClusterDescriptor[] {
  return [...manifest.clusters, ...manifest.imported.clusters].flatMap(({ name, environments }): ClusterDescriptor[] => {
    const site = Object.hasOwn(environments, environment) ? environments[environment] : undefined;
    if (!site) return [];
    const { id, mtls, oauth } = site;
    return [{ name, epoch: 1, primary: { id, bootstrap: { ...(mtls.length > 0 ? { mtls } : {}), ...(oauth.length > 0 ? { oauth } : {}) } } }];
  });
}

/** A misspelt environment would have nobody in it, and everything as it should be.
 *  @throws TurnpikeError CONFIG_INVALID: services or clusters are in environments, and none is in this one. */
export function requireEnvironment(manifest: Manifest, name: string): void {
  const clusters = [...manifest.clusters, ...manifest.imported.clusters];
  const known = new Set([...manifest.services, ...clusters].flatMap((r) => Object.keys(r.environments)));
  if (known.size === 0 || clusterDescriptors(manifest, name).length > 0 || manifest.services.some((s) => environmentOf(s, name))) return;
  throw new TurnpikeError(
    'CONFIG_INVALID',
    `Nothing in ${manifest.folder} is in an environment ${JSON.stringify(name)}${meant(name, known)}; ${thereAre(known)}. Correct --env, or add it there.`,
  );
}
