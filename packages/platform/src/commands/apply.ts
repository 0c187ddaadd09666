import { type Environment, openEnvironment } from '@turnpike/client/environment';
import { CleanUp, isTurnpikeError, TurnpikeError } from '@turnpike/core';
import type { AdminPort } from '@turnpike/core/spi';
import { LOCAL_ENVIRONMENT } from '@turnpike/policy';
import { registryClient } from '@turnpike/schema';
import { openAdmin } from '../admin.ts';
import { applyManifest } from '../apply/apply.ts';
import { desiredClusters } from '../apply/desired.ts';
import { clusterRefused } from '../apply/refused.ts';
import { clusterDescriptors, requireEnvironment } from '../clusters.ts';
import { localised } from '../dev/localised.ts';
import { loadManifest } from '../manifest/load.ts';
import type { Manifest } from '../manifest/model.ts';

export async function apply({ file, env: name }: { readonly file: string; readonly env: string }): Promise<void> {
  const manifest = loadManifest(file);
  requireEnvironment(manifest, name);
  await using cleanUp = new CleanUp();
  const environment = cleanUp.use(await open(manifest, name));
  if (environment.registry === undefined) throw new TurnpikeError('CONFIG_INVALID', 'No registry: set TURNPIKE_REGISTRY to its URL.');
  const registry = registryClient({ url: environment.registry, http: environment.identity.http });
  const admins = new Map<string, AdminPort>();
  for (const cluster of desiredClusters(manifest, name)) {
    const opened = await openAdmin(environment.cluster(cluster.name), environment.identity).catch((error: unknown) => {
      throw process.env.TURNPIKE_CLUSTERS ? error : clusterRefused(error, manifest, { cluster: cluster.name, environment: name });
    });
    const { admin } = cleanUp.use(opened);
    admins.set(cluster.name, admin);
  }
  const { principal } = environment.identity;
  // Locally as turnpike dev has applied it: two replicas in sync of the one that there is would let nobody write.
  const applied = name === LOCAL_ENVIRONMENT ? localised(manifest, await fewestBrokers([...admins.values()])) : manifest;
  const changes = await applyManifest(applied, {
    environment: name,
    admin: (c) => admins.get(c) as AdminPort,
    registry,
    onChange: (line) => console.log(`+ ${line}`),
  }).catch((error: unknown) => {
    throw isTurnpikeError(error) && error.code === 'AUTHORIZATION_FAILED' ? notAllowed(error, { principal, environment: name }) : error;
  });
  console.log(changes.length === 0 ? `${name} is as ${file} says` : `${changes.length} ${changes.length === 1 ? 'change' : 'changes'} applied to ${name}`);
}

async function fewestBrokers(admins: readonly AdminPort[]): Promise<number> {
  const clusters = await Promise.all(admins.map((a) => a.cluster()));
  return Math.max(1, Math.min(...clusters.map((c) => c.brokers.length)));
}

/** To a service its error says to have it applied; here is who applies. */
function notAllowed(cause: TurnpikeError, { principal, environment }: { readonly principal: string; readonly environment: string }): TurnpikeError {
  const { topic, kafkaError } = cause.facts;
  const what = topic === undefined ? '' : ` (${topic}${kafkaError === undefined ? '' : `: ${kafkaError}`})`;
  return new TurnpikeError(
    'AUTHORIZATION_FAILED',
    `${principal} may not apply to ${environment}${what}. Run turnpike apply as the platform's own principal, as CI does, not as a service.`,
    { ...cause.facts, principal, cause },
  );
}

/** Addresses from TURNPIKE_CLUSTERS, as for a service; where that isn't set, the manifest's own. */
function open(manifest: Manifest, name: string): Promise<Environment> {
  if (process.env.TURNPIKE_CLUSTERS) return openEnvironment({ environment: name });
  const clusters = clusterDescriptors(manifest, name);
  const nowhere = desiredClusters(manifest, name).find((c) => !clusters.some((d) => d.name === c.name));
  if (nowhere)
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `Where is the cluster ${nowhere.name} in ${name}? Declare it (kind: Cluster, spec.environments.${name}.bootstrap), or set TURNPIKE_CLUSTERS to the file of its descriptor.`,
      { cluster: nowhere.name },
    );
  return openEnvironment({ environment: name, clusters });
}
