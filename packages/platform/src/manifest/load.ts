import { readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { TurnpikeError } from '@turnpike/core';
import { LineCounter, parseAllDocuments } from 'yaml';
import { checkManifest } from './check.ts';
import type { AnyResource, ClusterResource, Manifest, ServiceResource, TopicResource } from './model.ts';
import { manifestError, type Problem } from './problems.ts';
import { Reader } from './reader.ts';
import { readResource } from './resources.ts';

/** Reads a manifest, or a folder of them, with the topics and clusters of those that its services import.
 *  @throws TurnpikeError MANIFEST_INVALID with every problem: file, line, column, remedy. */
export function loadManifest(location: string): Manifest {
  const problems: Problem[] = [];
  const manifest = readManifest(location, problems);
  checkManifest(manifest, problems);
  if (problems.length > 0) throw manifestError(problems);
  return manifest;
}

function readManifest(location: string, problems: Problem[]): Manifest {
  const own = filesOf(location);
  const resources: AnyResource[] = [];
  const imports = new Set<string>();
  for (const file of own) {
    const read = readFile(file, problems);
    resources.push(...read.resources);
    for (const imported of read.imports) if (!own.includes(imported)) imports.add(imported);
  }
  const foreign = [...imports].flatMap((file) => readFile(file, problems).resources);
  return {
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

function filesOf(location: string): string[] {
  const resolved = path.resolve(location);
  try {
    if (!statSync(resolved).isDirectory()) return [resolved];
  } catch {
    throw new TurnpikeError('MANIFEST_INVALID', `There is no ${location} here. Write one (docs: turnpike.yaml), or say where it is: --file PATH.`, {
      path: location,
    });
  }
  const found = readdirSync(resolved, { recursive: true, withFileTypes: true })
    .filter((e) => e.isFile() && /\.ya?ml$/.test(e.name) && !e.parentPath.includes(`${path.sep}node_modules${path.sep}`))
    .map((e) => path.join(e.parentPath, e.name));
  if (found.length === 0) throw new TurnpikeError('MANIFEST_INVALID', `${location} holds no .yaml file.`, { path: location });
  return found.sort();
}

function readFile(file: string, problems: Problem[]): { readonly resources: readonly AnyResource[]; readonly imports: readonly string[] } {
  const shown = path.relative(process.cwd(), file) || file;
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    problems.push({ file: shown, line: 1, column: 1, path: '', message: `can't be read: ${(error as Error).message}.` });
    return { resources: [], imports: [] };
  }
  const lines = new LineCounter();
  const resources: AnyResource[] = [];
  const imports: string[] = [];
  for (const document of parseAllDocuments(text, { lineCounter: lines })) {
    for (const error of document.errors) {
      const { line, col } = lines.linePos(error.pos[0]);
      problems.push({ file: shown, line, column: col, path: '', message: `is no valid YAML: ${error.message.split('\n')[0]}` });
    }
    if (document.errors.length > 0 || document.contents === null) continue;
    const reader = new Reader(document.contents, { file: shown, lines, problems });
    const resource = readResource(reader);
    if (resource) resources.push(resource);
    if (resource?.kind !== 'Service') continue;
    for (const name of new Reader(document.contents, { file: shown, lines, problems: [] }).get('spec').get('imports').strings())
      imports.push(path.resolve(path.dirname(file), name));
  }
  return { resources, imports };
}
