import { TurnpikeError } from '@turnpike/core';
import type { Clock, Identity, Logger } from '@turnpike/core/spi';
import { anonymousIdentity, mtlsIdentity, oauthIdentity } from '@turnpike/identity';
import { LOCAL_ENVIRONMENT } from '@turnpike/policy';
import type { ServiceContract } from './generated.ts';
import type { Settings } from './settings.ts';

/** The identity that was given, or the one that the environment describes; undefined = neither. */
export async function identityOf(settings: Settings): Promise<{ readonly identity: Identity; readonly own: AsyncDisposable | undefined } | undefined> {
  const given = settings.identity;
  if (given === undefined) return undefined;
  if (!('certFile' in given) && !('tokenUrl' in given)) return { identity: given, own: undefined };
  const context: { clock: Clock; logger: Logger } = { clock: settings.clock, logger: settings.logger };
  const { kind: _, ...options } = given;
  const identity =
    'certFile' in options
      ? await mtlsIdentity({ ...options, ...context })
      : await oauthIdentity({ ...options, ...context, timeoutMs: settings.connectTimeoutMs });
  return { identity, own: identity };
}

/** As identityOf(); the memory transport, which reaches nobody, does without. */
export async function resolveIdentity(
  service: ServiceContract,
  environment: string,
  settings: Settings,
): Promise<{ readonly identity: Identity; readonly own: AsyncDisposable | undefined }> {
  const found = await identityOf(settings);
  if (found) return found;
  if (settings.transport.name === 'memory') return { identity: anonymousIdentity(principalsOf(service, environment)[0] ?? service.name), own: undefined };
  throw noIdentity();
}

export const noIdentity = (): TurnpikeError =>
  new TurnpikeError(
    'CONFIG_INVALID',
    'No identity: set TURNPIKE_TLS_CERT, TURNPIKE_TLS_KEY and TURNPIKE_TLS_CA (mTLS), or TURNPIKE_TOKEN_URL, TURNPIKE_CLIENT_ID and TURNPIKE_CLIENT_SECRET_FILE (OAuth); turnpike dev prints them for the local platform.',
  );

/** On the local platform a service is called by its name, unless its manifest says otherwise. */
function principalsOf(service: ServiceContract, environment: string): readonly string[] {
  return service.environments[environment]?.principals ?? (environment === LOCAL_ENVIRONMENT ? [service.name] : []);
}

/** The environment must be the contract's, and the identity one that the manifest names for it. */
export function environmentOf(service: ServiceContract, settings: Settings): string {
  const names = Object.keys(service.environments);
  const name = settings.environment ?? (names.length === 1 ? names[0] : undefined);
  if (name === undefined) throw new TurnpikeError('CONFIG_INVALID', `No environment: set TURNPIKE_ENV to one of ${names.join(', ')}.`);
  if (!names.includes(name) && name !== LOCAL_ENVIRONMENT)
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `${service.name} has no environment ${JSON.stringify(name)}; turnpike.yaml has ${names.join(', ') || 'none'}. Correct TURNPIKE_ENV, or add it there and run turnpike generate.`,
    );
  return name;
}

export function checkPrincipal(service: ServiceContract, environment: string, identity: Identity): void {
  const principals = principalsOf(service, environment);
  if (principals.includes(identity.principal)) return;
  throw new TurnpikeError(
    'PRINCIPAL_MISMATCH',
    `The identity proves ${identity.principal}, but turnpike.yaml lets ${service.name} run in ${environment} as ${principals.join(', ') || 'nobody'}. Use that identity, or add the principal there and have it applied.`,
    { principal: identity.principal },
  );
}
