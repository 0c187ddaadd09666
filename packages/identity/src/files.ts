import { readFile, stat } from 'node:fs/promises';
import { TurnpikeError } from '@turnpike/core';
import type { Clock, Logger } from '@turnpike/core/spi';

/** Reads a file of an identity. @throws TurnpikeError IDENTITY_INVALID that names the option and the path. */
export async function readIdentityFile(path: string, what: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code === 'ENOENT' ? 'there is no such file' : (cause as Error).message;
    throw new TurnpikeError('IDENTITY_INVALID', `${what}: ${path} can't be read: ${why}. Mount it, or correct the path.`, { cause, path });
  }
}

/** A private key that others may read is everybody's. */
export async function warnIfReadableByOthers(path: string, what: string, logger: Logger): Promise<void> {
  const { mode } = await stat(path);
  if ((mode & 0o077) !== 0) logger.warn('identity.file_mode', { path, what, mode: `0${(mode & 0o777).toString(8)}`, remedy: `chmod 600 ${path}` });
}

/** Calls `changed` when the content behind a path is another one; follows symlinks, which Kubernetes swaps. */
export function watchFiles(
  paths: readonly string[],
  options: { readonly clock: Clock; readonly everyMs: number; readonly changed: () => Promise<void> },
): Disposable {
  const { clock, everyMs, changed } = options;
  let stopped = false;
  let timer: Disposable | undefined;
  let seen: string | undefined;
  const stamp = async () =>
    (
      await Promise.all(
        paths.map((p) =>
          stat(p).then(
            (s) => `${s.ino}:${s.size}:${s.mtimeMs}`,
            () => 'gone',
          ),
        ),
      )
    ).join(' ');
  const look = async () => {
    const now = await stamp();
    if (!stopped && seen !== undefined && now !== seen) await changed();
    seen = now;
    if (!stopped) timer = clock.after(everyMs, () => void look());
  };
  void look();
  return {
    [Symbol.dispose]() {
      stopped = true;
      timer?.[Symbol.dispose]();
    },
  };
}
