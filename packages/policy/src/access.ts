import { TurnpikeError } from '@turnpike/core';
import type { AccessPolicy, Clock, EnforcementMode, GrantClaims, Logger } from '@turnpike/core/spi';

export interface AccessOptions {
  /** The claims in force; asked each time, so that a new grant applies at once. May throw GRANT_EXPIRED, which then refuses everything. */
  readonly claims: () => GrantClaims;
  /** The logical cluster. */
  readonly cluster: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Told of each refusal, also of those that only would have been. Must not throw. */
  readonly onRefusal?: (refusal: Refusal) => void;
}

/** What enforcement refused (mode "enforce"), or would have refused (the other two). */
export interface Refusal {
  readonly action: Action;
  /** The topic; the group for "join", the transactional id for "transact". */
  readonly name: string;
  readonly mode: EnforcementMode;
}

export interface RefusalCount extends Refusal {
  /** Since the client connected. */
  readonly count: number;
}

export type Action = 'produce' | 'consume' | 'join' | 'transact';
export type Verdict = 'allowed' | EnforcementMode;

/** A warning about one thing is logged once in this time. */
const warnEveryMs = 60_000;

/** What the grant says of a topic: allowed, or the mode in which it is refused. */
export function topicVerdict(claims: GrantClaims, cluster: string, topic: string, op: 'read' | 'write'): Verdict {
  const listed = claims.topics.find((t) => t.name === topic && t.cluster === cluster);
  return listed?.ops.includes(op) ? 'allowed' : (listed?.mode ?? claims.mode);
}

function groupVerdict(claims: GrantClaims, group: string): Verdict {
  return claims.groups.includes(group) ? 'allowed' : claims.mode;
}

function transactionVerdict(claims: GrantClaims, id: string): Verdict {
  return claims.transactionalIdPrefixes.some((prefix) => id.startsWith(prefix)) ? 'allowed' : claims.mode;
}

function verdictOf(claims: GrantClaims, cluster: string, action: Action, name: string): Verdict {
  if (action === 'join') return groupVerdict(claims, name);
  if (action === 'transact') return transactionVerdict(claims, name);
  return topicVerdict(claims, cluster, name, action === 'produce' ? 'write' : 'read');
}

const remedies: Readonly<Record<Action, (name: string) => string>> = {
  produce: (topic) => `Declare ${topic} under produces in turnpike.yaml`,
  consume: (topic) => `Declare ${topic} under consumes in turnpike.yaml`,
  join: (group) => `Declare the group ${group} with its topic under consumes in turnpike.yaml`,
  transact: (id) => `Ask the platform team for a transactional-id prefix that ${id} begins with`,
};
const verbs: Readonly<Record<Action, string>> = {
  produce: 'produce to',
  consume: 'consume',
  join: 'join the group',
  transact: 'use the transactional id',
};

/** What to do about a refusal, for whoever reads of it. */
export const remedyFor = (action: Action, name: string): string => `${remedies[action](name)}, and have a new grant issued.`;

export function denied(claims: GrantClaims, cluster: string, action: Action, name: string): TurnpikeError {
  return new TurnpikeError(
    'GRANT_DENIED',
    `${claims.sub} may not ${verbs[action]} ${name} on ${cluster}: its grant (revision ${claims.rev}, environment ${claims.aud}) doesn't allow it. ${remedies[action](name)}, have it applied (turnpike apply), and a new grant issued (turnpike grant issue).`,
    {
      ...(action === 'join' ? { group: name } : action === 'transact' ? { transactionalId: name } : { topic: name }),
      principal: claims.sub,
      cluster,
      grantRevision: claims.rev,
      written: 'no',
    },
  );
}

/** What a layer may ask beside a record's own two questions. */
export interface AccessChecks extends AccessPolicy {
  /** One thing by itself, such as a topic whose group isn't known, or a transactional id. */
  check(action: Action, name: string): void;
  refusals(): readonly RefusalCount[];
}

/** Checks topics, groups and transactional ids against the grant: shadow counts, warn logs (each thing once a minute), enforce throws GRANT_DENIED. Costs one look-up in a map where it
 *  is allowed. */
export function accessPolicy(options: AccessOptions): AccessChecks {
  const { clock, cluster, logger } = options;
  const verdicts: Readonly<Record<Action, Map<string, Verdict>>> = { produce: new Map(), consume: new Map(), join: new Map(), transact: new Map() };
  const counts = new Map<string, { refusal: Refusal; count: number }>();
  const warnedAt = new Map<string, number>();
  let seen: GrantClaims | undefined;

  const inForce = (): GrantClaims => {
    const claims = options.claims();
    if (claims !== seen) {
      for (const map of Object.values(verdicts)) map.clear();
      seen = claims;
    }
    return claims;
  };

  /** Everything but the way of the allowed. */
  const judge = (claims: GrantClaims, action: Action, name: string): void => {
    const known = verdicts[action].get(name);
    const verdict = known ?? verdictOf(claims, cluster, action, name);
    if (known === undefined) verdicts[action].set(name, verdict);
    if (verdict === 'allowed') return;
    const refusal: Refusal = { action, name, mode: verdict };
    const key = `${verdict} ${action} ${name}`;
    counts.set(key, { refusal, count: (counts.get(key)?.count ?? 0) + 1 });
    options.onRefusal?.(refusal);
    if (verdict === 'enforce') throw denied(claims, cluster, action, name);
    if (verdict === 'warn') warn(claims, refusal, key);
  };

  const warn = (claims: GrantClaims, { action, name }: Refusal, key: string): void => {
    const now = clock.monotonic();
    if (now - (warnedAt.get(key) ?? Number.NEGATIVE_INFINITY) < warnEveryMs) return;
    warnedAt.set(key, now);
    logger.warn('grant.would_refuse', {
      action,
      name,
      cluster,
      principal: claims.sub,
      grantRevision: claims.rev,
      remedy: remedyFor(action, name),
    });
  };

  return {
    produce(topic) {
      const claims = inForce();
      if (verdicts.produce.get(topic) !== 'allowed') judge(claims, 'produce', topic);
    },
    consume(topic, group) {
      const claims = inForce();
      if (verdicts.consume.get(topic) !== 'allowed') judge(claims, 'consume', topic);
      if (verdicts.join.get(group) !== 'allowed') judge(claims, 'join', group);
    },
    check(action, name) {
      const claims = inForce();
      if (verdicts[action].get(name) !== 'allowed') judge(claims, action, name);
    },
    refusals: () => [...counts.values()].map(({ refusal, count }) => ({ ...refusal, count })),
  };
}
