import { TurnpikeError } from '@turnpike/core';
import type { Clock, DrainGate, FetchGate, GrantClaims, GrantQuota, Logger } from '@turnpike/core/spi';
import { denied, topicVerdict } from './access.ts';
import { TokenBucket } from './bucket.ts';

export interface QuotaOptions {
  readonly claims: () => GrantClaims;
  /** The logical cluster. */
  readonly cluster: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** "wait": records wait at the drain, within their delivery timeout. "refuse": send() throws QUOTA_EXCEEDED with `retryAfterMs`. Default "wait": delaying an event loses less than
   *  making every caller handle its refusal. */
  readonly onExceeded?: 'wait' | 'refuse';
}

/** However long a bucket needs, it is asked again after this: a raised quota must reach what waits within the 5 s that a new grant may take. */
const maxWaitMs = 1_000;

interface Outbound {
  readonly bytes: readonly TokenBucket[];
  readonly records: readonly TokenBucket[];
  readonly burst: { readonly records: number; readonly bytes: number } | undefined;
}

interface Inbound {
  readonly bytes: readonly TokenBucket[];
  /** Reading was taken away, in mode enforce. */
  readonly revoked: boolean;
}

/** The quotas of a grant as gates of one cluster.
 *
 *  Without an allocator a process has the static share `rate / maxInstances` (and `burst / maxInstances`, at least 1): the fleet stays under the rate as long as it runs no more instances
 *  than were declared, those of a rolling update included. Buckets are hierarchical: that of the topic and that of the principal must both have room, and are charged both or neither. */
export function quotaGates(options: QuotaOptions): DrainGate & FetchGate {
  const { clock, cluster } = options;
  const buckets = new Map<GrantQuota['id'], TokenBucket>();
  const outbound = new Map<string, Outbound>();
  const inbound = new Map<string, Map<string, Inbound>>();
  let seen: GrantClaims | undefined;

  const adopt = (claims: GrantClaims): void => {
    const quotas = claims.quotas.filter((q) => q.cluster === cluster && q.unit !== 'inFlight');
    for (const id of buckets.keys()) if (!quotas.some((q) => q.id === id)) buckets.delete(id);
    for (const quota of quotas) {
      const shape = { ratePerSecond: quota.rate / quota.maxInstances, burst: quota.rate === 0 ? 0 : Math.max(1, quota.burst / quota.maxInstances) };
      const bucket = buckets.get(quota.id);
      if (bucket) bucket.reshape(shape, clock.monotonic());
      else buckets.set(quota.id, new TokenBucket(shape, clock.monotonic()));
    }
    outbound.clear();
    inbound.clear();
    options.logger.debug('quota.adopted', { cluster, grantRevision: claims.rev, quotas: quotas.length });
    seen = claims;
  };

  /** What waits at the drain was let in when the grant still held: an expired one doesn't stop it, it stops what comes after. So the drain's gates never throw. */
  const current = (): GrantClaims | undefined => {
    try {
      const claims = options.claims();
      if (claims !== seen) adopt(claims);
    } catch {
      // GRANT_EXPIRED: the last quotas go on.
    }
    return seen;
  };

  const select = (claims: GrantClaims | undefined, unit: GrantQuota['unit'], applies: (quota: GrantQuota) => boolean): readonly TokenBucket[] =>
    (claims?.quotas ?? []).flatMap((q) => (q.unit === unit && q.cluster === cluster && applies(q) ? (buckets.get(q.id) ?? []) : []));

  const out = (topic: string): Outbound => {
    const claims = current();
    const known = outbound.get(topic);
    if (known) return known;
    const applies = (q: GrantQuota) => q.group === undefined && (q.topic === undefined || q.topic === topic);
    const bytes = select(claims, 'bytesOut', applies);
    const records = select(claims, 'recordsOut', applies);
    const limited = bytes.length + records.length > 0;
    const made: Outbound = { bytes, records, burst: limited ? { records: leastBurst(records), bytes: leastBurst(bytes) } : undefined };
    outbound.set(topic, made);
    return made;
  };

  const into = (topic: string, group: string): Inbound => {
    const claims = current();
    const ofTopic = inbound.get(topic) ?? new Map<string, Inbound>();
    inbound.set(topic, ofTopic);
    const known = ofTopic.get(group);
    if (known) return known;
    const applies = (q: GrantQuota) => (q.topic === undefined || q.topic === topic) && (q.group === undefined || q.group === group);
    const revoked = claims !== undefined && topicVerdict(claims, cluster, topic, 'read') === 'enforce';
    const made: Inbound = { bytes: select(claims, 'bytesIn', applies), revoked };
    ofTopic.set(group, made);
    return made;
  };

  return {
    admit(topic, records, bytes) {
      const quota = out(topic);
      if (quota.burst === undefined) return 0;
      const now = clock.monotonic();
      const waitMs = Math.max(longestWait(quota.bytes, bytes, now), longestWait(quota.records, records, now));
      if (waitMs > 0) return Math.min(waitMs, maxWaitMs);
      for (const bucket of quota.bytes) bucket.take(bytes, now);
      for (const bucket of quota.records) bucket.take(records, now);
      return 0;
    },
    refund(topic, records, bytes) {
      const quota = out(topic);
      for (const bucket of quota.bytes) bucket.refund(bytes);
      for (const bucket of quota.records) bucket.refund(records);
    },
    burst: (topic) => out(topic).burst,
    refuse(topic, queuedRecords, queuedBytes) {
      if (options.onExceeded !== 'refuse') return;
      const quota = out(topic);
      if (quota.burst === undefined) return;
      // A single record that is larger than the burst goes when the bucket is full; behind others it is part of what they need.
      const ms = queuedRecords <= 1 ? longestWait : longestDrain;
      const now = clock.monotonic();
      const waitMs = Math.max(ms(quota.bytes, queuedBytes, now), ms(quota.records, queuedRecords, now));
      if (waitMs > 0) throw exceeded(topic, cluster, waitMs);
    },
    // What a fetch will bring isn't known before: it may go when nothing is owed, and what it brought is charged, into debt.
    permit(topic, group) {
      const claims = options.claims();
      const quota = into(topic, group);
      if (quota.revoked) throw denied(claims, cluster, 'consume', topic);
      return Math.min(maxWaitMs, longestWait(quota.bytes, 0, clock.monotonic()));
    },
    charge(topic, group, _records, bytes) {
      for (const bucket of into(topic, group).bytes) bucket.take(bytes, clock.monotonic());
    },
  };
}

function longestWait(buckets: readonly TokenBucket[], amount: number, now: number): number {
  let wait = 0;
  for (const bucket of buckets) wait = Math.max(wait, bucket.waitMs(amount, now));
  return wait;
}

function longestDrain(buckets: readonly TokenBucket[], amount: number, now: number): number {
  let wait = 0;
  for (const bucket of buckets) wait = Math.max(wait, bucket.drainMs(amount, now));
  return wait;
}

function leastBurst(buckets: readonly TokenBucket[]): number {
  return buckets.reduce((least, bucket) => Math.min(least, bucket.burst), Number.POSITIVE_INFINITY);
}

function exceeded(topic: string, cluster: string, waitMs: number): TurnpikeError {
  const raise = 'raise its quota under produces in turnpike.yaml and have a new grant issued (turnpike grant issue)';
  if (!Number.isFinite(waitMs)) return new TurnpikeError('QUOTA_EXCEEDED', `${topic}: its quota is 0; ${raise}.`, { topic, cluster, written: 'no' });
  return new TurnpikeError('QUOTA_EXCEEDED', `${topic}: over its quota on ${cluster}; send again in ${waitMs} ms, or ${raise}.`, {
    topic,
    cluster,
    retryAfterMs: waitMs,
    retriable: true,
    written: 'no',
  });
}
