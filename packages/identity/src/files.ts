import { X509Certificate } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { TurnpikeError } from '@turnpike/core';
import { type Clock, type Logger, notAPath } from '@turnpike/core/spi';

const ABSENT: readonly unknown[] = ['ENOENT', 'ENOTDIR', 'ENAMETOOLONG'];
/** A secret seldom begins like this; any other value that names no file may be one. */
const PATH_LIKE = /^(\.{0,2}[\\/]|[a-z]:[\\/])/i;

/** Reads a file of an identity. What is given instead of a path may be a secret, and is never quoted. @throws TurnpikeError IDENTITY_INVALID that names the option and the path. */
export async function readIdentityFile(path: string, what: string): Promise<string> {
  const instead = notAPath(path);
  if (instead !== undefined)
    throw new TurnpikeError(
      'IDENTITY_INVALID',
      `${what} is ${instead}, not the path of a file that holds it. Mount it as a file, and set ${what} to its path.`,
    );
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    const absent = ABSENT.includes((cause as NodeJS.ErrnoException).code);
    // No cause either: Node's error quotes the value.
    if (absent && !PATH_LIKE.test(path))
      throw new TurnpikeError(
        'IDENTITY_INVALID',
        `${what} takes the path of a file, and names none that is there (its value isn't shown: it may be the secret itself). Mount the file, and set it to its path, absolute or with ./ before it.`,
      );
    const why = absent ? 'there is no such file; it takes a path' : (cause as Error).message;
    throw new TurnpikeError('IDENTITY_INVALID', `${what}: ${path} can't be read: ${why}. Mount it, or correct the path.`, { cause, path });
  }
}

/** The first certificate of a PEM text. @throws TurnpikeError IDENTITY_INVALID. */
export function certificateOf(pem: string, path: string, what: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (cause) {
    throw new TurnpikeError('IDENTITY_INVALID', `${what}: ${path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----).`, { cause, path });
  }
}

/** A secret that others may read is everybody's. PostgreSQL's rule: its owner alone, or root's with its group, which is what Kubernetes mounts under an `fsGroup`. */
export async function warnIfReadableByOthers(path: string, what: string, logger: Logger): Promise<void> {
  const { mode, uid } = await stat(path);
  if ((mode & (uid === 0 ? 0o037 : 0o077)) === 0) return;
  const remedy = `chmod 600 ${path}; on Kubernetes, defaultMode: 0400 for its volume`;
  logger.warn('identity.file_mode', { path, what, mode: `0${(mode & 0o777).toString(8)}`, remedy });
}

/** Calls `changed` when the content behind a path may be another one; follows symlinks, which Kubernetes swaps. Once at the first look too, for what changed since the files were read;
 *  and again at each look until it says that it has taken in what is there: what isn't valid yet may be in a moment. */
export function watchFiles(
  paths: readonly string[],
  options: { readonly clock: Clock; readonly everyMs: number; readonly changed: () => Promise<'taken' | 'refused'> },
): Disposable {
  const { clock, everyMs, changed } = options;
  let stopped = false;
  let timer: Disposable | undefined;
  let seen: string | undefined;
  const stamp = async () => {
    const stats = await Promise.all(paths.map((p) => stat(p).catch(() => undefined)));
    return stats.map((s) => (s ? `${s.ino}:${s.size}:${s.mtimeMs}` : 'gone')).join(' ');
  };
  const look = async () => {
    const now = await stamp();
    if (!stopped && now !== seen) seen = (await changed()) === 'taken' ? now : undefined;
    schedule();
  };
  const schedule = () => {
    if (!stopped) timer = clock.after(everyMs, () => void look());
  };
  schedule();
  return {
    [Symbol.dispose]() {
      stopped = true;
      timer?.[Symbol.dispose]();
    },
  };
}
