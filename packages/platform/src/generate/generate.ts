import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Lock, LockedSubject } from '@turnpike/core/spi';
import { fingerprint } from '@turnpike/schema';
import { type Manifest, topicNames, topicOf } from '../manifest/model.ts';
import { contractModule, schemaFingerprint } from './contract.ts';

export interface GeneratedFile {
  readonly file: string;
  readonly text: string;
  /** What is there already is this, but for how its lines end: a checkout may have changed that. */
  readonly current: boolean;
}

const LOCK_FILE = 'turnpike.lock';

/** The files that a manifest makes: one module for each service with the SDK, and the lock beside the manifest, or in the folder of manifests. */
export function generatedFiles(manifest: Manifest): readonly GeneratedFile[] {
  const files = manifest.services
    .filter((service) => service.runtime === 'sdk')
    .map((service) => {
      const folder = path.resolve(path.dirname(service.at.file), service.generated);
      return file(path.join(folder, `${service.name}.ts`), contractModule(manifest, service));
    });
  const lock = lockOf(manifest);
  if (Object.keys(lock.subjects).length === 0) return files;
  return [...files, file(path.join(manifest.folder, LOCK_FILE), `${JSON.stringify(lock, null, 2)}\n`)];
}

export function writeFiles(files: readonly GeneratedFile[]): void {
  for (const { file, text, current } of files) {
    if (current) continue;
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
}

/** Every subject that the services use, as text: ids are a registry's own. */
function lockOf(manifest: Manifest): Lock {
  const names = new Set([...manifest.topics.map((t) => t.name), ...manifest.services.flatMap(topicNames)]);
  const subjects: Record<string, LockedSubject> = {};
  for (const { value } of [...names].sort().flatMap((name) => topicOf(manifest, name) ?? [])) {
    subjects[value.subject] = {
      format: value.format,
      sha256: schemaFingerprint(value),
      schema: value.text,
      references: value.references.map((r) => ({ subject: r.subject, sha256: fingerprint(r.text) })),
    };
    for (const r of value.references) subjects[r.subject] ??= { format: value.format, sha256: fingerprint(r.text), schema: r.text, references: [] };
  }
  return { lockVersion: 1, subjects };
}

function file(name: string, text: string): GeneratedFile {
  const shown = path.relative(process.cwd(), name);
  return { file: shown.startsWith('..') ? name : shown, text, current: existsSync(name) && readFileSync(name, 'utf8').replaceAll('\r\n', '\n') === text };
}
