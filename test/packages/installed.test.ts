// The road as a service developer walks it: npm install, turnpike generate, compile, run; outside the workspace, from tarballs.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { read, shownFiles, writeShown } from '../docs/documents.ts';
import { main, manifest, readmes, schema, wrong } from './service.ts';
import { manifestOf, names, type Output, outside, packAll, root, run } from './tarballs.ts';

const folder = outside('turnpike-installed-');
const project = path.join(folder.path, 'checkout');
const write = (file: string, text: string) => writeFileSync(path.join(project, file), text);
/** TypeScript by the versions that users have. */
const compilers = {
  '5.9': path.join(root, 'test/node_modules/typescript5/bin/tsc'),
  '6.0': path.join(project, 'node_modules/typescript/bin/tsc'),
  '7.0': path.join(root, 'node_modules/typescript7/bin/tsc'),
};
let generated: Output;
let compiled: Output;

beforeAll(async () => {
  const tarballs = await packAll(folder.path);
  const { devDependencies = {} } = manifestOf(root);
  const packed = (name: string) => `file:${tarballs.get(name)?.file}`;
  mkdirSync(project);
  write(
    'package.json',
    JSON.stringify({
      name: 'checkout',
      private: true,
      type: 'module',
      dependencies: { '@turnpike/client': packed('client') },
      devDependencies: {
        '@turnpike/core': packed('core'),
        '@turnpike/platform': packed('platform'),
        '@turnpike/testing': packed('testing'),
        '@types/node': devDependencies['@types/node'],
        typescript: devDependencies.typescript,
      },
      // Those that come with the ones above: no registry is asked for a package of ours.
      overrides: Object.fromEntries(names.map((name) => [`@turnpike/${name}`, packed(name)])),
    }),
  );
  write('turnpike.yaml', manifest);
  write('order-placed.avsc', schema);
  write('main.ts', main);
  write('wrong.ts', wrong);
  for (const [name, text] of readmes) write(`readme-${name}.ts`, text);
  write(
    'everything.ts',
    entries()
      .map((entry, n) => `export * as e${n} from '${entry}';\n`)
      .join(''),
  );
  const shown = readmes.map(([name]) => `readme-${name}.ts`);
  write('tsconfig.json', settings(['main.ts', ...shown]));
  write('tsconfig.wrong.json', settings(['wrong.ts']));
  write('tsconfig.declarations.json', settings(['main.ts', 'everything.ts'], { skipLibCheck: false }));
  await run('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund'], { cwd: project });
  generated = await run('npx', ['--no', 'turnpike', 'generate'], { cwd: project });
  compiled = await run('node', [compilers['6.0'], '-p', 'tsconfig.json'], { cwd: project, fails: true });
});
afterAll(() => folder[Symbol.dispose]());

function settings(files: readonly string[], more: object = {}): string {
  const strict = {
    strict: true,
    module: 'nodenext',
    target: 'es2024',
    lib: ['es2024', 'esnext.disposable'],
    types: ['node'],
    rewriteRelativeImportExtensions: true,
  };
  return JSON.stringify({ compilerOptions: { ...strict, skipLibCheck: true, rootDir: '.', outDir: 'out', ...more }, files });
}

/** All that can be imported, as `@turnpike/core/spi`. */
function entries(): string[] {
  return names.flatMap((name) =>
    Object.keys(manifestOf(path.join(root, 'packages', name)).exports)
      .filter((key) => key !== './package.json')
      .map((key) => path.posix.join('@turnpike', name, key)),
  );
}

describe('a service outside the workspace', () => {
  it('has each package once, from its tarball', () => {
    const lock = JSON.parse(readFileSync(path.join(project, 'package-lock.json'), 'utf8')) as { packages: Record<string, { resolved?: string }> };
    const ours = Object.entries(lock.packages).filter(([at]) => at.includes('@turnpike/'));
    expect(ours.map(([at]) => at).sort()).toEqual(names.map((name) => `node_modules/@turnpike/${name}`));
    expect(ours.filter(([, { resolved }]) => !resolved?.startsWith('file:'))).toEqual([]);
  });

  it('generates its types and contract, and says when they are there already', async () => {
    expect(generated.stdout).toMatch(/^written +generated\/checkout\.ts\nwritten +turnpike\.lock\n$/);
    const second = await run('npx', ['--no', 'turnpike', 'generate', '--check'], { cwd: project });
    expect(second.stdout).toMatch(/^unchanged +generated\/checkout\.ts\nunchanged +turnpike\.lock\n$/);
  });

  it('compiles under strict, with all that the READMEs show', () => {
    expect(compiled.code, compiled.output).toBe(0);
  });

  it('runs, from declaration to handled event', async () => {
    const { stdout } = await run('node', ['out/main.js'], { cwd: project });
    expect(stdout).toBe('checkout-dev: o-0 o-1 o-2, 300 cents\nTOPIC_UNDECLARED\n');
  });

  it('shows an error that nobody catches by the name of its class', async () => {
    const thrower = "import { TurnpikeError } from '@turnpike/core'; throw new TurnpikeError('CLOSED', 'it is over.');";
    const { output } = await run('node', ['--input-type=module', '--eval', thrower], { cwd: project, fails: true });
    expect(output.split('\n')).toContain('TurnpikeError: [CLOSED] it is over.');
  });

  it.each([
    ['core', '1\nBROKER_REJECTED false no\n'],
    ['schema', "11 { id: 'o-1', cents: 990n }\n"],
    ['telemetry', ''],
    ['platform', 'current generated/checkout.ts\ncurrent turnpike.lock\n'],
  ])('prints what the README of %s says', async (name, output) => {
    const { stdout } = await run('node', [`out/readme-${name}.js`], { cwd: project });
    expect(stdout).toBe(output);
  });

  it('runs as the README shows it, on a local platform', async () => {
    const shop = path.join(project, 'readme');
    mkdirSync(shop);
    writeShown(shop, shownFiles(read('README.md')));
    await run('npx', ['--no', 'turnpike', 'generate'], { cwd: shop });
    const { stdout } = await run('npx', ['--no', 'turnpike', 'dev', '--', 'node', 'main.ts'], { cwd: shop });
    expect(read('README.md')).toContain('prints `0@0: DL-81 +0, WN-12 +35, WN-90 +0`');
    expect(stdout.split('\n')).toContain('0@0: DL-81 +0, WN-12 +35, WN-90 +0');
  });

  it('does not compile with an undeclared topic or an event of another shape', async () => {
    const { code, output } = await run('node', [compilers['7.0'], '-p', 'tsconfig.wrong.json', '--noEmit'], { cwd: project, fails: true });
    expect(code).not.toBe(0);
    const lines = output.split('\n').filter((line) => line.includes('error TS'));
    expect(lines).toEqual([
      expect.stringMatching(/wrong\.ts\(5,16\): error TS2345: .*"orders\.shipped".*"orders\.placed"/),
      expect.stringMatching(/wrong\.ts\(6,\d+\): error TS2322: Type 'string' is not assignable to type 'bigint'/),
    ]);
  });

  it.each(Object.entries(compilers))('passes TypeScript %s with every declaration checked', async (_version, tsc) => {
    const { code, output } = await run('node', [tsc, '-p', 'tsconfig.declarations.json', '--noEmit'], { cwd: project, fails: true });
    expect(code, output).toBe(0);
  });
});
