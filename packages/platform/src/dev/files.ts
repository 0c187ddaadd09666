import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { TurnpikeError } from '@turnpike/core';

const CLAIM = 'dev.pid';
/** The variables of the platform's super user. */
export const ADMIN_ENV_FILE = 'platform-admin.env';

/** A folder that only its owner enters, and that is not committed. */
export function makeFolder(folder: string): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  chmodSync(folder, 0o700);
  writeFileSync(path.join(folder, '.gitignore'), '*\n');
}

/** One of an older run may have had another mode. */
export function writeLocal(file: string, text: string): void {
  rmSync(file, { force: true });
  writeFileSync(file, text, { mode: 0o600 });
}

/** The files of one `turnpike dev`. They name a platform that goes with it, so they go with it too. */
export class LocalFiles {
  readonly #written = new Map<string, string>();

  private constructor(claim: string, text: string) {
    this.#written.set(claim, text);
  }

  /** @throws TurnpikeError CONFIG_INVALID: another one that still runs has it. `directory` goes when this process does, however it ends. */
  static claim(folder: string, directory: string): LocalFiles {
    const at = path.resolve(folder);
    makeFolder(at);
    const file = path.join(at, CLAIM);
    const owner = ownerOf(file);
    if (owner !== undefined)
      throw new TurnpikeError(
        'CONFIG_INVALID',
        `${folder} belongs to another turnpike dev (process ${owner}). Stop that one, or give this one another --folder.`,
      );
    rmSync(file, { force: true });
    const text = `${process.pid}\n${directory}\n`;
    // Not over that of one that starts at the same time.
    writeFileSync(file, text, { mode: 0o600, flag: 'wx' });
    return new LocalFiles(file, text);
  }

  wrote(file: string, text: string): void {
    this.#written.set(file, text);
  }

  /** Removes those that are as they were written: what another has written since is another's. */
  release(): void {
    for (const [file, text] of this.#written) if (contentOf(file) === text) rmSync(file, { force: true });
  }
}

/** The process that has it, if that still runs. A process number may be another's by now; then the directory is gone. */
function ownerOf(file: string): number | undefined {
  const [pid, directory = ''] = contentOf(file)?.split('\n') ?? [];
  return existsSync(directory) && isAlive(Number(pid)) ? Number(pid) : undefined;
}

function isAlive(pid: number): boolean {
  if (!Number.isInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

function contentOf(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}
