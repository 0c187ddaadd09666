import { TurnpikeError } from '@turnpike/core';
import type { AccessPolicy, Clock, EnforcementMode, GrantClaims, Logger } from '@turnpike/core/spi';

export interface AccessOptions {
  /** The claims in force; asked each time, so that a new grant applies at once. */
  readonly claims: () => GrantClaims;
  /** The logical cluster. */
  readonly cluster: string;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** What enforcement refused, or would have: by `produce TOPIC`, `consume TOPIC` and `join GROUP`. */
export type RefusalCounts = ReadonlyMap<string, { readonly mode: EnforcementMode; readonly count: number }>;

/** A warning about one thing is logged once in this time. */
const WARN_EVERY_MS = 60_000;

type Verdict = 'allowed' | EnforcementMode;

/** Checks topics and groups against the grant: shadow counts, warn logs, enforce refuses. A look-up in a map where it is allowed. */
export function accessPolicy(options: AccessOptions): AccessPolicy & { refusals(): RefusalCounts } {
  const verdicts = new Map<string, Verdict>();
  const counts = new Map<string, { mode: EnforcementMode; count: number }>();
  const warnedAt = new Map<string, number>();
  let seen: GrantClaims | undefined;

  const verdict = (what: string, decide: (claims: GrantClaims) => Verdict): Verdict => {
    const claims = options.claims();
    if (claims !== seen) {
      verdicts.clear();
      seen = claims;
    }
    let v = verdicts.get(what);
    if (v === undefined) {
      v = decide(claims);
      verdicts.set(what, v);
    }
    return v;
  };

  const refuse = (what: string, mode: EnforcementMode, error: (claims: GrantClaims) => TurnpikeError): void => {
    const counted = counts.get(what) ?? { mode, count: 0 };
    counts.set(what, { mode, count: counted.count + 1 });
    const claims = options.claims();
    if (mode === 'enforce') throw error(claims);
    const now = options.clock.monotonic();
    if (mode === 'warn' && now - (warnedAt.get(what) ?? Number.NEGATIVE_INFINITY) >= WARN_EVERY_MS) {
      warnedAt.set(what, now);
      options.logger.warn('grant.would_refuse', { what, principal: claims.sub, revision: claims.rev, cluster: options.cluster });
    }
  };

  const topicVerdict =
    (topic: string, op: 'read' | 'write') =>
    (claims: GrantClaims): Verdict => {
      const listed = claims.topics.find((t) => t.name === topic && t.cluster === options.cluster);
      if (listed?.ops.includes(op)) return 'allowed';
      return listed?.mode ?? claims.mode;
    };

  const denied = (what: string, fix: string, facts: { topic?: string; group?: string }) => (claims: GrantClaims) =>
    new TurnpikeError(
      'GRANT_DENIED',
      `${claims.sub} may not ${what} on ${options.cluster} (grant revision ${claims.rev}, environment ${claims.aud}). ${fix}, have it applied, and a new grant issued: turnpike grant issue.`,
      {
        ...facts,
        principal: claims.sub,
        cluster: options.cluster,
        grantRevision: claims.rev,
        written: 'no',
      },
    );

  return {
    produce(topic) {
      const v = verdict(`produce ${topic}`, topicVerdict(topic, 'write'));
      if (v !== 'allowed') refuse(`produce ${topic}`, v, denied(`produce to ${topic}`, `Declare ${topic} under produces in turnpike.yaml`, { topic }));
    },
    consume(topic, group) {
      const v = verdict(`consume ${topic}`, topicVerdict(topic, 'read'));
      if (v !== 'allowed') refuse(`consume ${topic}`, v, denied(`consume ${topic}`, `Declare ${topic} under consumes in turnpike.yaml`, { topic, group }));
      const g = verdict(`join ${group}`, (claims) => (claims.groups.includes(group) ? 'allowed' : claims.mode));
      if (g !== 'allowed')
        refuse(`join ${group}`, g, denied(`join the group ${group}`, `Declare the group with its topic under consumes in turnpike.yaml`, { topic, group }));
    },
    refusals: () => counts,
  };
}
