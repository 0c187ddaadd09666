import { TurnpikeError } from '@turnpike/core';
import type { GrantClaims, Identity } from '@turnpike/core/spi';
import { fileGrant } from '@turnpike/policy';
import type { ServiceContract } from './generated.ts';
import type { Settings } from './settings.ts';

/** Where the claims in force come from; they change while the service runs. */
export interface GrantInForce extends AsyncDisposable {
  claims(): GrantClaims;
}

/** The grant that the platform injected, verified against the contract's root keys. Fails closed: only the memory transport, which reaches nobody, does without. */
export async function resolveGrant(service: ServiceContract, environment: string, identity: Identity, settings: Settings): Promise<GrantInForce> {
  if (settings.grant !== undefined) {
    if (/^[a-z]+:\/\//i.test(settings.grant))
      throw new TurnpikeError('CONFIG_INVALID', `TURNPIKE_GRANT is ${settings.grant}: a grant is read from a file; have the platform mount it and set TURNPIKE_GRANT to its path.`);
    return fileGrant({
      path: settings.grant,
      rootKeys: service.rootKeys,
      audience: environment,
      principal: identity.principal,
      clock: settings.clock,
      logger: settings.logger,
    });
  }
  if (settings.transport?.name === 'memory') {
    const claims = everythingDeclared(service, environment, identity.principal);
    return { claims: () => claims, [Symbol.asyncDispose]: async () => {} };
  }
  throw new TurnpikeError('GRANT_MISSING', `No grant for ${identity.principal}: set TURNPIKE_GRANT to its file. The platform issues it with turnpike grant issue (locally: turnpike dev).`, { principal: identity.principal });
}

function everythingDeclared(service: ServiceContract, environment: string, principal: string): GrantClaims {
  const produced = Object.values(service.produces).map((t) => ({ cluster: t.cluster, name: t.name, ops: ['write' as const], mode: 'enforce' as const }));
  const consumed = Object.values(service.consumes).map((c) => ({ cluster: c.topic.cluster, name: c.topic.name, ops: ['read' as const], mode: 'enforce' as const }));
  return {
    v: 1,
    mode: 'enforce',
    iss: 'memory',
    aud: environment,
    sub: principal,
    rev: 0,
    nbf: 0,
    exp: Number.MAX_SAFE_INTEGER,
    refreshAfterS: 3600,
    onExpiry: 'hold',
    topics: [...produced, ...consumed],
    groups: [...new Set(Object.values(service.consumes).flatMap((c) => c.groups))],
    transactionalIdPrefixes: [],
    schemas: [],
    quotas: [],
  };
}
