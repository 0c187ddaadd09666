import { TurnpikeError } from '@turnpike/core';
import type { Clock, DrainGate, FetchGate, GrantClaims, GrantQuota, Logger } from '@turnpike/core/spi';
import { TokenBucket } from './bucket.ts';

export interface QuotaOptions {
  readonly claims: () => GrantClaims;
  /** The logical cluster. */
  readonly cluster: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** "wait": records wait at the drain, within their delivery timeout. "refuse": send() throws QUOTA_EXCEEDED with `retryAfterMs`. Default "wait". */
  readonly onExceeded?: 'wait' | 'refuse';
}

interface Buckets {
  readonly bytesOut: readonly TokenBucket[];
  readonly recordsOut: readonly TokenBucket[];
  readonly bytesIn: readonly TokenBucket[];
}

/** The quotas of a grant as gates. Without an allocator a process has `rate / maxInstances`: the fleet as a whole stays under the rate as long as it has no more instances than
 *  were declared. Buckets are hierarchical: a topic's and the principal's both must have room. */
export function quotaGates(options: QuotaOptions): DrainGate & FetchGate {
  const { clock, cluster } = options;
  let seen: GrantClaims | undefined;
  let buckets = new Map<GrantQuota['id'], TokenBucket>();
  const byTopic = new Map<string, Buckets>();
  const byTopicAndGroup = new Map<string, Buckets>();

  /** A new grant's quotas apply at once; a bucket whose quota is unchanged keeps its level, so that a re-issue is no way to a second burst. */
  const refresh = (): GrantClaims => {
    const claims = options.claims();
    if (claims === seen) return claims;
    const next = new Map<string, TokenBucket>();
    for (const quota of claims.quotas) {
      if (quota.cluster !== cluster || quota.unit === 'inFlight') continue;
      const share = { ratePerSecond: quota.rate / quota.maxInstances, burst: Math.max(1, quota.burst / quota.maxInstances) };
      const old = buckets.get(quota.id);
      next.set(quota.id, old && old.ratePerSecond === share.ratePerSecond && old.burst === share.burst ? old : new TokenBucket({ ...share, clock }));
    }
    buckets = next;
    byTopic.clear();
    byTopicAndGroup.clear();
    seen = claims;
    return claims;
  };

  const select = (claims: GrantClaims, unit: GrantQuota['unit'], applies: (quota: GrantQuota) => boolean): TokenBucket[] =>
    claims.quotas.flatMap((q) => (q.unit === unit && q.cluster === cluster && applies(q) ? (buckets.get(q.id) ?? []) : []));

  const outOf = (topic: string): Buckets => {
    const claims = refresh();
    let found = byTopic.get(topic);
    if (!found) {
      const applies = (q: GrantQuota) => q.group === undefined && (q.topic === undefined || q.topic === topic);
      found = { bytesOut: select(claims, 'bytesOut', applies), recordsOut: select(claims, 'recordsOut', applies), bytesIn: [] };
      byTopic.set(topic, found);
    }
    return found;
  };

  const into = (topic: string, group: string): Buckets => {
    const claims = refresh();
    const key = `${topic}\n${group}`;
    let found = byTopicAndGroup.get(key);
    if (!found) {
      const applies = (q: GrantQuota) => (q.topic === undefined || q.topic === topic) && (q.group === undefined || q.group === group);
      found = { bytesOut: [], recordsOut: [], bytesIn: select(claims, 'bytesIn', applies) };
      byTopicAndGroup.set(key, found);
    }
    return found;
  };

  const longest = (list: readonly TokenBucket[], amount: number): number => {
    let wait = 0;
    for (const bucket of list) wait = Math.max(wait, bucket.waitMs(amount));
    return wait;
  };

  return {
    admit(topic, records, bytes) {
      const { bytesOut, recordsOut } = outOf(topic);
      if (bytesOut.length === 0 && recordsOut.length === 0) return 0;
      const waitMs = Math.max(longest(bytesOut, bytes), longest(recordsOut, records));
      if (waitMs > 0) return waitMs;
      // Taken from all or from none: a wait for one bucket must not drain another.
      for (const bucket of bytesOut) bucket.take(bytes);
      for (const bucket of recordsOut) bucket.take(records);
      return 0;
    },
    refund(topic, records, bytes) {
      const { bytesOut, recordsOut } = outOf(topic);
      for (const bucket of bytesOut) bucket.refund(bytes);
      for (const bucket of recordsOut) bucket.refund(records);
    },
    burst(topic) {
      const { bytesOut, recordsOut } = outOf(topic);
      if (bytesOut.length === 0 && recordsOut.length === 0) return undefined;
      const least = (list: readonly TokenBucket[]) => list.reduce((min, b) => Math.min(min, b.burst), Number.POSITIVE_INFINITY);
      return { bytes: least(bytesOut), records: least(recordsOut) };
    },
    refuse(topic, queuedRecords, queuedBytes) {
      if (options.onExceeded !== 'refuse') return;
      const { bytesOut, recordsOut } = outOf(topic);
      const waitMs = Math.max(longest(bytesOut, queuedBytes), longest(recordsOut, queuedRecords));
      if (waitMs === 0) return;
      throw new TurnpikeError(
        'QUOTA_EXCEEDED',
        `${topic}: over its quota; try again in ${waitMs} ms, send less, or raise the quota under produces in turnpike.yaml.`,
        { topic, cluster, retryAfterMs: waitMs, retriable: true, written: 'no' },
      );
    },
    // What a fetch will bring isn't known before: it may go when nothing is owed, and what it brought is charged, into debt.
    permit: (topic, group) => longest(into(topic, group).bytesIn, 0),
    charge(topic, group, _records, bytes) {
      for (const bucket of into(topic, group).bytesIn) bucket.take(bytes);
    },
  };
}
