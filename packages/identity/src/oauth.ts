import { inspect } from 'node:util';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type Clock, type Identity, type Logger, silentLogger, systemClock, type TlsMaterial, type Token } from '@turnpike/core/spi';
import { decodeJwt, importJWK, importPKCS8, SignJWT } from 'jose';
import { readIdentityFile, warnIfReadableByOthers } from './files.ts';
import { exchange, httpPort, isLoopback } from './http.ts';

export interface OAuthOptions {
  /** The issuer's token endpoint (TURNPIKE_TOKEN_URL); https, or on this machine. */
  readonly tokenUrl: string;
  /** TURNPIKE_CLIENT_ID. */
  readonly clientId: string;
  /** A file with the client's secret, sent by client_secret_basic (TURNPIKE_CLIENT_SECRET_FILE). */
  readonly clientSecretFile?: string;
  /** Instead: a file with its private key, PKCS#8 PEM or JWK, for private_key_jwt (RFC 7523; TURNPIKE_CLIENT_KEY_FILE). */
  readonly privateKeyFile?: string;
  /** Of the assertion. Default "ES256". */
  readonly assertionAlgorithm?: 'ES256' | 'RS256' | 'EdDSA';
  /** TURNPIKE_SCOPE. */
  readonly scope?: string;
  /** TURNPIKE_AUDIENCE, sent as `audience`. */
  readonly audience?: string;
  /** PEM with the authorities that issuer, brokers and registry are verified against (TURNPIKE_TLS_CA). Default: Node's. */
  readonly caFile?: string;
  readonly clock?: Clock;
  readonly logger?: Logger;
  readonly random?: () => number;
}

/** A refresh is tried again after this, doubled each time, up to MAX_RETRY_MS. */
const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 30_000;
/** A token this near to its end is not handed out: it could expire on the way. */
const EXPIRY_MARGIN_MS = 1000;

/** An identity by OAuth 2 client credentials (RFC 6749, 4.4). The first token is fetched here, so that a wrong secret fails a deployment. It is refreshed in the background at 70 to 85 %
 *  of its life; a failed refresh is tried again with back-off, and the last good token serves until it really expires.
 *  @throws TurnpikeError CONFIG_INVALID, IDENTITY_INVALID (files; the issuer refuses the client), TOKEN_UNAVAILABLE (retriable: it does not answer), TLS_FAILED. */
export async function oauthIdentity(options: OAuthOptions): Promise<Identity & AsyncDisposable> {
  const url = URL.parse(options.tokenUrl);
  if (!url || !(url.protocol === 'https:' || (url.protocol === 'http:' && isLoopback(url))))
    throw new TurnpikeError('CONFIG_INVALID', `TURNPIKE_TOKEN_URL is ${JSON.stringify(options.tokenUrl)}; it must be an https URL, since a secret goes there.`);
  if ((options.clientSecretFile === undefined) === (options.privateKeyFile === undefined))
    throw new TurnpikeError(
      'CONFIG_INVALID',
      'OAuth needs exactly one of clientSecretFile (TURNPIKE_CLIENT_SECRET_FILE) and privateKeyFile (TURNPIKE_CLIENT_KEY_FILE).',
    );
  const logger = options.logger ?? silentLogger;
  const secretFile = options.clientSecretFile ?? options.privateKeyFile ?? '';
  await readIdentityFile(secretFile, options.clientSecretFile === undefined ? 'TURNPIKE_CLIENT_KEY_FILE' : 'TURNPIKE_CLIENT_SECRET_FILE');
  await warnIfReadableByOthers(secretFile, 'the secret of the OAuth client', logger);
  const ca = options.caFile === undefined ? undefined : await readIdentityFile(options.caFile, 'TURNPIKE_TLS_CA');
  const identity = new OAuthIdentity(options, url, ca);
  await identity.start();
  return identity;
}

class OAuthIdentity implements Identity, AsyncDisposable {
  readonly kind = 'oauth';
  readonly http = httpPort({ tls: () => this.tls(), bearer: async () => (await this.token()).value });
  readonly #options: OAuthOptions;
  readonly #url: URL;
  readonly #ca: string | undefined;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #listeners = new Set<() => void>();
  #current: Token | undefined;
  #principal = '';
  #fetching: Promise<Token> | undefined;
  #timer: Disposable | undefined;
  #failures = 0;
  #closed = false;

  constructor(options: OAuthOptions, url: URL, ca: string | undefined) {
    this.#options = options;
    this.#url = url;
    this.#ca = ca;
    this.#clock = options.clock ?? systemClock;
    this.#logger = options.logger ?? silentLogger;
  }

  async start(): Promise<void> {
    const token = await this.#refresh();
    this.#principal = subjectOf(token) ?? this.#options.clientId;
  }

  get principal(): string {
    return this.#principal;
  }

  tls(): TlsMaterial | undefined {
    return this.#ca === undefined ? undefined : { ca: this.#ca };
  }

  async token(): Promise<Token> {
    const current = this.#current;
    if (current && current.expiresAtMs - EXPIRY_MARGIN_MS > this.#clock.now()) return current;
    return this.#refresh();
  }

  onChange(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#timer?.[Symbol.dispose]();
  }

  [inspect.custom](): string {
    return `OAuthIdentity { principal: ${JSON.stringify(this.#principal)}, tokenUrl: ${JSON.stringify(this.#options.tokenUrl)} }`;
  }

  /** One request at a time, whoever asks. */
  #refresh(): Promise<Token> {
    this.#fetching ??= this.#fetch()
      .then((token) => this.#accept(token))
      .catch((error: unknown) => {
        this.#failures++;
        this.#schedule(Math.min(FIRST_RETRY_MS * 2 ** (this.#failures - 1), MAX_RETRY_MS) * (0.5 + this.#random()));
        throw error;
      })
      .finally(() => {
        this.#fetching = undefined;
      });
    return this.#fetching;
  }

  #accept(token: Token): Token {
    const first = this.#current === undefined;
    this.#failures = 0;
    this.#current = token;
    this.#schedule((token.expiresAtMs - this.#clock.now()) * (0.7 + 0.15 * this.#random()));
    if (!first) for (const listener of this.#listeners) listener();
    return token;
  }

  #schedule(ms: number): void {
    this.#timer?.[Symbol.dispose]();
    if (this.#closed) return;
    this.#timer = this.#clock.after(Math.max(ms, 50), () => {
      this.#refresh().catch((cause: unknown) => {
        const { code, message } = asTurnpikeError(cause, 'TOKEN_UNAVAILABLE', 'the token could not be refreshed');
        this.#logger.warn('identity.refresh_failed', { code, message, validUntil: this.#current && new Date(this.#current.expiresAtMs).toISOString() });
      });
    });
  }

  #random(): number {
    return (this.#options.random ?? Math.random)();
  }

  async #fetch(): Promise<Token> {
    const { scope, audience, clientId } = this.#options;
    const form = new URLSearchParams({ grant_type: 'client_credentials', ...(scope ? { scope } : {}), ...(audience ? { audience } : {}) });
    const headers: Record<string, string> = { 'content-type': 'application/x-www-form-urlencoded', accept: 'application/json' };
    await this.#authenticate(form, headers);
    const askedAtMs = this.#clock.now();
    const response = await exchange(this.#url, { url: this.#options.tokenUrl, method: 'POST', headers, body: form.toString() }, this.tls()).catch(
      (cause: unknown) => {
        const error = asTurnpikeError(cause, 'TOKEN_UNAVAILABLE', 'no answer');
        if (error.code === 'TLS_FAILED') throw error;
        throw new TurnpikeError('TOKEN_UNAVAILABLE', `No token for ${clientId}: ${error.message}`, { cause: error, retriable: true });
      },
    );
    let body: { access_token?: unknown; expires_in?: unknown; error?: unknown; error_description?: unknown };
    try {
      body = JSON.parse(response.body) as typeof body;
    } catch {
      body = {};
    }
    if (response.status !== 200 || typeof body.access_token !== 'string') throw this.#refusal(response.status, body);
    const lifeS = typeof body.expires_in === 'number' && body.expires_in > 0 ? body.expires_in : lifeOf(body.access_token, askedAtMs);
    // The life counts from when it was asked for: the answer's way belongs to it.
    return hidden(body.access_token, askedAtMs + lifeS * 1000);
  }

  /** Secrets are read from their file each time: a rotated one applies at the next refresh. */
  async #authenticate(form: URLSearchParams, headers: Record<string, string>): Promise<void> {
    const { clientId, clientSecretFile, privateKeyFile, assertionAlgorithm = 'ES256', tokenUrl } = this.#options;
    if (clientSecretFile !== undefined) {
      const secret = (await readIdentityFile(clientSecretFile, 'TURNPIKE_CLIENT_SECRET_FILE')).trim();
      headers.authorization = `Basic ${Buffer.from(`${encodeURIComponent(clientId)}:${encodeURIComponent(secret)}`).toString('base64')}`;
      return;
    }
    const file = privateKeyFile ?? '';
    const text = await readIdentityFile(file, 'TURNPIKE_CLIENT_KEY_FILE');
    const nowS = Math.floor(this.#clock.now() / 1000);
    try {
      const jwk = text.trimStart().startsWith('{') ? (JSON.parse(text) as { kid?: string }) : undefined;
      const key = jwk ? await importJWK(jwk as never, assertionAlgorithm) : await importPKCS8(text, assertionAlgorithm);
      const assertion = new SignJWT({})
        .setProtectedHeader({ alg: assertionAlgorithm, ...(jwk?.kid ? { kid: jwk.kid } : {}) })
        .setIssuer(clientId)
        .setSubject(clientId);
      form.set(
        'client_assertion',
        await assertion
          .setAudience(tokenUrl)
          .setJti(crypto.randomUUID())
          .setIssuedAt(nowS)
          .setExpirationTime(nowS + 60)
          .sign(key),
      );
    } catch {
      // Not kept as the cause: it may quote the key.
      throw new TurnpikeError('IDENTITY_INVALID', `TURNPIKE_CLIENT_KEY_FILE: ${file} is no ${assertionAlgorithm} private key as PKCS#8 PEM or JWK.`, {
        path: file,
      });
    }
    form.set('client_assertion_type', 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer');
    form.set('client_id', clientId);
  }

  #refusal(status: number, body: { error?: unknown; error_description?: unknown }): TurnpikeError {
    const { clientId, tokenUrl } = this.#options;
    const said = [body.error, body.error_description].filter((s) => typeof s === 'string').join(': ') || `status ${status}`;
    if (status >= 400 && status < 500 && status !== 429)
      return new TurnpikeError(
        'IDENTITY_INVALID',
        `${tokenUrl} refuses the client ${clientId}: ${said}. Check TURNPIKE_CLIENT_ID, its secret or key file, TURNPIKE_SCOPE and TURNPIKE_AUDIENCE.`,
        { principal: clientId },
      );
    return new TurnpikeError('TOKEN_UNAVAILABLE', `${tokenUrl} gives no token to ${clientId}: ${said}.`, { principal: clientId, retriable: true });
  }
}

/** A token that neither console.log nor JSON.stringify shows. */
function hidden(value: string, expiresAtMs: number): Token {
  const token = { expiresAtMs };
  Object.defineProperty(token, 'value', { value, enumerable: false });
  return token as Token;
}

function subjectOf(token: Token): string | undefined {
  try {
    return decodeJwt(token.value).sub;
  } catch {
    return undefined; // Opaque: the client's id has to do.
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
