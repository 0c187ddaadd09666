// The packages as a user gets them: packed, never the workspace's own files.
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

export const root = path.resolve(import.meta.dirname, '../..');

export interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly license: string;
  readonly keywords: readonly string[];
  readonly sideEffects: boolean;
  readonly engines: { readonly node: string };
  readonly exports: Readonly<Record<string, string | { readonly types: string; readonly default: string }>>;
  readonly bin?: Readonly<Record<string, string>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly peerDependenciesMeta?: Readonly<Record<string, { readonly optional?: boolean }>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
  readonly scripts?: Readonly<Record<string, string>>;
}

export interface Tarball {
  /** `core` of `@turnpike/core`. */
  readonly name: string;
  readonly file: string;
  /** Unpacked, as npm would. */
  readonly folder: string;
  readonly manifest: Manifest;
}

export const names: readonly string[] = readdirSync(path.join(root, 'packages')).sort();

export function manifestOf(folder: string): Manifest {
  return JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8')) as Manifest;
}

/** A folder outside the workspace: nothing in it resolves to the workspace by accident. */
export function outside(prefix: string): Disposable & { readonly path: string } {
  const folder = realpathSync(mkdtempSync(path.join(tmpdir(), prefix)));
  return { path: folder, [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }) };
}

/** Packs every package; builds first what its sources have outrun. */
export async function packAll(into: string): Promise<ReadonlyMap<string, Tarball>> {
  await run('node', ['scripts/build.mjs'], { cwd: root });
  await run('pnpm', ['--recursive', '--filter', './packages/*', 'pack', '--pack-destination', into], { cwd: root });
  const packed = await Promise.all(
    names.map(async (name): Promise<Tarball> => {
      const { version } = manifestOf(path.join(root, 'packages', name));
      const file = path.join(into, `turnpike-${name}-${version}.tgz`);
      const unpacked = path.join(into, name);
      mkdirSync(unpacked);
      await run('tar', ['-xzf', file, '-C', unpacked], { cwd: into });
      const folder = path.join(unpacked, 'package');
      return { name, file, folder, manifest: manifestOf(folder) };
    }),
  );
  return new Map(packed.map((tarball) => [tarball.name, tarball]));
}

export interface Output {
  readonly code: number;
  /** stdout and stderr, for a message. */
  readonly output: string;
  readonly stdout: string;
}

/** Runs a program under the workspace's Node, as on a machine of its own: what `npm test` puts into the environment of its children would lead npm back here. */
export async function run(
  program: string,
  args: readonly string[],
  { cwd, fails = false }: { readonly cwd: string; readonly fails?: boolean },
): Promise<Output> {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !/^(npm_package_|npm_lifecycle_|npm_config_local_prefix$|INIT_CWD$|NODE_ENV$|VITEST)/.test(name),
  );
  const own = [path.join(root, 'node_modules', '.bin'), path.dirname(process.execPath)];
  const env = { ...Object.fromEntries(inherited), PATH: [...own, process.env.PATH ?? ''].join(path.delimiter), NO_COLOR: '1' };
  const result = await promisify(execFile)(program, args, { cwd, env, maxBuffer: 64 * 1024 * 1024 }).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, output: `${stdout}${stderr}` }),
    (error: { code?: number | string; stdout?: string; stderr?: string; message: string }) => ({
      code: typeof error.code === 'number' ? error.code : 127,
      stdout: error.stdout ?? '',
      output: `${error.stdout ?? ''}${error.stderr ?? ''}` || error.message,
    }),
  );
  if (!fails && result.code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${result.code}:\n${result.output}`);
  return result;
}
