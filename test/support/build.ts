import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';

/** Builds what is stale, for tests that run the packages as processes do: from `dist`. */
export async function build(): Promise<void> {
  const root = path.resolve(import.meta.dirname, '../..');
  await promisify(execFile)(process.execPath, ['scripts/build.mjs'], { cwd: root });
}
