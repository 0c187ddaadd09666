import { TurnpikeError } from '@turnpike/core';
import type { Clock, Identity, Logger } from '@turnpike/core/spi';
import { anonymousIdentity, mtlsIdentity, oauthIdentity } from '@turnpike/identity';
import type { ServiceContract } from './generated.ts';
import type { Settings } from './settings.ts';

/** The identity that was given, or the one that the environment describes. */
export async function resolveIdentity(
  service: ServiceContract,
  environment: string,
  settings: Settings,
): Promise<{ identity: Identity; own: AsyncDisposable | undefined }> {
  const given = settings.identity;
  if (given && !('certFile' in given) && !('tokenUrl' in given)) return { identity: given, own: undefined };
  const context: { clock: Clock; logger: Logger } = { clock: settings.clock, logger: settings.logger };
  if (given?.kind === 'mtls') {
    const identity = await mtlsIdentity({ ...given, ...context });
    return { identity, own: identity };
  }
  if (given?.kind === 'oauth') {
    const { kind: _, ...options } = given;
    const identity = await oauthIdentity({ ...options, ...context });
    return { identity, own: identity };
  }
  if (settings.transport?.name === 'memory')
    return { identity: anonymousIdentity(service.environments[environment]?.principals[0] ?? service.name), own: undefined };
  throw new TurnpikeError(
    'CONFIG_INVALID',
    'No identity: set TURNPIKE_TLS_CERT, TURNPIKE_TLS_KEY and TURNPIKE_TLS_CA (mTLS), or TURNPIKE_TOKEN_URL, TURNPIKE_CLIENT_ID and TURNPIKE_CLIENT_SECRET_FILE (OAuth); turnpike dev prints them for the local platform.',
  );
}

/** The environment must be the contract's, and the identity one that the manifest names for it. */
export function environmentOf(service: ServiceContract, settings: Settings): string {
  const names = Object.keys(service.environments);
  const name = settings.environment ?? (names.length === 1 ? names[0] : undefined);
  if (name === undefined) throw new TurnpikeError('CONFIG_INVALID', `No environment: set TURNPIKE_ENV to one of ${names.join(', ')}.`);
  if (!names.includes(name))
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `${service.name} has no environment ${JSON.stringify(name)}; turnpike.yaml has ${names.join(', ') || 'none'}. Correct TURNPIKE_ENV, or add it there and run turnpike generate.`,
    );
  return name;
}

export function checkPrincipal(service: ServiceContract, environment: string, identity: Identity): void {
  const principals = service.environments[environment]?.principals ?? [];
  if (principals.includes(identity.principal)) return;
  throw new TurnpikeError(
    'PRINCIPAL_MISMATCH',
    `The identity proves ${identity.principal}, but turnpike.yaml lets ${service.name} run in ${environment} as ${principals.join(', ') || 'nobody'}. Use that identity, or add the principal there and have it applied.`,
    { principal: identity.principal },
  );
}
