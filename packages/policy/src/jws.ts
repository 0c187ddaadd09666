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
  importPKCS8,
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

export interface SigningKey {
  /** A private key: a JWK, or PKCS #8 as PEM. */
  readonly key: GrantKey | string;
  /** Names the public key among the root keys. Default: the JWK's own. */
  readonly kid?: string;
  /** Default: what the JWK's kind of key is for. */
  readonly alg?: GrantAlgorithm;
}

/** Signs claims as a compact JWS. Rejects with GRANT_INVALID where the claims are wrong, CONFIG_INVALID where the key is. */
export async function signGrant(claims: GrantClaims, signing: SigningKey): Promise<string> {
  checkClaims(claims);
  const jwk = typeof signing.key === 'string' ? undefined : signing.key;
  const kid = signing.kid ?? jwk?.kid;
  const alg = signing.alg ?? (jwk && algorithmOf(jwk));
  const wrong = (what: string, cause?: unknown) =>
    new TurnpikeError(
      'CONFIG_INVALID',
      `The signing key ${what}; give a private P-256 or Ed25519 key as JWK or PKCS #8 PEM, with its kid and alg (ES256 or EdDSA).`,
      {
        ...(cause === undefined ? {} : { cause }),
      },
    );
  if (typeof kid !== 'string' || kid === '') throw wrong('has no kid');
  if (alg === undefined || !ALGORITHMS.includes(alg)) throw wrong('is of a kind that grants are not signed with');
  if (jwk && typeof jwk.d !== 'string') throw wrong('is a public key');
  try {
    const key = typeof signing.key === 'string' ? await importPKCS8(signing.key, alg) : await importJWK(signing.key as JWK, alg);
    return await new CompactSign(Buffer.from(JSON.stringify(claims))).setProtectedHeader({ alg, kid, typ: TYPE }).sign(key);
  } catch (cause) {
    throw wrong(`can't be used with ${alg}`, cause);
  }
}

/** The algorithm that a JWK is for; undefined = none that grants are signed with. */
function algorithmOf(jwk: GrantKey): GrantAlgorithm | undefined {
  if (jwk.kty === 'EC' && jwk.crv === 'P-256') return 'ES256';
  return jwk.kty === 'OKP' && jwk.crv === 'Ed25519' ? 'EdDSA' : undefined;
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
  /** The file that it came from, for messages. */
  readonly path?: string;
}

/** Verifies signature, type, audience, principal, revision and times. Fails closed.
 *
 *  Rejects with GRANT_INVALID, PRINCIPAL_MISMATCH, or GRANT_EXPIRED where `onExpiry` is "refuse"; one that says "hold" is valid past `exp`: see `isExpired()`. */
export async function verifyGrant(token: string, options: VerifyOptions): Promise<GrantClaims> {
  const grant = options.path === undefined ? 'The grant' : `The grant ${options.path}`;
  const claims = checkClaims(await verifiedPayload(token.trim(), options.rootKeys, grant));
  const facts = { principal: options.principal, grantRevision: claims.rev };
  if (claims.aud !== options.audience)
    throw new TurnpikeError(
      'GRANT_INVALID',
      `${grant} is for the environment ${claims.aud}, this service runs in ${options.audience}. Mount the grant of ${options.audience}.`,
      facts,
    );
  if (claims.sub !== options.principal)
    throw new TurnpikeError(
      'PRINCIPAL_MISMATCH',
      `${grant} is for ${claims.sub}, but the identity proves ${options.principal}. Mount the grant of ${options.principal}, or use the identity of ${claims.sub}.`,
      facts,
    );
  if (claims.rev < (options.minRevision ?? 0))
    throw new TurnpikeError(
      'GRANT_INVALID',
      `${grant}'s revision ${claims.rev} is older than ${options.minRevision}, which was in force already. ${REISSUE}`,
      facts,
    );
  const nowS = options.clock.now() / 1000;
  if (claims.nbf > nowS + SKEW_S)
    throw new TurnpikeError('GRANT_INVALID', `${grant} is not valid before ${iso(claims.nbf)}; it is ${iso(nowS)} here. Check this machine's clock.`, facts);
  if (isExpired(claims, options.clock) && claims.onExpiry === 'refuse')
    throw new TurnpikeError('GRANT_EXPIRED', `${grant} expired at ${iso(claims.exp)}. ${REISSUE}`, facts);
  return claims;
}

/** Past `exp`, with the same allowance for skewed clocks as everywhere. A grant that says "hold" stays in force all the same. */
export function isExpired(claims: GrantClaims, clock: Clock): boolean {
  return claims.exp + SKEW_S < clock.now() / 1000;
}

/** What a grant says, unverified: for showing only. Throws GRANT_INVALID when it is no JWS. */
export function decodeGrant(token: string): { header: Readonly<Record<string, unknown>>; claims: Readonly<Record<string, unknown>> } {
  try {
    return { header: decodeProtectedHeader(token.trim()), claims: decodeJwt(token.trim()) };
  } catch (cause) {
    throw new TurnpikeError('GRANT_INVALID', `This is no compact JWS. ${REISSUE}`, { cause });
  }
}

async function verifiedPayload(token: string, rootKeys: readonly GrantKey[], grant: string): Promise<unknown> {
  if (token === '') throw new TurnpikeError('GRANT_INVALID', `${grant} is empty. ${REISSUE}`);
  if (token.split('.').length !== 3 || token.endsWith('.'))
    throw new TurnpikeError('GRANT_INVALID', `${grant} is no signed compact JWS (a signature is missing). ${REISSUE}`);
  try {
    // `algorithms` refuses "none" and everything symmetric; jose itself refuses any `crit` that it isn't told about (RFC 7515, 4.1.11).
    const { payload } = await compactVerify(
      token,
      async (header) => {
        if (header.typ !== TYPE)
          throw new TurnpikeError(
            'GRANT_INVALID',
            `${grant} is none: its type is ${JSON.stringify(header.typ)}, not ${TYPE}. Point TURNPIKE_GRANT at the grant's file.`,
          );
        if (rootKeys.some((k) => 'd' in k))
          throw new TurnpikeError(
            'CONFIG_INVALID',
            'A root key in the generated contract is a private key. Replace it at once: whoever has the code can sign grants.',
          );
        const key = rootKeys.find((k) => k.kid === header.kid && algorithmOf(k) === header.alg);
        if (!key)
          throw new TurnpikeError(
            'GRANT_INVALID',
            `${grant} is signed by the key ${JSON.stringify(header.kid)}, which the generated contract does not pin. Run turnpike generate with the platform's current keys, or have the grant issued by a key that is pinned.`,
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
    throw new TurnpikeError('GRANT_INVALID', `${grant} is refused: ${why}. ${REISSUE}`, { cause });
  }
}

const iso = (s: number): string => new Date(s * 1000).toISOString();
