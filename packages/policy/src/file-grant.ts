import { readFile } from 'node:fs/promises';
import { asTurnpikeError, OptionReader, TurnpikeError } from '@turnpike/core';
import { type GrantClaims, type Logger, notAPath } from '@turnpike/core/spi';
import { isExpired, type VerifyOptions, verifyGrant } from './jws.ts';

export interface FileGrantOptions extends Omit<VerifyOptions, 'minRevision' | 'path'> {
  /** A file with the compact JWS; a symlink may be swapped under it, as Kubernetes does. */
  readonly path: string;
  readonly logger: Logger;
  /** How often the file is looked at, in ms (> 0). Default 2_000: a changed grant is in force within 5 s. */
  readonly pollMs?: number;
}

/** Where a grant comes from: a port, whatever brings it. */
export interface GrantSource extends AsyncDisposable {
  /** The last valid claims; the same object until they change. Throws GRANT_EXPIRED past `exp` where the grant says "refuse". */
  claims(): GrantClaims;
  /** Called when other claims are in force. */
  onChange(listener: (claims: GrantClaims) => void): Disposable;
}

/** Reads and verifies a grant, then watches its file. A new one that is invalid, older or can't be read never displaces the valid one: that is logged once. One past `exp` that says
 *  "hold" goes on holding, with a warning. Rejects with GRANT_MISSING, CONFIG_INVALID (no path), and what `verifyGrant()` rejects with. */
export async function fileGrant(options: FileGrantOptions): Promise<GrantSource> {
  const reader = new OptionReader('fileGrant', { pollMs: options.pollMs });
  const source = new FileGrant(options, reader.number('pollMs', { min: 1, default: 2_000 }));
  const instead = notAPath(options.path);
  if (instead !== undefined)
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `TURNPIKE_GRANT is ${instead === 'a signed token' ? 'a grant' : instead}, not the path of one: a grant is read from a file; have the platform mount it and set TURNPIKE_GRANT to its path.`,
    );
  await source.load();
  return source;
}

class FileGrant implements GrantSource {
  readonly #options: FileGrantOptions;
  readonly #pollMs: number;
  readonly #listeners = new Set<(claims: GrantClaims) => void>();
  #token = '';
  #claims: GrantClaims | undefined;
  /** What was logged last, so that a lasting trouble is logged once. */
  #trouble = '';
  #expiryLogged: number | undefined;
  #timer: Disposable | undefined;
  #closed = false;

  constructor(options: FileGrantOptions, pollMs: number) {
    this.#options = options;
    this.#pollMs = pollMs;
  }

  async load(): Promise<void> {
    this.#token = await this.#read();
    this.#claims = await verifyGrant(this.#token, this.#options);
    this.#noteExpiry(this.#claims);
    this.#schedule();
  }

  claims(): GrantClaims {
    const claims = this.#claims;
    const { path, clock } = this.#options;
    if (!claims) throw new TurnpikeError('GRANT_MISSING', `${path} holds no grant.`);
    if (claims.onExpiry === 'refuse' && isExpired(claims, clock)) {
      throw new TurnpikeError(
        'GRANT_EXPIRED',
        `The grant of ${claims.sub} (revision ${claims.rev}) has expired and no newer one has come to ${path}. Have the platform issue one: turnpike grant issue.`,
        { principal: claims.sub, grantRevision: claims.rev, written: 'no' },
      );
    }
    return claims;
  }

  onChange(listener: (claims: GrantClaims) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#timer?.[Symbol.dispose]();
    this.#listeners.clear();
  }

  async #read(): Promise<string> {
    const { path } = this.#options;
    try {
      return (await readFile(path, 'utf8')).trim();
    } catch (cause) {
      throw new TurnpikeError(
        'GRANT_MISSING',
        `The grant ${path} can't be read: ${(cause as Error).message}. The platform mounts it; set TURNPIKE_GRANT to its path.`,
        {
          cause,
          path,
        },
      );
    }
  }

  #schedule(): void {
    if (this.#closed) return;
    this.#timer = this.#options.clock.after(this.#pollMs, () => void this.#refresh().then(() => this.#schedule()));
  }

  async #refresh(): Promise<void> {
    const { path, logger } = this.#options;
    const inForce = this.#claims;
    try {
      const token = await this.#read();
      if (this.#closed) return;
      if (inForce && token === this.#token) {
        this.#trouble = '';
        this.#noteExpiry(inForce);
        return;
      }
      // Verified again each time: what isn't valid yet may be in a moment.
      const claims = await verifyGrant(token, { ...this.#options, minRevision: inForce?.rev ?? 0 });
      if (this.#closed) return;
      this.#token = token;
      this.#claims = claims;
      this.#trouble = '';
      logger.info('grant.changed', { path, grantRevision: claims.rev });
      this.#noteExpiry(claims);
      this.#tell(claims);
    } catch (cause) {
      const { code, message } = asTurnpikeError(cause, 'GRANT_INVALID', 'the new grant could not be verified');
      if (message !== this.#trouble) logger.warn('grant.refused', { path, code, message, keptRevision: inForce?.rev });
      this.#trouble = message;
    }
  }

  #tell(claims: GrantClaims): void {
    for (const listener of this.#listeners) {
      try {
        listener(claims);
      } catch (error) {
        this.#options.logger.error('grant.listener_failed', { message: (error as Error).message });
      }
    }
  }

  #noteExpiry(claims: GrantClaims): void {
    if (this.#expiryLogged === claims.rev || !isExpired(claims, this.#options.clock)) return;
    this.#expiryLogged = claims.rev;
    this.#options.logger.warn('grant.expired', {
      path: this.#options.path,
      grantRevision: claims.rev,
      onExpiry: claims.onExpiry,
      remedy: 'Have the platform issue a new one: turnpike grant issue.',
    });
  }
}
