import { readFile } from 'node:fs/promises';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import type { GrantClaims, Logger } from '@turnpike/core/spi';
import { expired, type VerifyOptions, verifyGrant } from './jws.ts';

export interface FileGrantOptions extends Omit<VerifyOptions, 'minRevision'> {
  /** A file with the compact JWS; a symlink may be swapped under it, as Kubernetes does. */
  readonly path: string;
  readonly logger: Logger;
  /** How often the file is looked at, in ms (> 0). Default 2_000: a changed grant is in force within 5 s. */
  readonly pollMs?: number;
}

/** A grant in force, and what replaces it. */
export interface GrantSource extends AsyncDisposable {
  /** The last valid claims. @throws TurnpikeError GRANT_EXPIRED past `exp` where the grant says "refuse". */
  claims(): GrantClaims;
  onChange(listener: (claims: GrantClaims) => void): Disposable;
}

/** Reads and verifies a grant, then watches its file. A new grant that is invalid never displaces a valid one: it is logged, once.
 *  @throws TurnpikeError GRANT_MISSING, and what verifyGrant() throws. */
export async function fileGrant(options: FileGrantOptions): Promise<GrantSource> {
  const source = new FileGrant(options);
  await source.load();
  return source;
}

class FileGrant implements GrantSource {
  readonly #options: FileGrantOptions;
  readonly #listeners = new Set<(claims: GrantClaims) => void>();
  #token = '';
  #refused = '';
  #claims: GrantClaims | undefined;
  #timer: Disposable | undefined;
  #closed = false;

  constructor(options: FileGrantOptions) {
    this.#options = options;
  }

  async load(): Promise<void> {
    this.#token = await this.#read();
    this.#claims = await verifyGrant(this.#token, this.#options);
    this.#schedule();
  }

  claims(): GrantClaims {
    const claims = this.#claims;
    if (!claims) throw new TurnpikeError('GRANT_MISSING', `${this.#options.path} holds no grant.`);
    if (claims.onExpiry === 'refuse' && expired(claims, this.#options.clock))
      throw new TurnpikeError(
        'GRANT_EXPIRED',
        `The grant of ${claims.sub} (revision ${claims.rev}) has expired and no newer one has come to ${this.#options.path}. Have the platform issue one with turnpike grant issue.`,
        {
          principal: claims.sub,
          grantRevision: claims.rev,
          written: 'no',
        },
      );
    return claims;
  }

  onChange(listener: (claims: GrantClaims) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#timer?.[Symbol.dispose]();
  }

  async #read(): Promise<string> {
    const { path } = this.#options;
    try {
      return (await readFile(path, 'utf8')).trim();
    } catch (cause) {
      throw new TurnpikeError(
        'GRANT_MISSING',
        `The grant ${path} can't be read: ${(cause as Error).message}. The platform mounts it; set TURNPIKE_GRANT to its path.`,
        { cause, path },
      );
    }
  }

  #schedule(): void {
    if (this.#closed) return;
    this.#timer = this.#options.clock.after(this.#options.pollMs ?? 2000, () => void this.#refresh().then(() => this.#schedule()));
  }

  async #refresh(): Promise<void> {
    const { logger, path } = this.#options;
    try {
      const token = await this.#read();
      if (token === this.#token || token === this.#refused) return;
      this.#refused = token;
      const claims = await verifyGrant(token, { ...this.#options, minRevision: this.#claims?.rev ?? 0 });
      this.#token = token;
      this.#claims = claims;
      logger.info('grant.changed', { path, revision: claims.rev });
      for (const listener of this.#listeners) listener(claims);
    } catch (error) {
      const { code, message } = asTurnpikeError(error, 'GRANT_INVALID', 'the new grant could not be verified');
      logger.warn('grant.refused', { path, code, message, keeping: this.#claims?.rev });
    }
  }
}
