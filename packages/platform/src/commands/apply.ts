import { openEnvironment } from '@turnpike/client/environment';
import { CleanUp, TurnpikeError } from '@turnpike/core';
import type { AdminPort } from '@turnpike/core/spi';
import { registryClient } from '@turnpike/schema';
import { openAdmin } from '../admin.ts';
import { applyManifest } from '../apply/apply.ts';
import { desiredClusters } from '../apply/desired.ts';
import { loadManifest } from '../manifest/load.ts';

export async function apply({ file, env: name }: { readonly file: string; readonly env: string }): Promise<void> {
  const manifest = loadManifest(file);
  await using cleanUp = new CleanUp();
  const environment = cleanUp.use(await openEnvironment({ environment: name }));
  if (environment.registry === undefined) throw new TurnpikeError('CONFIG_INVALID', 'No registry: set TURNPIKE_REGISTRY to its URL.');
  const registry = registryClient({ url: environment.registry, http: environment.identity.http });
  const admins = new Map<string, AdminPort>();
  for (const cluster of desiredClusters(manifest, name)) {
    const { admin } = cleanUp.use(await openAdmin(environment.cluster(cluster.name), environment.identity));
    admins.set(cluster.name, admin);
  }
  const changes = await applyManifest(manifest, {
    environment: name,
    admin: (c) => admins.get(c) as AdminPort,
    registry,
    onChange: (line) => console.log(`+ ${line}`),
  });
  console.log(changes.length === 0 ? `${name} is as ${file} says` : `${changes.length} changes applied to ${name}`);
}
