// What is in the tarballs, held against what a registry and its users expect of them.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import path from 'node:path';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import ts from 'typescript';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { manifestOf, names, outside, packAll, root, run, type Tarball } from './tarballs.ts';

const folder = outside('turnpike-packed-');
let tarballs: ReadonlyMap<string, Tarball>;
beforeAll(async () => {
  tarballs = await packAll(folder.path);
});
afterAll(() => folder[Symbol.dispose]());

function packed(name: string): Tarball {
  const tarball = tarballs.get(name);
  if (!tarball) throw new Error(`${name} was not packed.`);
  return tarball;
}

/** Paths of all files, with `/`, from the package's folder. */
function filesIn(at: string): string[] {
  return readdirSync(at, { recursive: true, withFileTypes: true })
    .filter((e) => e.isFile())
    .map((e) => path.relative(at, path.join(e.parentPath, e.name)).replaceAll(path.sep, '/'));
}

/** Every module that a file of code or declarations names. */
function imports(file: string): string[] {
  const { importedFiles, typeReferenceDirectives } = ts.preProcessFile(readFileSync(file, 'utf8'));
  return [...importedFiles, ...typeReferenceDirectives].map((f) => f.fileName);
}

const packageOf = (specifier: string) => specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/');

describe.each(names)('@turnpike/%s, packed', (name) => {
  it('passes publint, down to its suggestions', async () => {
    const { file } = packed(name);
    const tarball = readFileSync(file);
    const { messages } = await publint({ pack: { tarball: new Uint8Array(tarball).buffer }, strict: true });
    expect(messages.map((m) => formatMessage(m, manifestOf(packed(name).folder) as never) ?? m.code)).toEqual([]);
  });

  it('resolves with its types from ESM and from bundlers', async () => {
    const attw = path.join(root, 'test', 'node_modules', '.bin', 'attw');
    const { code, output } = await run(attw, ['--profile', 'esm-only', '--no-emoji', '--format', 'ascii', packed(name).file], {
      cwd: folder.path,
      fails: true,
    });
    expect(code, output).toBe(0);
  });

  it('brings its README, the license and all that it exports, and neither sources nor tests', () => {
    const { folder: at, manifest } = packed(name);
    const files = filesIn(at);
    expect(files).toEqual(expect.arrayContaining(['README.md', 'LICENSE', 'package.json']));
    expect(files.filter((f) => !/^(README\.md|LICENSE|package\.json|dist\/[\w-]+(\.d\.ts|\.js|\.js\.map))$/.test(f))).toEqual([]);
    expect(readFileSync(path.join(at, 'LICENSE'), 'utf8')).toContain('Apache License');
    const targets = Object.values(manifest.exports).flatMap((e) => (typeof e === 'string' ? [e] : [e.types, e.default]));
    expect([...targets, ...Object.values(manifest.bin ?? {})].filter((t) => !existsSync(path.join(at, t)))).toEqual([]);
  });

  it('says what a registry shows, and on which Node it runs', () => {
    const { manifest } = packed(name);
    expect(manifest).toMatchObject({ name: `@turnpike/${name}`, license: 'Apache-2.0', type: 'module', sideEffects: false, engines: { node: '>=22.22' } });
    expect(manifest).toMatchObject({ publishConfig: { access: 'public' }, description: expect.stringMatching(/\w+ \w+/) });
    expect(manifest.keywords).toEqual(expect.arrayContaining(['kafka', 'turnpike']));
    expect(manifest.keywords.length).toBeGreaterThan(3);
    expect(Object.keys(manifest.scripts ?? {})).toEqual([]);
  });

  it('names its siblings by the version that was packed with it', () => {
    const { manifest } = packed(name);
    const all = Object.entries({ ...manifest.dependencies, ...manifest.peerDependencies });
    for (const [dependency, range] of all) {
      const sibling = tarballs.get(dependency.replace('@turnpike/', ''));
      if (dependency.startsWith('@turnpike/')) expect(range, dependency).toBe(sibling?.manifest.version);
      else expect(range, dependency).toMatch(/^\^?\d+\.\d+\.\d+$/);
    }
  });

  it('imports only itself, Node and what it depends on, from code and from declarations', () => {
    const { folder: at, manifest } = packed(name);
    const declared = { ...manifest.dependencies, ...manifest.peerDependencies };
    // Code may ask for an optional peer when it needs it; declarations are read by everybody.
    const optional = (f: string, specifier: string) => f.endsWith('.d.ts') && manifest.peerDependenciesMeta?.[packageOf(specifier)]?.optional === true;
    const wrong = filesIn(at)
      .filter((f) => /\.(js|d\.ts)$/.test(f))
      .flatMap((f) =>
        imports(path.join(at, f)).flatMap((specifier) => {
          if (isBuiltin(specifier) || (packageOf(specifier) in declared && !optional(f, specifier))) return [];
          // A relative import names a file that is there: a source (`../src/x.ts`) is not.
          const target = path.join(at, path.dirname(f), specifier);
          return specifier.startsWith('.') && specifier.endsWith('.js') && (existsSync(target) || existsSync(target.replace(/\.js$/, '.d.ts')))
            ? []
            : [`${f} imports ${specifier}`];
        }),
      );
    expect(wrong).toEqual([]);
  });

  it('holds no syntax that is newer than Node 22: `using` is compiled away', () => {
    const { folder: at } = packed(name);
    const newer = filesIn(at)
      .filter((f) => f.endsWith('.js'))
      .filter((f) => {
        const source = ts.createSourceFile(f, readFileSync(path.join(at, f), 'utf8'), ts.ScriptTarget.ESNext, false, ts.ScriptKind.JS);
        const isUsing = (node: ts.Node): boolean =>
          (ts.isVariableDeclarationList(node) && (node.flags & ts.NodeFlags.Using) !== 0) || ts.forEachChild(node, isUsing) === true;
        return isUsing(source);
      });
    expect(newer).toEqual([]);
  });

  it('has a README that opens with what it does, what it hides and which file to read first', () => {
    const [title, blank, ...rest] = readFileSync(path.join(packed(name).folder, 'README.md'), 'utf8').split('\n');
    expect([title, blank]).toEqual([`# @turnpike/${name}`, '']);
    const opening = rest.slice(0, rest.indexOf(''));
    expect(opening).toEqual([expect.stringMatching(/\.$/), expect.stringMatching(/^Hides .+\.$/), expect.stringMatching(/^Read first: `src\/.+\.$/)]);
    const sources = [...opening.join(' ').matchAll(/`(src\/[^`]+)`/g)].map((m) => path.join(root, 'packages', name, m[1] ?? ''));
    expect(sources.filter((s) => !existsSync(s))).toEqual([]);
  });
});

describe('the command', () => {
  it('can be executed as it comes out of the tarball', () => {
    const { folder: at, manifest } = packed('platform');
    const file = path.join(at, manifest.bin?.turnpike ?? '');
    expect(statSync(file).mode & 0o111).toBe(0o111);
    expect(readFileSync(file, 'utf8').split('\n', 1)).toEqual(['#!/usr/bin/env node']);
  });
});

describe('a release', () => {
  it('raises all packages together', () => {
    const { fixed } = JSON.parse(readFileSync(path.join(root, '.changeset', 'config.json'), 'utf8')) as { fixed: readonly (readonly string[])[] };
    expect(fixed.map((group) => [...group].sort())).toEqual([names.map((n) => `@turnpike/${n}`)]);
  });
});
