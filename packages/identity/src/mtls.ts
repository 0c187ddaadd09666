import { createPrivateKey, type KeyObject, type X509Certificate } from 'node:crypto';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type Clock, type Identity, type Logger, silentLogger, systemClock, type TlsMaterial } from '@turnpike/core/spi';
import { certificateOf, readIdentityFile, warnIfReadableByOthers, watchFiles } from './files.ts';
import { httpPort } from './http.ts';
import { tellAll } from './listeners.ts';

export interface MtlsOptions {
  /** PEM with the authorities that brokers, issuer and registry are verified against (TURNPIKE_TLS_CA). */
  readonly caFile: string;
  /** PEM: the certificate, then its intermediates (TURNPIKE_TLS_CERT). */
  readonly certFile: string;
  /** PEM: its private key, PKCS#8 or older (TURNPIKE_TLS_KEY). */
  readonly keyFile: string;
  /** How often the files are looked at, in ms (> 0). Default 5_000. */
  readonly pollMs?: number;
  readonly clock?: Clock;
  readonly logger?: Logger;
}

/** An identity by client certificate. Its principal is the subject's CN, which the platform's brokers map to (`ssl.principal.mapping.rules`), else the whole RFC 2253 name.
 *  Files are watched: new material that is valid is used for new connections; invalid material never displaces valid.
 *  @throws TurnpikeError IDENTITY_INVALID: unreadable, no PEM, key of another certificate, expired, not yet valid. */
export async function mtlsIdentity(options: MtlsOptions): Promise<Identity & AsyncDisposable> {
  const { clock = systemClock, logger = silentLogger } = options;
  await warnIfReadableByOthers(options.keyFile, 'TURNPIKE_TLS_KEY', logger).catch(() => {}); // A file that isn't there is told of by load().
  return new MtlsIdentity(options, clock, logger, await load(options, clock));
}

interface Loaded {
  readonly material: TlsMaterial;
  readonly principal: string;
  readonly notAfter: Date;
}

class MtlsIdentity implements Identity, AsyncDisposable {
  readonly kind = 'mtls';
  readonly principal: string;
  readonly http = httpPort({ tls: () => this.#loaded.material });
  readonly #listeners = new Set<() => void>();
  readonly #watch: Disposable;
  #loaded: Loaded;

  constructor(options: MtlsOptions, clock: Clock, logger: Logger, loaded: Loaded) {
    this.#loaded = loaded;
    this.principal = loaded.principal;
    let trouble = ''; // Told last, so that a lasting trouble is told once.
    const reload = async () => {
      try {
        const next = await load(options, clock);
        if (next.principal !== this.principal)
          throw new TurnpikeError(
            'PRINCIPAL_MISMATCH',
            `${options.certFile} is now ${next.principal}'s, not ${this.principal}'s; a process keeps its principal. Restart it for another.`,
          );
        trouble = '';
        if (next.material.cert !== this.#loaded.material.cert || next.material.ca !== this.#loaded.material.ca) this.#rotate(next, logger);
        return 'taken';
      } catch (error) {
        const { code, message } = asTurnpikeError(error, 'IDENTITY_INVALID', 'the new certificate could not be read');
        if (message !== trouble) logger.warn('identity.rotation_refused', { code, message, keepingUntil: this.#loaded.notAfter.toISOString() });
        trouble = message;
        return 'refused';
      }
    };
    this.#watch = watchFiles([options.caFile, options.certFile, options.keyFile], { clock, everyMs: options.pollMs ?? 5000, changed: reload });
  }

  tls(): TlsMaterial {
    return this.#loaded.material;
  }

  async token(): Promise<never> {
    throw new TurnpikeError(
      'IDENTITY_INVALID',
      `${this.principal} proves itself by certificate and has no token; use the cluster's mTLS listener, or set TURNPIKE_TOKEN_URL for OAuth.`,
      { principal: this.principal },
    );
  }

  onChange(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#watch[Symbol.dispose]();
  }

  #rotate(next: Loaded, logger: Logger): void {
    this.#loaded = next;
    logger.info('identity.rotated', { principal: this.principal, notAfter: next.notAfter.toISOString() });
    tellAll(this.#listeners, logger);
  }
}

async function load({ caFile, certFile, keyFile }: MtlsOptions, clock: Clock): Promise<Loaded> {
  const [ca, cert, key] = await Promise.all([
    readIdentityFile(caFile, 'TURNPIKE_TLS_CA'),
    readIdentityFile(certFile, 'TURNPIKE_TLS_CERT'),
    readIdentityFile(keyFile, 'TURNPIKE_TLS_KEY'),
  ]);
  certificateOf(ca, caFile, 'TURNPIKE_TLS_CA');
  const leaf = certificateOf(cert, certFile, 'TURNPIKE_TLS_CERT');
  let privateKey: KeyObject;
  try {
    privateKey = createPrivateKey(key);
  } catch {
    // Not kept as the cause: OpenSSL's error may quote the key.
    const remedy = key.includes('ENCRYPTED')
      ? 'is encrypted. Mount it without a passphrase.'
      : `is no private key in PEM form. Mount the key that belongs to ${certFile}.`;
    throw new TurnpikeError('IDENTITY_INVALID', `TURNPIKE_TLS_KEY: ${keyFile} ${remedy}`, { path: keyFile });
  }
  if (!leaf.checkPrivateKey(privateKey))
    throw new TurnpikeError(
      'IDENTITY_INVALID',
      `TURNPIKE_TLS_KEY: the key ${keyFile} does not belong to the certificate ${certFile}. Mount both from the same secret.`,
      { path: keyFile },
    );
  const now = clock.now();
  const [notBefore, notAfter] = [new Date(leaf.validFrom), new Date(leaf.validTo)];
  if (now > notAfter.getTime())
    throw new TurnpikeError('IDENTITY_INVALID', `The certificate ${certFile} expired at ${notAfter.toISOString()}. Have it renewed.`, { path: certFile });
  if (now < notBefore.getTime())
    throw new TurnpikeError(
      'IDENTITY_INVALID',
      `The certificate ${certFile} is not valid before ${notBefore.toISOString()}, which lies ahead of this machine's clock. Correct the clock, or wait.`,
      { path: certFile },
    );
  return { material: { ca, cert, key }, principal: principalOf(leaf), notAfter };
}

/** Node prints one attribute a line, in the order of the certificate; RFC 2253, which a broker sees, prints them reversed. */
function principalOf(leaf: X509Certificate): string {
  const attributes = leaf.subject.split('\n').reverse();
  const name = attributes.find((a) => a.startsWith('CN='))?.slice(3);
  return name ?? attributes.join(',');
}
