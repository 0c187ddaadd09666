import { readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { TurnpikeError } from '@turnpike/core';
import { isScalar, LineCounter, parseAllDocuments } from 'yaml';
import { checkManifest } from './check.ts';
import type { AnyResource, ClusterResource, Manifest, ServiceResource, TopicResource } from './model.ts';
import { manifestError, type Place, type Problem } from './problems.ts';
import { Reader } from './reader.ts';
import { readResource } from './resources.ts';

const OURS = /["']?apiVersion["']?\s*:\s*["']?turnpike\.dev\//;

/** Reads a manifest, or a folder of them, with the topics and clusters of those that its services import. In a folder, YAML files that aren't manifests are passed over.
 *  @throws TurnpikeError MANIFEST_INVALID with every problem: file, line, column, remedy. */
export function loadManifest(location: string): Manifest {
  const problems: Problem[] = [];
  const manifest = readManifest(location, problems);
  checkManifest(manifest, problems);
  if (problems.length > 0) throw manifestError(problems);
  return manifest;
}

function readManifest(location: string, problems: Problem[]): Manifest {
  const { folder, files: own } = filesOf(location);
  const resources: AnyResource[] = [];
  const imports = new Set<string>();
  for (const file of own) {
    const read = readFile(file, problems);
    resources.push(...read.resources);
    for (const { path: imported, at } of read.imports)
      try {
        for (const found of filesOf(imported).files) if (!own.includes(found)) imports.add(found);
      } catch {
        problems.push({
          ...at,
          message: `is ${path.relative(path.dirname(file), imported)}, and there is no manifest there. The path is taken from where this one lies.`,
        });
      }
  }
  const foreign = [...imports].flatMap((file) => readFile(file, problems).resources);
  return {
    folder,
    files: [...own, ...imports],
    topics: resources.filter((r): r is TopicResource => r.kind === 'Topic'),
    services: resources.filter((r): r is ServiceResource => r.kind === 'Service'),
    clusters: resources.filter((r): r is ClusterResource => r.kind === 'Cluster'),
    imported: {
      topics: foreign.filter((r): r is TopicResource => r.kind === 'Topic'),
      clusters: foreign.filter((r): r is ClusterResource => r.kind === 'Cluster'),
    },
  };
}

function filesOf(location: string): { readonly folder: string; readonly files: readonly string[] } {
  const resolved = path.resolve(location);
  const stat = statSync(resolved, { throwIfNoEntry: false });
  if (!stat)
    throw new TurnpikeError(
      'MANIFEST_INVALID',
      `There is no manifest at ${location}. Write one there, or say where it is: --file PATH (a file, or a folder of them).`,
      {
        path: location,
      },
    );
  if (!stat.isDirectory()) return { folder: path.dirname(resolved), files: [resolved] };
  const files = yamlIn(resolved).filter((file) => OURS.test(readFileSync(file, 'utf8')));
  if (files.length === 0)
    throw new TurnpikeError('MANIFEST_INVALID', `${location} holds no manifest: no .yaml file there has an apiVersion of turnpike.dev.`, { path: location });
  return { folder: resolved, files };
}

/** Sorted; without what is installed or hidden. */
function yamlIn(folder: string): readonly string[] {
  return readdirSync(folder, { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const file = path.join(folder, entry.name);
      if (entry.isDirectory()) return entry.name === 'node_modules' || entry.name.startsWith('.') ? [] : yamlIn(file);
      return entry.isFile() && /\.ya?ml$/.test(entry.name) ? [file] : [];
    });
}

interface ReadFile {
  readonly resources: readonly AnyResource[];
  readonly imports: readonly { readonly path: string; readonly at: Place }[];
}

function readFile(file: string, problems: Problem[]): ReadFile {
  const shown = path.relative(process.cwd(), file) || file;
  const lines = new LineCounter();
  const resources: AnyResource[] = [];
  const imports: ReadFile['imports'][number][] = [];
  const before = problems.length;
  for (const document of parseAllDocuments(readFileSync(file, 'utf8'), { lineCounter: lines })) {
    for (const error of document.errors.slice(0, 1)) {
      // What follows it in the same document follows from it.
      const { line, col } = lines.linePos(error.pos[0]);
      const what = error.message.split('\n', 1)[0]?.replace(/ at line \d+, column \d+:$/, '');
      problems.push({ file: shown, line, column: col, path: '', message: `is no valid YAML: ${what}. Mend it there, or in the line before.` });
    }
    if (document.errors.length > 0 || document.contents === null || (isScalar(document.contents) && document.contents.value === null)) continue;
    const source = { file: shown, document, lines, problems };
    const resource = readResource(new Reader(document.contents, source));
    if (resource) resources.push(resource);
    if (resource?.kind !== 'Service') continue;
    const imported = new Reader(document.contents, { ...source, problems: [] }).get('spec').get('imports').list();
    for (const item of imported) {
      const name = item.string();
      if (name !== undefined) imports.push({ path: path.resolve(path.dirname(file), name), at: item.at });
    }
  }
  if (resources.length === 0 && problems.length === before)
    problems.push({ file: shown, line: 1, column: 1, path: '', message: 'is empty; begin with apiVersion: turnpike.dev/v1alpha1 and kind: Topic or Service.' });
  return { resources, imports };
}
