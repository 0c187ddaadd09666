import { readFile } from 'node:fs/promises';
import { TurnpikeError } from '@turnpike/core';
import { type ClusterDescriptor, type ClusterRef, type Identity, notAPath } from '@turnpike/core/spi';
import { LOCAL_ENVIRONMENT } from '@turnpike/policy';

const HINT = 'the platform injects it as TURNPIKE_CLUSTERS (turnpike dev writes one for the local platform).';

/** Reads the descriptors of the clusters. @throws TurnpikeError CONFIG_INVALID with the file and the place. */
export async function readDescriptors(source: string | readonly ClusterDescriptor[]): Promise<readonly ClusterDescriptor[]> {
  if (typeof source !== 'string') return source.map((d, i) => checked(d, `clusters[${i}]`));
  const instead = notAPath(source);
  if (instead !== undefined)
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `TURNPIKE_CLUSTERS is ${instead}, not a path: descriptors are read from a file; have the platform mount it and set TURNPIKE_CLUSTERS to its path.`,
    );
  const unreadable = (why: string, cause?: unknown) =>
    new TurnpikeError('CONFIG_INVALID', `The cluster descriptors ${source} can't be read as JSON: ${why}; ${HINT}`, cause === undefined ? {} : { cause });
  const text = await readFile(source, 'utf8').catch((cause: Error) => {
    throw unreadable(cause.message, cause);
  });
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    // Neither quoted nor the cause: JSON.parse() quotes the text, and the file may be another one, with a secret.
    const place = /line \d+ column \d+/.exec((error as Error).message)?.[0];
    throw unreadable(place === undefined ? 'it is none, or was cut' : `it goes wrong at ${place}`);
  }
  const list = Array.isArray(parsed) ? parsed : (parsed as { clusters?: unknown } | null)?.clusters;
  if (!Array.isArray(list)) throw new TurnpikeError('CONFIG_INVALID', `${source} holds no list of cluster descriptors; ${HINT}`);
  return list.map((d, i) => checked(d, `${source}: [${i}]`));
}

/** The addresses for this identity's kind @throws TurnpikeError CONFIG_INVALID. */
export function clusterFor(
  name: string,
  { environment, descriptors, identity }: { readonly environment: string; readonly descriptors: readonly ClusterDescriptor[]; readonly identity: Identity },
): ClusterRef {
  const descriptor = descriptors.find((d) => d.name === name);
  if (!descriptor) {
    const known = descriptors.map((d) => d.name).join(', ') || 'none';
    throw new TurnpikeError('CONFIG_INVALID', `No descriptor for the cluster ${name} (there are: ${known}); ${HINT}`, { cluster: name });
  }
  const bootstrap = identity.kind === 'none' ? [] : descriptor.primary.bootstrap[identity.kind];
  if (!bootstrap || (bootstrap.length === 0 && identity.kind !== 'none'))
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `The cluster ${name} has no ${identity.kind} listener in its descriptor; use another kind of identity, or ask the platform team for the listener.`,
      { cluster: name },
    );
  const elsewhere = environment === LOCAL_ENVIRONMENT ? bootstrap.find((address) => !/^(127\.\d+\.\d+\.\d+|localhost|\[::1\]):\d+$/.test(address)) : undefined;
  if (elsewhere !== undefined)
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `The environment ${LOCAL_ENVIRONMENT} takes grants that anybody can sign, so it reaches only this machine, and ${elsewhere} (cluster ${name}) isn't on it. Set TURNPIKE_ENV to the cluster's environment.`,
      { cluster: name },
    );
  return { name, bootstrap, ...(descriptor.primary.id ? { id: descriptor.primary.id } : {}) };
}

function checked(raw: unknown, where: string): ClusterDescriptor {
  const d = raw as Partial<ClusterDescriptor> | null;
  const bootstrap = d?.primary?.bootstrap as Record<string, unknown> | undefined;
  const lists = bootstrap && typeof bootstrap === 'object' ? Object.entries(bootstrap) : undefined;
  const addressed = lists?.every(
    ([kind, list]) => (kind === 'mtls' || kind === 'oauth') && Array.isArray(list) && list.every((a) => typeof a === 'string' && /^.+:\d{1,5}$/.test(a)),
  );
  if (typeof d?.name !== 'string' || typeof d.epoch !== 'number' || typeof d.primary?.id !== 'string' || !addressed)
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `${where} is no cluster descriptor: it needs name, epoch, primary.id and primary.bootstrap.mtls or .oauth as lists of host:port; ${HINT}`,
    );
  return d as ClusterDescriptor;
}
