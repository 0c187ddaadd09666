import { inspect } from 'node:util';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type Clock, type Identity, type Logger, shownUrl, silentLogger, systemClock, type TlsMaterial, type Token, withoutCode } from '@turnpike/core/spi';
import { decodeJwt } from 'jose';
import { certificateOf, readIdentityFile, warnIfReadableByOthers, watchFiles } from './files.ts';
import { httpPort, isLoopback } from './http.ts';
import { tellAll } from './listeners.ts';
import { type AssertionAlgorithm, TokenEndpoint } from './token-endpoint.ts';

export interface OAuthOptions {
  /** The issuer's token endpoint (TURNPIKE_TOKEN_URL); https, or on this machine. */
  readonly tokenUrl: string;
  /** TURNPIKE_CLIENT_ID. */
  readonly clientId: string;
  /** A file with the client's secret, sent by client_secret_basic (TURNPIKE_CLIENT_SECRET_FILE). */
  readonly clientSecretFile?: string;
  /** Instead: a file with its private key, PEM or JWK, for private_key_jwt (RFC 7523; TURNPIKE_CLIENT_KEY_FILE). */
  readonly privateKeyFile?: string;
  /** Of the assertion. Default: what the key is for: ES256, ES384 or ES512 by its curve, RS256, EdDSA. */
  readonly assertionAlgorithm?: AssertionAlgorithm;
  /** TURNPIKE_SCOPE. */
  readonly scope?: string;
  /** TURNPIKE_AUDIENCE, sent as `audience`. */
  readonly audience?: string;
  /** PEM with the authorities that issuer, brokers and registry are verified against (TURNPIKE_TLS_CA); watched like the files of mtlsIdentity(). Default: Node's. */
  readonly caFile?: string;
  /** How often that file is looked at, in ms (> 0). Default 5_000. */
  readonly pollMs?: number;
  /** How long the issuer may take to answer, in ms (> 0). Default 10_000. */
  readonly timeoutMs?: number;
  readonly clock?: Clock;
  readonly logger?: Logger;
  readonly random?: () => number;
}

/** A refresh is tried again after this, doubled each time, up to MAX_RETRY_MS. Nobody asks a failing issuer more often. */
const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 30_000;
/** A token this near to its end is replaced before it is handed out: it could expire on the way. */
const EXPIRY_MARGIN_MS = 1000;

/** An identity by OAuth 2 client credentials (RFC 6749, 4.4). Its principal is the first token's `sub`, else the client's id. That token is fetched here, so that a wrong secret fails a
 *  deployment. It is refreshed in the background at 70 to 85 % of its life; a failed refresh is tried again with back-off, and the last good token serves until it really expires.
 *  @throws TurnpikeError CONFIG_INVALID, IDENTITY_INVALID (files; the issuer refuses the client), TOKEN_UNAVAILABLE (retriable: it does not answer), TLS_FAILED. */
export async function oauthIdentity(options: OAuthOptions): Promise<Identity & AsyncDisposable> {
  const url = URL.parse(options.tokenUrl);
  if (!url || !(url.protocol === 'https:' || (url.protocol === 'http:' && isLoopback(url))) || url.username !== '' || url.password !== '')
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `TURNPIKE_TOKEN_URL is ${url ? shownUrl(url) : 'no URL'}; it must be an https URL without a user, since a secret goes there (http only on this machine).`,
    );
  if ((options.clientSecretFile === undefined) === (options.privateKeyFile === undefined))
    throw new TurnpikeError(
      'CONFIG_INVALID',
      'OAuth needs exactly one of clientSecretFile (TURNPIKE_CLIENT_SECRET_FILE) and privateKeyFile (TURNPIKE_CLIENT_KEY_FILE).',
    );
  const secretFile = options.clientSecretFile ?? options.privateKeyFile ?? '';
  await readIdentityFile(secretFile, options.clientSecretFile === undefined ? 'TURNPIKE_CLIENT_KEY_FILE' : 'TURNPIKE_CLIENT_SECRET_FILE');
  await warnIfReadableByOthers(secretFile, 'the secret of the OAuth client', options.logger ?? silentLogger);
  const identity = new OAuthIdentity(options, url, options.caFile === undefined ? undefined : await readAuthorities(options.caFile));
  try {
    await identity.start();
  } catch (error) {
    await identity[Symbol.asyncDispose](); // Nobody else can: its retries would go on for ever.
    throw error;
  }
  return identity;
}

async function readAuthorities(caFile: string): Promise<string> {
  const ca = await readIdentityFile(caFile, 'TURNPIKE_TLS_CA');
  certificateOf(ca, caFile, 'TURNPIKE_TLS_CA');
  return ca;
}

class OAuthIdentity implements Identity, AsyncDisposable {
  readonly kind = 'oauth';
  readonly http = httpPort({ tls: () => this.tls(), bearer: async () => (await this.token()).value });
  readonly #options: OAuthOptions;
  readonly #url: URL;
  readonly #endpoint: TokenEndpoint;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #listeners = new Set<() => void>();
  #ca: string | undefined;
  /** Told last, so that a lasting trouble is told once. */
  #caTrouble = '';
  #watch: Disposable | undefined;
  #current: Token | undefined;
  #principal: string | undefined;
  #fetching: Promise<Token> | undefined;
  #timer: Disposable | undefined;
  #failures = 0;
  #lastFailure: { readonly error: TurnpikeError; readonly atMs: number } | undefined;
  #closed = false;

  constructor(options: OAuthOptions, url: URL, ca: string | undefined) {
    this.#options = options;
    this.#url = url;
    this.#ca = ca;
    this.#clock = options.clock ?? systemClock;
    this.#logger = options.logger ?? silentLogger;
    this.#endpoint = new TokenEndpoint(url, options, this.#clock);
  }

  async start(): Promise<void> {
    await this.#refresh();
    const { caFile, pollMs = 5000 } = this.#options;
    if (caFile === undefined) return;
    this.#watch = watchFiles([caFile], { clock: this.#clock, everyMs: pollMs, changed: () => this.#reloadAuthorities(caFile) });
  }

  get principal(): string {
    return this.#principal ?? this.#options.clientId;
  }

  tls(): TlsMaterial | undefined {
    return this.#ca === undefined ? undefined : { ca: this.#ca };
  }

  async token(): Promise<Token> {
    const last = this.#current;
    if (last && last.expiresAtMs - EXPIRY_MARGIN_MS > this.#clock.now()) return last;
    try {
      const failed = this.#lastFailure;
      if (failed && this.#clock.monotonic() - failed.atMs < FIRST_RETRY_MS) throw failed.error;
      return await this.#refresh();
    } catch (cause) {
      if (last && last.expiresAtMs > this.#clock.now()) return last;
      const message = withoutCode(cause as TurnpikeError);
      const since = last ? `; the last one expired at ${new Date(last.expiresAtMs).toISOString()}` : '';
      throw new TurnpikeError('TOKEN_UNAVAILABLE', `No token for ${this.principal}${since}: ${message}`, { cause, principal: this.principal, retriable: true });
    }
  }

  onChange(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#timer?.[Symbol.dispose]();
    this.#watch?.[Symbol.dispose]();
  }

  [inspect.custom](): string {
    return `OAuthIdentity { principal: ${JSON.stringify(this.principal)}, tokenUrl: ${JSON.stringify(shownUrl(this.#url))} }`;
  }

  /** One request at a time, whoever asks. */
  #refresh(): Promise<Token> {
    this.#fetching ??= this.#endpoint
      .fetch(this.tls())
      .then((token) => this.#accept(token))
      .catch((cause: unknown) => {
        const error = asTurnpikeError(cause, 'TOKEN_UNAVAILABLE', `No token for ${this.#options.clientId}: its answer could not be read.`, { retriable: true });
        this.#lastFailure = { error, atMs: this.#clock.monotonic() };
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
    const principal = subjectOf(token) ?? this.#options.clientId;
    if (this.#principal !== undefined && principal !== this.#principal)
      throw new TurnpikeError(
        'PRINCIPAL_MISMATCH',
        `The issuer's token is now ${principal}'s, not ${this.#principal}'s; a process keeps its principal. Restart it for another.`,
        { principal: this.#principal },
      );
    this.#principal = principal;
    if (this.#failures > 0) this.#logger.info('identity.recovered', { principal, failures: this.#failures });
    this.#failures = 0;
    this.#lastFailure = undefined;
    const first = this.#current === undefined;
    this.#current = token;
    this.#schedule((token.expiresAtMs - this.#clock.now()) * (0.7 + 0.15 * this.#random()));
    if (!first) tellAll(this.#listeners, this.#logger);
    return token;
  }

  #schedule(ms: number): void {
    this.#timer?.[Symbol.dispose]();
    if (this.#closed) return;
    this.#timer = this.#clock.after(Math.max(ms, FIRST_RETRY_MS / 2), () => {
      this.#refresh().catch(({ code, message }: TurnpikeError) => {
        this.#logger.warn('identity.refresh_failed', { code, message, validUntil: this.#current && new Date(this.#current.expiresAtMs).toISOString() });
      });
    });
  }

  async #reloadAuthorities(caFile: string): Promise<'taken' | 'refused'> {
    try {
      const ca = await readAuthorities(caFile);
      if (ca === this.#ca) return 'taken';
      this.#ca = ca;
      this.#logger.info('identity.rotated', { principal: this.principal, path: caFile });
      tellAll(this.#listeners, this.#logger);
      return 'taken';
    } catch (error) {
      const { code, message } = error as TurnpikeError;
      if (message !== this.#caTrouble) this.#logger.warn('identity.rotation_refused', { code, message });
      this.#caTrouble = message;
      return 'refused';
    }
  }

  #random(): number {
    return (this.#options.random ?? Math.random)();
  }
}

function subjectOf(token: Token): string | undefined {
  try {
    return decodeJwt(token.value).sub;
  } catch {
    return undefined; // Opaque: the client's id has to do.
  }
}
