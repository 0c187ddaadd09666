import { TurnpikeError } from '@turnpike/core';
import type { Clock, GrantClaims } from '@turnpike/core/spi';
import {
  CompactSign,
  calculateJwkThumbprint,
  compactVerify,
  decodeJwt,
  decodeProtectedHeader,
  errors,
  exportJWK,
  generateKeyPair,
  importJWK,
  type JWK,
} from 'jose';
import { checkClaims } from './claims.ts';

export type GrantAlgorithm = 'ES256' | 'EdDSA';

/** A public or private key as JWK (RFC 7517), with its `kid`. */
export type GrantKey = Readonly<Record<string, unknown>>;

/** The media type of a grant (RFC 8725, section 3.11): no other token signed by the same key can be taken for one. */
const TYPE = 'turnpike-grant+jwt';
const ALGORITHMS: readonly string[] = ['ES256', 'EdDSA'];
const REISSUE = 'Have the platform issue it anew with turnpike grant issue.';
/** Clocks of issuer and service may differ by so much. */
const SKEW_S = 60;

/** A key pair for signing grants; `kid` is the public key's RFC 7638 thumbprint. */
export async function generateSigningKey(algorithm: GrantAlgorithm = 'ES256'): Promise<{ kid: string; privateJwk: GrantKey; publicJwk: GrantKey }> {
  const { publicKey, privateKey } = await generateKeyPair(algorithm, { extractable: true });
  const publicPart = await exportJWK(publicKey);
  const kid = await calculateJwkThumbprint(publicPart);
  const common = { kid, alg: algorithm, use: 'sig' };
  return { kid, privateJwk: { ...(await exportJWK(privateKey)), ...common }, publicJwk: { ...publicPart, ...common } };
}

/** Signs claims as a compact JWS. @throws TurnpikeError GRANT_INVALID when the claims are, CONFIG_INVALID when the key is. */
export async function signGrant(claims: GrantClaims, key: GrantKey): Promise<string> {
  checkClaims(claims);
  const { kid, alg } = key;
  if (typeof kid !== 'string' || !ALGORITHMS.includes(String(alg)) || typeof key.d !== 'string')
    throw new TurnpikeError('CONFIG_INVALID', 'The signing key must be a private JWK with kid and alg (ES256 or EdDSA); make one with turnpike grant keygen.');
  const privateKey = await importJWK(key as JWK, String(alg));
  return new CompactSign(Buffer.from(JSON.stringify(claims))).setProtectedHeader({ alg: String(alg), kid, typ: TYPE }).sign(privateKey);
}

export interface VerifyOptions {
  /** Public keys that may have signed it; anything else is refused. */
  readonly rootKeys: readonly GrantKey[];
  /** The environment. */
  readonly audience: string;
  readonly principal: string;
  readonly clock: Clock;
  /** Refuses a lower one: a replayed grant. Default 0. */
  readonly minRevision?: number;
}

/** Verifies signature, type, audience, principal, revision and times. Fails closed.
 *  @throws TurnpikeError GRANT_INVALID, GRANT_EXPIRED (where `onExpiry` is "refuse"), PRINCIPAL_MISMATCH. */
export async function verifyGrant(token: string, options: VerifyOptions): Promise<GrantClaims> {
  const claims = checkClaims(await verifiedPayload(token.trim(), options.rootKeys));
  const facts = { principal: options.principal, grantRevision: claims.rev };
  if (claims.aud !== options.audience)
    throw new TurnpikeError(
      'GRANT_INVALID',
      `The grant is for the environment ${claims.aud}, this service runs in ${options.audience}. Mount the grant of ${options.audience}.`,
      facts,
    );
  if (claims.sub !== options.principal)
    throw new TurnpikeError(
      'PRINCIPAL_MISMATCH',
      `The grant is for ${claims.sub}, but the identity proves ${options.principal}. Mount the grant of ${options.principal}, or use the identity of ${claims.sub}.`,
      facts,
    );
  if (claims.rev < (options.minRevision ?? 0))
    throw new TurnpikeError(
      'GRANT_INVALID',
      `The grant's revision ${claims.rev} is older than ${options.minRevision}, which was in force already. ${REISSUE}`,
      facts,
    );
  const nowS = options.clock.now() / 1000;
  if (claims.nbf > nowS + SKEW_S)
    throw new TurnpikeError('GRANT_INVALID', `The grant is not valid before ${iso(claims.nbf)}; it is ${iso(nowS)} here. Check this machine's clock.`, facts);
  if (expired(claims, options.clock) && claims.onExpiry === 'refuse')
    throw new TurnpikeError('GRANT_EXPIRED', `The grant expired at ${iso(claims.exp)}. ${REISSUE}`, facts);
  return claims;
}

export function expired(claims: GrantClaims, clock: Clock): boolean {
  return claims.exp + SKEW_S < clock.now() / 1000;
}

/** What a grant says, unverified: for showing only. @throws TurnpikeError GRANT_INVALID when it is no JWS. */
export function decodeGrant(token: string): { header: Readonly<Record<string, unknown>>; claims: Readonly<Record<string, unknown>> } {
  try {
    return { header: decodeProtectedHeader(token.trim()), claims: decodeJwt(token.trim()) };
  } catch (cause) {
    throw new TurnpikeError('GRANT_INVALID', `This is no compact JWS. ${REISSUE}`, { cause });
  }
}

async function verifiedPayload(token: string, rootKeys: readonly GrantKey[]): Promise<unknown> {
  if (token.split('.').length !== 3 || token.endsWith('.'))
    throw new TurnpikeError('GRANT_INVALID', `The grant is no signed compact JWS (a signature is missing). ${REISSUE}`);
  try {
    // `algorithms` refuses "none" and everything symmetric; jose itself refuses any `crit` that it isn't told about (RFC 7515, 4.1.11).
    const { payload } = await compactVerify(
      token,
      async (header) => {
        if (header.typ !== TYPE)
          throw new TurnpikeError(
            'GRANT_INVALID',
            `The token's type is ${JSON.stringify(header.typ)}, not ${TYPE}: it is no grant. Point TURNPIKE_GRANT at the grant's file.`,
          );
        const key = rootKeys.find((k) => k.kid === header.kid && k.alg === header.alg);
        if (!key)
          throw new TurnpikeError(
            'GRANT_INVALID',
            `The grant is signed by the key ${JSON.stringify(header.kid)}, which the generated contract does not pin. Run turnpike generate with the platform's current keys, or have the grant issued by a key that is pinned.`,
          );
        return importJWK(key as JWK, header.alg);
      },
      { algorithms: [...ALGORITHMS] },
    );
    return JSON.parse(Buffer.from(payload).toString('utf8'));
  } catch (cause) {
    if (cause instanceof TurnpikeError) throw cause;
    const why =
      cause instanceof errors.JWSSignatureVerificationFailed ? 'its signature is wrong: it was changed after it was signed' : (cause as Error).message;
    throw new TurnpikeError('GRANT_INVALID', `The grant is refused: ${why}. ${REISSUE}`, { cause });
  }
}

const iso = (s: number): string => new Date(s * 1000).toISOString();
