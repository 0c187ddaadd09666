// The layer graph of docs/design.md, read from manifests and sources: a boundary that nobody checks is gone in a month.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const root = path.resolve(import.meta.dirname, '../..');
const LAYER: Readonly<Record<string, number>> = {
  core: 1,
  identity: 2,
  schema: 2,
  policy: 2,
  telemetry: 2,
  transports: 2,
  client: 3,
  testing: 3,
  platform: 4,
};
/** platform starts the local platform for `turnpike dev`, as a lazy optional peer; testing takes connect() as an argument. */
const ALLOWED_OPTIONAL = new Set(['platform -> testing']);

interface Manifest {
  name: string;
  dependencies?: Record<string, string>;
  peerDependencies?: Record<string, string>;
  peerDependenciesMeta?: Record<string, { optional?: boolean }>;
  devDependencies?: Record<string, string>;
  exports: Record<string, unknown>;
}

const packages = readdirSync(path.join(root, 'packages'));
const manifestOf = (name: string) => JSON.parse(readFileSync(path.join(root, 'packages', name, 'package.json'), 'utf8')) as Manifest;

function sources(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const file = path.join(folder, entry.name);
    if (entry.isDirectory()) return sources(file);
    return entry.name.endsWith('.ts') ? [file] : [];
  });
}

/** Every module that a file names: static, dynamic, re-exported, as a type. */
function imports(file: string): string[] {
  const text = readFileSync(file, 'utf8');
  const found = text.matchAll(/(?:from\s+|import\s+|import\(\s*)(['"])([^'"\n]+)\1/g);
  return [...found].map((m) => m[2] as string).filter((name) => /^[@a-z.]/.test(name));
}

const ours = (specifier: string) => /^@turnpike\/([a-z-]+)(\/.*)?$/.exec(specifier);

describe('packages', () => {
  it('are the ones that the architecture names', () => {
    expect([...packages].sort()).toEqual(Object.keys(LAYER).sort());
  });

  it.each(packages)('%s imports only from layers below its own', (name) => {
    const wrong = sources(path.join(root, 'packages', name, 'src')).flatMap((file) =>
      imports(file).flatMap((specifier) => {
        const target = ours(specifier)?.[1];
        if (target === undefined || (LAYER[target] ?? 9) < (LAYER[name] ?? 0) || ALLOWED_OPTIONAL.has(`${name} -> ${target}`)) return [];
        return [`${path.relative(root, file)} imports ${specifier}`];
      }),
    );
    expect(wrong).toEqual([]);
  });

  it.each(packages)('%s declares what it imports, and nothing of a layer above', (name) => {
    const manifest = manifestOf(name);
    const declared = { ...manifest.dependencies, ...manifest.peerDependencies };
    const imported = new Set(
      sources(path.join(root, 'packages', name, 'src'))
        .filter((f) => !f.endsWith('.test.ts'))
        .flatMap(imports)
        .filter((s) => !s.startsWith('.') && !s.startsWith('node:'))
        .map((s) =>
          s
            .split('/')
            .slice(0, s.startsWith('@') ? 2 : 1)
            .join('/'),
        ),
    );
    expect([...imported].filter((s) => !(s in declared))).toEqual([]);
    const above = Object.keys(declared).filter((d) => {
      const target = ours(d)?.[1];
      if (target === undefined || (LAYER[target] ?? 9) < (LAYER[name] ?? 0)) return false;
      return !(ALLOWED_OPTIONAL.has(`${name} -> ${target}`) && manifest.peerDependenciesMeta?.[d]?.optional === true);
    });
    expect(above).toEqual([]);
  });

  it('core has no run-time dependency, not even a peer', () => {
    const core = manifestOf('core');
    expect({ ...core.dependencies, ...core.peerDependencies }).toEqual({});
    const outside = sources(path.join(root, 'packages/core/src'))
      .filter((f) => !f.endsWith('.test.ts'))
      .flatMap(imports)
      .filter((s) => !s.startsWith('.') && !s.startsWith('node:'));
    expect(outside).toEqual([]);
  });

  it('no package dev-depends on testing', () => {
    expect(packages.filter((name) => '@turnpike/testing' in (manifestOf(name).devDependencies ?? {}))).toEqual([]);
  });

  it('nobody imports deeper than what a package exports', () => {
    const everywhere = [...packages.map((p) => path.join(root, 'packages', p, 'src')), path.join(root, 'test'), path.join(root, 'examples')].filter(existsSync);
    const deep = everywhere
      .flatMap((folder) => sources(folder).filter((f) => !f.includes('node_modules')))
      .flatMap((file) =>
        imports(file).flatMap((specifier) => {
          const match = ours(specifier);
          if (!match?.[1]) return /(^|\/)packages\/[a-z-]+\/(src|dist)\//.test(specifier) ? [`${path.relative(root, file)}: ${specifier}`] : [];
          const key = match[2] === undefined ? '.' : `.${match[2]}`;
          return packages.includes(match[1]) && key in manifestOf(match[1]).exports ? [] : [`${path.relative(root, file)}: ${specifier}`];
        }),
      );
    expect(deep).toEqual([]);
  });

  it('only the client reads the environment: a library that does is one that surprises', () => {
    const mayRead = new Set(['client/src/settings.ts', 'testing', 'platform']);
    const readers = packages
      .flatMap((name) => sources(path.join(root, 'packages', name, 'src')))
      .filter((f) => !f.endsWith('.test.ts') && /process\.env\b/.test(readFileSync(f, 'utf8')))
      .map((f) => path.relative(path.join(root, 'packages'), f))
      .filter((f) => ![...mayRead].some((m) => f === m || f.startsWith(`${m}/`)));
    expect(readers).toEqual([]);
  });
});
