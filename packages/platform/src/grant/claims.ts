import { TurnpikeError } from '@turnpike/core';
import type { GrantClaims, GrantQuota } from '@turnpike/core/spi';
import { environmentOf, type Manifest, type QuotaSpec, type ServiceResource, topicNames, topicOf } from '../manifest/model.ts';

export interface ClaimsInit {
  readonly environment: string;
  /** Who issues. */
  readonly issuer: string;
  /** ms since the epoch. */
  readonly nowMs: number;
  /** Rises with every issue. Default: the time in seconds. */
  readonly revision?: number;
  /** How long it is valid, in s. Default 30 days: it must outlive a long absence of the platform. */
  readonly lifetimeS?: number;
  readonly refreshAfterS?: number;
  /** The environment's ids of the subjects, where they are known. */
  readonly schemas?: GrantClaims['schemas'];
}

const DAYS = 86_400;
/** Clocks differ: it holds from a minute ago. */
const LEEWAY_S = 60;

/** The grants of a service in one environment: one for each principal.
 *  @throws TurnpikeError CONFIG_INVALID: the service has no such environment. */
export function grantClaims(manifest: Manifest, service: ServiceResource, init: ClaimsInit): readonly GrantClaims[] {
  const environment = environmentOf(service, init.environment);
  if (!environment)
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `${service.name} has no environment ${JSON.stringify(init.environment)}; turnpike.yaml has ${Object.keys(service.environments).join(', ')}.`,
    );
  const nowS = Math.floor(init.nowMs / 1000);
  const mode = environment.enforcement;
  return environment.principals.map((sub) => ({
    v: 1,
    mode,
    iss: init.issuer,
    aud: init.environment,
    sub,
    rev: init.revision ?? nowS,
    nbf: nowS - LEEWAY_S,
    exp: nowS + (init.lifetimeS ?? 30 * DAYS),
    refreshAfterS: init.refreshAfterS ?? 300,
    onExpiry: [...service.produces, ...service.consumes].some((e) => e.onExpiry === 'refuse') ? 'refuse' : 'hold',
    topics: topics(manifest, service).map((t) => ({ ...t, mode })),
    groups: [...new Set(service.consumes.map((c) => c.group))],
    transactionalIdPrefixes: [],
    schemas: init.schemas ?? [],
    quotas: quotas(manifest, service, environment.maxInstances),
  }));
}

/** By topic, with every operation in one entry. */
function topics(manifest: Manifest, service: ServiceResource): { cluster: string; name: string; ops: ('read' | 'write')[] }[] {
  return topicNames(service).map((name) => ({
    cluster: topicOf(manifest, name)?.cluster ?? '',
    name,
    ops: [
      ...(service.consumes.some((c) => c.topic === name) ? ['read' as const] : []),
      ...(service.produces.some((p) => p.topic === name) ? ['write' as const] : []),
    ],
  }));
}

function quotas(manifest: Manifest, service: ServiceResource, maxInstances: number): GrantQuota[] {
  const made: GrantQuota[] = [];
  const add = (quota: QuotaSpec, unit: GrantQuota['unit'], rate: number | undefined, where: Pick<GrantQuota, 'topic' | 'group'>) => {
    if (rate === undefined) return;
    const cluster = topicOf(manifest, where.topic ?? '')?.cluster ?? '';
    const id = [service.name, where.topic, where.group, unit].filter(Boolean).join('/');
    made.push({ id, cluster, ...where, unit, rate, burst: rate * quota.burstSeconds, weight: quota.weight, safeShare: rate / maxInstances, maxInstances });
  };
  for (const { topic, quota } of service.produces) {
    if (!quota) continue;
    add(quota, 'bytesOut', quota.bytesPerSecond, { topic });
    add(quota, 'recordsOut', quota.recordsPerSecond, { topic });
  }
  for (const { topic, group, quota } of service.consumes) if (quota) add(quota, 'bytesIn', quota.bytesPerSecond, { topic, group });
  return made;
}
