import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { loadManifest } from './manifest/load.ts';
import type { Manifest } from './manifest/model.ts';

export const DEPARTED = JSON.stringify({
  type: 'record',
  name: 'Departed',
  namespace: 'acme.flights',
  fields: [
    { name: 'id', type: 'string' },
    { name: 'origin', type: 'string' },
    { name: 'delay', type: 'int' },
  ],
});

/** The documents of one turnpike.yaml; each is a kind, its metadata and its spec in flow style. */
export const topic = (name: string, spec = '', team = 'airside'): string =>
  `apiVersion: turnpike.dev/v1alpha1
kind: Topic
metadata: { name: ${name}, team: ${team} }
spec: { cluster: main, partitions: 3, value: { file: departed.avsc }${spec === '' ? '' : `, ${spec}`} }
`;
export const service = (name: string, spec = '', team = 'airside'): string =>
  `apiVersion: turnpike.dev/v1alpha1
kind: Service
metadata: { name: ${name}, team: ${team} }
spec: { ${spec} }
`;
export const documents = (...texts: readonly string[]): string => texts.join('---\n');

/** A folder of files, as a repository would have them; gone when it is disposed. */
export class Workspace implements Disposable {
  readonly folder = mkdtempSync(path.join(tmpdir(), 'turnpike-manifest-'));

  constructor(files: Readonly<Record<string, string>> = {}) {
    this.write({ 'departed.avsc': DEPARTED, ...files });
  }

  write(files: Readonly<Record<string, string>>): void {
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(path.dirname(this.path(name)), { recursive: true });
      writeFileSync(this.path(name), text);
    }
  }

  read(name: string): string {
    return readFileSync(this.path(name), 'utf8');
  }

  path(name: string): string {
    return path.join(this.folder, name);
  }

  load(name = 'turnpike.yaml'): Manifest {
    return loadManifest(this.path(name));
  }

  /** The lines of what is wrong, with files as this folder names them. */
  problems(name = 'turnpike.yaml'): readonly string[] {
    try {
      this.load(name);
    } catch (error) {
      const { code, message } = error as Error & { code: string };
      if (code !== 'MANIFEST_INVALID') throw error;
      const shown = `${path.relative(process.cwd(), this.folder)}/`;
      return message.replaceAll(shown, '').replaceAll(`${this.folder}/`, '').split('\n').slice(1);
    }
    return [];
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
