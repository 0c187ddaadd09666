import { createPrivateKey, type KeyObject } from 'node:crypto';
import { TurnpikeError } from '@turnpike/core';
import { type Clock, type HttpResponse, shownUrl, type TlsMaterial, type Token, withoutCode } from '@turnpike/core/spi';
import { decodeJwt, SignJWT } from 'jose';
import { readIdentityFile } from './files.ts';
import { exchange } from './http.ts';

export type AssertionAlgorithm = 'ES256' | 'ES384' | 'ES512' | 'RS256' | 'PS256' | 'EdDSA';

/** The client, as the issuer knows it. */
export interface OAuthClient {
  readonly clientId: string;
  readonly clientSecretFile?: string;
  readonly privateKeyFile?: string;
  readonly assertionAlgorithm?: AssertionAlgorithm;
  readonly scope?: string;
  readonly audience?: string;
  readonly timeoutMs?: number;
}

/** A token that neither console.log nor JSON.stringify shows: its text is a private field. */
class AccessToken implements Token {
  readonly expiresAtMs: number;
  readonly #value: string;

  constructor(value: string, expiresAtMs: number) {
    this.#value = value;
    this.expiresAtMs = expiresAtMs;
  }

  get value(): string {
    return this.#value;
  }
}

/** The issuer's token endpoint (RFC 6749, 3.2) as one client speaks to it. */
export class TokenEndpoint {
  readonly #url: URL;
  readonly #options: OAuthClient;
  readonly #clock: Clock;

  constructor(url: URL, options: OAuthClient, clock: Clock) {
    this.#url = url;
    this.#options = options;
    this.#clock = clock;
  }

  /** @throws TurnpikeError IDENTITY_INVALID, CONFIG_INVALID (it redirects), TOKEN_UNAVAILABLE, TLS_FAILED. */
  async fetch(tls: TlsMaterial | undefined): Promise<Token> {
    const { scope, audience, clientId } = this.#options;
    const form = new URLSearchParams({ grant_type: 'client_credentials', ...(scope ? { scope } : {}), ...(audience ? { audience } : {}) });
    const headers: Record<string, string> = { 'content-type': 'application/x-www-form-urlencoded', accept: 'application/json' };
    await this.#authenticate(form, headers);
    const askedAtMs = this.#clock.now();
    const { timeoutMs } = this.#options;
    const request = { url: this.#url.href, method: 'POST', headers, body: form.toString(), ...(timeoutMs === undefined ? {} : { timeoutMs }) } as const;
    const response = await exchange(this.#url, request, tls).catch((error: TurnpikeError) => {
      if (error.code === 'TLS_FAILED') throw error;
      throw new TurnpikeError('TOKEN_UNAVAILABLE', `The issuer gives no token to ${clientId}: ${withoutCode(error)}`, {
        cause: error,
        principal: clientId,
        retriable: true,
      });
    });
    const body = objectIn(response.body);
    if (response.status !== 200 || typeof body.access_token !== 'string') throw this.#refusal(response, body);
    // RFC 6750, 2.1, and Kafka's OAUTHBEARER: else a broker or a header would refuse it without saying why.
    if (!/^[A-Za-z0-9\-._~+/]+=*$/.test(body.access_token))
      throw new TurnpikeError(
        'TOKEN_UNAVAILABLE',
        `${shownUrl(this.#url)} gives ${clientId} no token that can be sent: it holds other characters than RFC 6750 allows.`,
        {
          principal: clientId,
          retriable: true,
        },
      );
    const lifeS = Number(body.expires_in) > 0 ? Number(body.expires_in) : lifeOf(body.access_token, askedAtMs);
    if (lifeS <= 0)
      throw new TurnpikeError(
        'TOKEN_UNAVAILABLE',
        `${shownUrl(this.#url)} gives ${clientId} a token that has expired already. Check this machine's clock and the issuer's.`,
        {
          principal: clientId,
          retriable: true,
        },
      );
    // The life counts from when it was asked for: the answer's way belongs to it.
    return new AccessToken(body.access_token, askedAtMs + lifeS * 1000);
  }

  /** Secrets are read from their file each time: a rotated one applies at the next refresh. */
  async #authenticate(form: URLSearchParams, headers: Record<string, string>): Promise<void> {
    const { clientId, clientSecretFile, privateKeyFile = '' } = this.#options;
    if (clientSecretFile !== undefined) {
      const secret = (await readIdentityFile(clientSecretFile, 'TURNPIKE_CLIENT_SECRET_FILE')).replace(/[\r\n]+$/, '');
      if (secret === '')
        throw new TurnpikeError('IDENTITY_INVALID', `TURNPIKE_CLIENT_SECRET_FILE: ${clientSecretFile} is empty. Mount the client's secret.`, {
          path: clientSecretFile,
        });
      // RFC 6749, 2.3.1: both are form-encoded before they are joined, so that a colon stays what it is.
      headers.authorization = `Basic ${Buffer.from(`${formEncoded(clientId)}:${formEncoded(secret)}`).toString('base64')}`;
      return;
    }
    form.set('client_assertion', await this.#assertion(privateKeyFile));
    form.set('client_assertion_type', 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer');
    form.set('client_id', clientId);
  }

  async #assertion(file: string): Promise<string> {
    const { clientId, assertionAlgorithm } = this.#options;
    const text = await readIdentityFile(file, 'TURNPIKE_CLIENT_KEY_FILE');
    const nowS = Math.floor(this.#clock.now() / 1000);
    try {
      const jwk = text.trimStart().startsWith('{') ? (JSON.parse(text) as { readonly kid?: string }) : undefined;
      const key = createPrivateKey(jwk ? { key: jwk, format: 'jwk' } : text);
      return await new SignJWT({})
        .setProtectedHeader({ alg: assertionAlgorithm ?? algorithmFor(key), ...(jwk?.kid === undefined ? {} : { kid: jwk.kid }) })
        .setIssuer(clientId)
        .setSubject(clientId)
        .setAudience(this.#url.href)
        .setJti(crypto.randomUUID())
        .setIssuedAt(nowS)
        .setExpirationTime(nowS + 60)
        .sign(key);
    } catch {
      // Not kept as the cause: it may quote the key.
      const wanted = assertionAlgorithm ?? 'EC, RSA or Ed25519';
      throw new TurnpikeError(
        'IDENTITY_INVALID',
        `TURNPIKE_CLIENT_KEY_FILE: ${file} is no ${wanted} private key as PEM or JWK without a passphrase. Mount the client's key.`,
        {
          path: file,
        },
      );
    }
  }

  #refusal(response: HttpResponse, body: Readonly<Record<string, unknown>>): TurnpikeError {
    const { clientId } = this.#options;
    const { status, headers } = response;
    const url = shownUrl(this.#url);
    const said = [body.error, body.error_description]
      .filter((s) => typeof s === 'string')
      .join(': ')
      .slice(0, 300);
    const facts = { principal: clientId };
    if (status >= 300 && status < 400)
      return new TurnpikeError(
        'CONFIG_INVALID',
        `${url} answers with a redirect (${status}), and a secret is not sent on. Set TURNPIKE_TOKEN_URL to the token endpoint itself.`,
        facts,
      );
    if (status === 200 || ((status === 404 || status === 405) && said === ''))
      return new TurnpikeError(
        'TOKEN_UNAVAILABLE',
        `${url} answers ${status} (${headers['content-type'] ?? 'no content type'}) without an access_token: ${said || 'it seems to be no token endpoint'}. Check TURNPIKE_TOKEN_URL.`,
        { ...facts, retriable: true },
      );
    if (status >= 400 && status < 500 && status !== 408 && status !== 429)
      return new TurnpikeError(
        'IDENTITY_INVALID',
        `${url} refuses the client ${clientId}: ${said || `status ${status}`}. Check ${said ? '' : 'TURNPIKE_TOKEN_URL, '}TURNPIKE_CLIENT_ID, its secret or key file, TURNPIKE_SCOPE and TURNPIKE_AUDIENCE.`,
        facts,
      );
    return new TurnpikeError('TOKEN_UNAVAILABLE', `${url} gives no token to ${clientId}: ${said || `status ${status}`}.`, { ...facts, retriable: true });
  }
}

/** What `application/x-www-form-urlencoded` makes of it. */
const formEncoded = (text: string): string => new URLSearchParams([[text, '']]).toString().slice(0, -1);

/** The algorithm that a key is for (RFC 7518, RFC 8037). */
function algorithmFor({ asymmetricKeyType, asymmetricKeyDetails }: KeyObject): AssertionAlgorithm {
  if (asymmetricKeyType === 'rsa') return 'RS256';
  if (asymmetricKeyType === 'ed25519') return 'EdDSA';
  return ({ secp384r1: 'ES384', secp521r1: 'ES512' } as const)[asymmetricKeyDetails?.namedCurve ?? ''] ?? 'ES256';
}

/** The object in a JSON text; empty where there is none. */
function objectIn(text: string): Readonly<Record<string, unknown>> {
  try {
    return Object(JSON.parse(text)) as Readonly<Record<string, unknown>>;
  } catch {
    return {};
  }
}

/** An answer without `expires_in` (RFC 6749, 5.1, only recommends it): the token's own `exp`, else a minute. */
function lifeOf(jwt: string, nowMs: number): number {
  try {
    const { exp } = decodeJwt(jwt);
    if (exp !== undefined) return exp - nowMs / 1000;
  } catch {
    // Opaque.
  }
  return 60;
}
