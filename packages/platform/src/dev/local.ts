import path from 'node:path';
import { CleanUp, TurnpikeError } from '@turnpike/core';
import type { AdminPort, ClusterDescriptor, ClusterSite, Identity } from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { developmentKey, LOCAL_ENVIRONMENT } from '@turnpike/policy';
import { type RegistryClient, registryClient } from '@turnpike/schema';
import { openAdmin } from '../admin.ts';
import { applyManifest } from '../apply/apply.ts';
import { issueGrants } from '../grant/issue.ts';
import type { Manifest, ServiceResource } from '../manifest/model.ts';
import { placeOf } from '../manifest/problems.ts';
import { envText } from './env-file.ts';
import { ADMIN_ENV_FILE, makeFolder, writeLocal } from './files.ts';
import { localised } from './localised.ts';

/** What is asked of a platform: that of `startPlatform()` in @turnpike/testing. Spelt out, since whoever imports these types need not have installed that. */
export interface LocalPlatform {
  /** undefined without Kafka. */
  readonly cluster: ClusterSite | undefined;
  readonly nodes: readonly unknown[];
  readonly registryUrl: string;
  /** The super user. */
  readonly admin: { readonly mtls: { readonly caFile: string; readonly certFile: string; readonly keyFile: string } };
  environment(name: string, kind: 'mtls' | 'oauth'): Promise<Record<string, string>>;
}

export interface LocalInit {
  readonly platform: LocalPlatform;
  readonly manifests: readonly Manifest[];
  /** Administration of a cluster elsewhere, such as a memory cluster's; then no descriptors are written. Default: the platform's own brokers. */
  readonly admin?: AdminPort;
  /** Where grants, descriptors and variables go; made with mode 0700. */
  readonly folder: string;
  readonly onProgress?: (line: string) => void;
  /** Told of every file when it has been written. */
  readonly onWritten?: (file: string, text: string) => void;
}

export interface LocalService {
  readonly name: string;
  readonly principal: string;
  /** How it proves itself. */
  readonly identity: 'mtls' | 'oauth';
  readonly grantFile: string;
  /** The variables that connect() reads, and a file of them for `node --env-file`. */
  readonly env: Readonly<Record<string, string>>;
  readonly envFile: string;
}

/** Applies manifests to a local platform and issues the grants of their services, signed with the development key: what the platform team's pipeline does elsewhere. Topics of other teams that
 *  the services use are there too, and nothing asks for more brokers than there are. */
export async function prepareLocal(init: LocalInit): Promise<readonly LocalService[]> {
  const { platform, folder } = init;
  const manifests = init.manifests.map((m) => localised(m, Math.max(1, platform.nodes.length)));
  makeFolder(folder);
  const write = (name: string, text: string): string => {
    const file = path.join(folder, name);
    writeLocal(file, text);
    init.onWritten?.(file, text);
    return file;
  };
  const clustersFile = writeDescriptors({ ...init, manifests }, write);
  await using cleanUp = new CleanUp();
  const identity = cleanUp.use(await mtlsIdentity(platform.admin.mtls));
  const registry = registryClient({ url: platform.registryUrl, http: identity.http });
  const admin = init.admin ?? cleanUp.use(await openSite(siteOf(platform), identity)).admin;
  for (const manifest of manifests)
    await applyManifest(manifest, { environment: LOCAL_ENVIRONMENT, admin: () => admin, registry, onChange: init.onProgress ?? (() => {}) });
  if (clustersFile !== undefined) write(ADMIN_ENV_FILE, envText(adminEnvironment(platform, clustersFile)));
  const services: LocalService[] = [];
  for (const manifest of manifests)
    for (const service of manifest.services) {
      if (service.runtime !== 'sdk') continue;
      if (`${service.name}.env` === ADMIN_ENV_FILE)
        throw new TurnpikeError(
          'MANIFEST_INVALID',
          `${service.name} is the local platform's super user (${placeOf(service.at)}); give the service another name.`,
        );
      if (services.some((s) => s.name === service.name))
        throw new TurnpikeError('CONFIG_INVALID', `${service.name} stands in two of the manifests (${placeOf(service.at)}); give one of them.`);
      services.push(await writeService(manifest, service, { platform, write, clustersFile, registry }));
    }
  return services;
}

/** As `turnpike apply` reads them. */
function adminEnvironment({ admin, registryUrl }: LocalPlatform, clustersFile: string): Record<string, string> {
  return {
    TURNPIKE_ENV: LOCAL_ENVIRONMENT,
    TURNPIKE_CLUSTERS: clustersFile,
    TURNPIKE_REGISTRY: registryUrl,
    TURNPIKE_TLS_CA: admin.mtls.caFile,
    TURNPIKE_TLS_CERT: admin.mtls.certFile,
    TURNPIKE_TLS_KEY: admin.mtls.keyFile,
  };
}

/** Writes a file into the folder; its path. */
type Write = (name: string, text: string) => string;

/** Every logical cluster is the one that is there. */
function writeDescriptors({ platform, manifests, admin }: LocalInit, write: Write): string | undefined {
  if (admin) return undefined;
  const primary = siteOf(platform);
  const names = [...new Set(manifests.flatMap((m) => m.topics.map((t) => t.cluster)))];
  const descriptors: ClusterDescriptor[] = names.map((name) => ({ name, epoch: 1, primary }));
  return write('clusters.json', `${JSON.stringify(descriptors, null, 2)}\n`);
}

function siteOf({ cluster }: LocalPlatform): ClusterSite {
  if (!cluster) throw new TurnpikeError('CONFIG_INVALID', 'The local platform was started without Kafka; start it with it.');
  return cluster;
}

const openSite = ({ id, bootstrap }: ClusterSite, identity: Identity) => openAdmin({ name: LOCAL_ENVIRONMENT, id, bootstrap: bootstrap.mtls ?? [] }, identity);

interface Desk {
  readonly platform: LocalPlatform;
  readonly write: Write;
  readonly clustersFile: string | undefined;
  readonly registry: RegistryClient;
}

async function writeService(manifest: Manifest, service: ServiceResource, { platform, write, clustersFile, registry }: Desk): Promise<LocalService> {
  const [grant] = await issueGrants(manifest, service, {
    environment: LOCAL_ENVIRONMENT,
    issuer: 'turnpike dev',
    nowMs: Date.now(),
    key: { key: developmentKey.privateJwk },
    registry,
  });
  if (!grant)
    throw new TurnpikeError(
      'MANIFEST_INVALID',
      `${service.name} has no principal in the environment ${LOCAL_ENVIRONMENT}; give it one, or leave that environment out.`,
    );
  const grantFile = write(`${service.name}.grant`, `${grant.token}\n`);
  const env = {
    TURNPIKE_ENV: LOCAL_ENVIRONMENT,
    TURNPIKE_GRANT: grantFile,
    ...(clustersFile === undefined ? {} : { TURNPIKE_CLUSTERS: clustersFile }),
    ...(await platform.environment(grant.principal, service.identity)),
  };
  const envFile = write(`${service.name}.env`, envText(env));
  return { name: service.name, principal: grant.principal, identity: service.identity, grantFile, env, envFile };
}
