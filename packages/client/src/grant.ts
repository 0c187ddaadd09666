import { type CleanUp, TurnpikeError } from '@turnpike/core';
import type { GrantClaims, Identity } from '@turnpike/core/spi';
import { developmentKey, fileGrant, LOCAL_ENVIRONMENT } from '@turnpike/policy';
import type { ServiceContract } from './generated.ts';
import { checkPrincipal, resolveIdentity } from './identity.ts';
import type { Settings } from './settings.ts';

/** Where the claims in force come from; they change while the service runs. */
export interface GrantInForce extends AsyncDisposable {
  claims(): GrantClaims;
}

/** Who this process is and what it may do, each proven by what comes before it; closed with `cleanUp`. */
export async function resolveRights(
  service: ServiceContract,
  environment: string,
  settings: Settings,
  cleanUp: CleanUp,
): Promise<{ readonly identity: Identity; readonly grant: GrantInForce }> {
  const { identity, own } = await resolveIdentity(service, environment, settings);
  if (own) cleanUp.use(own);
  checkPrincipal(service, environment, identity);
  return { identity, grant: cleanUp.use(await resolveGrant(service, environment, identity, settings)) };
}

/** The grant that the platform injected, verified against the contract's root keys. Fails closed: only the memory transport, which reaches nobody, does without. */
async function resolveGrant(service: ServiceContract, environment: string, identity: Identity, settings: Settings): Promise<GrantInForce> {
  if (settings.grant !== undefined) {
    return fileGrant({
      path: settings.grant,
      // Anybody can sign with the development key: it counts in the environment that reaches loopback only.
      rootKeys: environment === LOCAL_ENVIRONMENT ? [...service.rootKeys, developmentKey.publicJwk] : service.rootKeys,
      audience: environment,
      principal: identity.principal,
      clock: settings.clock,
      logger: settings.logger,
    });
  }
  if (settings.transport.name === 'memory') {
    const claims = everythingDeclared(service, environment, identity.principal);
    return { claims: () => claims, [Symbol.asyncDispose]: async () => {} };
  }
  throw new TurnpikeError(
    'GRANT_MISSING',
    `No grant for ${identity.principal}: set TURNPIKE_GRANT to its file. The platform issues it with turnpike grant issue (locally: turnpike dev).`,
    { principal: identity.principal },
  );
}

function everythingDeclared(service: ServiceContract, environment: string, principal: string): GrantClaims {
  const produced = Object.values(service.produces);
  const consumed = Object.values(service.consumes).map((c) => c.topic);
  // By cluster and name: a topic that is both produced and consumed stands once, with both operations.
  const topics = new Map<string, GrantClaims['topics'][number]>();
  for (const { cluster, name } of [...produced, ...consumed]) {
    const is = (t: { readonly cluster: string; readonly name: string }) => t.cluster === cluster && t.name === name;
    const ops = [...(consumed.some(is) ? ['read' as const] : []), ...(produced.some(is) ? ['write' as const] : [])];
    topics.set(`${cluster}/${name}`, { cluster, name, ops, mode: 'enforce' });
  }
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
    topics: [...topics.values()],
    groups: [...new Set(Object.values(service.consumes).flatMap((c) => c.groups))],
    transactionalIdPrefixes: [],
    schemas: [],
    quotas: [],
  };
}
