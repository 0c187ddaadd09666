import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { CleanUp, TurnpikeError } from '@turnpike/core';
import type { AdminPort, ClusterDescriptor } from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { developmentKey, LOCAL_ENVIRONMENT } from '@turnpike/policy';
import { registryClient } from '@turnpike/schema';
import type { Platform } from '@turnpike/testing';
import { openAdmin } from '../admin.ts';
import { applyManifest } from '../apply/apply.ts';
import { issueGrants } from '../grant/issue.ts';
import type { Manifest, ServiceResource } from '../manifest/model.ts';

export interface LocalInit {
  readonly platform: Platform;
  readonly manifests: readonly Manifest[];
  /** Administration of a cluster elsewhere, such as a memory cluster's; then no descriptors are written. Default: the platform's own brokers. */
  readonly admin?: AdminPort;
  /** Where grants, descriptors and variables go; made with mode 0700. */
  readonly folder: string;
  readonly onProgress?: (line: string) => void;
}

export interface LocalService {
  readonly name: string;
  readonly principal: string;
  readonly grantFile: string;
  /** The variables that connect() reads, and a file of them for `node --env-file`. */
  readonly env: Readonly<Record<string, string>>;
  readonly envFile: string;
}

/** Applies manifests to a local platform and issues the grants of their services, signed with the development key: what the platform team's pipeline does elsewhere. */
export async function prepareLocal(init: LocalInit): Promise<readonly LocalService[]> {
  const { platform, manifests, folder } = init;
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const clustersFile = writeDescriptors(init);
  await applyAll(init);
  const services: LocalService[] = [];
  for (const manifest of manifests)
    for (const service of manifest.services)
      if (service.runtime === 'sdk') services.push(await writeService(manifest, service, { platform, folder, clustersFile }));
  return services;
}

/** Every logical cluster is the one that is there. */
function writeDescriptors({ platform, manifests, folder, admin }: LocalInit): string | undefined {
  if (admin) return undefined;
  const site = platform.cluster;
  if (!site) throw new TurnpikeError('CONFIG_INVALID', 'The local platform was started without Kafka; start it with it.');
  const names = [...new Set(manifests.flatMap((m) => [...m.topics, ...m.imported.topics].map((t) => t.cluster)))];
  const descriptors: ClusterDescriptor[] = names.map((name) => ({ name, epoch: 1, primary: site }));
  const file = path.join(folder, 'clusters.json');
  writeFileSync(file, `${JSON.stringify(descriptors, null, 2)}\n`);
  return file;
}

async function applyAll({ platform, manifests, admin: given, onProgress = () => {} }: LocalInit): Promise<void> {
  await using cleanUp = new CleanUp();
  const identity = cleanUp.use(await mtlsIdentity(platform.admin.mtls));
  const bootstrap = platform.cluster?.bootstrap.mtls ?? [];
  const admin = given ?? cleanUp.use(await openAdmin({ name: LOCAL_ENVIRONMENT, bootstrap, id: platform.cluster?.id ?? '' }, identity)).admin;
  const registry = registryClient({ url: platform.registryUrl, http: identity.http });
  for (const manifest of manifests) await applyManifest(manifest, { environment: LOCAL_ENVIRONMENT, admin: () => admin, registry, onChange: onProgress });
}

async function writeService(
  manifest: Manifest,
  service: ServiceResource,
  { platform, folder, clustersFile }: { readonly platform: Platform; readonly folder: string; readonly clustersFile: string | undefined },
): Promise<LocalService> {
  const [grant] = await issueGrants(manifest, service, {
    environment: LOCAL_ENVIRONMENT,
    issuer: 'turnpike dev',
    nowMs: Date.now(),
    key: { key: developmentKey.privateJwk },
  });
  if (!grant)
    throw new TurnpikeError(
      'MANIFEST_INVALID',
      `${service.name} has no principal in the environment ${LOCAL_ENVIRONMENT}; give it one, or leave that environment out.`,
    );
  const grantFile = path.join(folder, `${service.name}.grant`);
  writeFileSync(grantFile, `${grant.token}\n`);
  const env = {
    TURNPIKE_ENV: LOCAL_ENVIRONMENT,
    TURNPIKE_GRANT: grantFile,
    ...(clustersFile === undefined ? {} : { TURNPIKE_CLUSTERS: clustersFile }),
    ...(await platform.environment(grant.principal, service.identity)),
  };
  const envFile = path.join(folder, `${service.name}.env`);
  writeFileSync(
    envFile,
    Object.entries(env)
      .map(([k, v]) => `${k}=${v}\n`)
      .join(''),
  );
  return { name: service.name, principal: grant.principal, grantFile, env, envFile };
}
