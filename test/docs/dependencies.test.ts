import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { read, root, rows, section } from './documents.ts';

const document = read('docs/dependencies.md');

interface Dependencies {
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

function manifestsIn(folder: string): readonly Dependencies[] {
  const folders = readdirSync(path.join(root, folder)).map((name) => path.join(folder, name, 'package.json'));
  return folders.filter((file) => existsSync(path.join(root, file))).map((file) => JSON.parse(read(file)) as Dependencies);
}

const thirdParty = (...maps: readonly (Readonly<Record<string, string>> | undefined)[]) =>
  maps.flatMap((map) => Object.keys(map ?? {})).filter((name) => !name.startsWith('@turnpike/'));
const sorted = (names: readonly string[]) => [...new Set(names)].sort();
const listed = (heading: string) =>
  sorted(rows(section(document, heading)).flatMap(([name]) => [...(name ?? '').matchAll(/`([^`]+)`/g)].map((m) => m[1] ?? '')));

const packages = manifestsIn('packages');
const examples = manifestsIn('examples');
const workspace = [JSON.parse(read('package.json')), JSON.parse(read('test/package.json'))] as readonly Dependencies[];

describe('docs/dependencies.md', () => {
  it('lists what packages need at run time, and nothing else', () => {
    expect(listed('Run time')).toEqual(sorted(packages.flatMap((p) => thirdParty(p.dependencies, p.peerDependencies, p.optionalDependencies))));
  });

  it('lists what the examples need', () => {
    expect(listed('Examples')).toEqual(sorted(examples.flatMap((p) => thirdParty(p.dependencies, p.devDependencies))));
  });

  it('lists what tests and tools need', () => {
    const tools = workspace.flatMap((p) => thirdParty(p.dependencies, p.devDependencies, p.optionalDependencies));
    expect(listed('Tests and tools')).toEqual(sorted([...tools, ...packages.flatMap((p) => thirdParty(p.devDependencies))]));
  });
});
