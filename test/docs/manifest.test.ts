import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { loadManifest } from '@turnpike/platform';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { code, read, rows, section, shownFiles, writeShown } from './documents.ts';

const document = read('docs/manifest.md');
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'turnpike-manifest-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** Every key that the reader knows: it lists them where it meets one that it doesn't. */
function knownKeys(manifest: string): readonly string[] {
  const file = path.join(folder, 'probe.yaml');
  writeFileSync(file, manifest);
  try {
    loadManifest(file);
  } catch (error) {
    const told = (error as Error).message.matchAll(/^\S+:\d+:\d+ (\S*?)\.?NOPE is not known here; there (?:are|is) (.*)\.$/gm);
    return [...told].flatMap(([, where = '', known = '']) =>
      known.split(', ').map((key) => (where === '' ? key : `${where}.${key}`).replaceAll('[0]', '[]').replace('environments.prod', 'environments.*')),
    );
  }
  throw new Error('The probe is a valid manifest.');
}

const probes = {
  Topic: `{ NOPE: 1, kind: Topic, metadata: { NOPE: 1 }, spec: { NOPE: 1, key: { NOPE: 1 }, value: { NOPE: 1, references: [{ NOPE: 1 }] }, access: [{ NOPE: 1 }] } }`,
  Service: `{ NOPE: 1, kind: Service, metadata: { NOPE: 1 }, spec: { NOPE: 1, produces: [{ NOPE: 1, quota: { NOPE: 1 } }], consumes: [{ NOPE: 1, quota: { NOPE: 1 } }],
    environments: { prod: { NOPE: 1, instances: { NOPE: 1 } } } } }`,
  Cluster: `{ NOPE: 1, kind: Cluster, metadata: { NOPE: 1 }, spec: { NOPE: 1, environments: { prod: { NOPE: 1, bootstrap: { NOPE: 1 } } } } }`,
};

describe('docs/manifest.md', () => {
  it('shows manifests that load', () => {
    writeShown(folder, shownFiles(document));
    const owner = loadManifest(path.join(folder, 'airside/turnpike.yaml'));
    expect([...owner.topics, ...owner.services, ...owner.clusters].map((r) => `${r.kind} ${r.name}`)).toEqual([
      'Topic flights.departed',
      'Service flight-ops',
      'Cluster airside',
    ]);
    const consumer = loadManifest(path.join(folder, 'delays/turnpike.yaml'));
    expect(consumer.services.map((s) => s.name)).toEqual(['delay-monitor']);
    expect(consumer.imported.topics.map((t) => t.name)).toEqual(['flights.departed']);
  });

  it.each(Object.entries(probes))('lists every key of a %s, and no other', (kind, probe) => {
    const listed = [...rows(section(document, 'Every resource')), ...rows(section(document, kind))].map(([key]) => code(key));
    expect([...listed].sort()).toEqual([...new Set(knownKeys(probe))].sort());
  });

  it('says what a quota of records on a consumed topic is: a problem, since nothing would hold it', () => {
    writeShown(folder, shownFiles(document));
    const file = path.join(folder, 'delays/turnpike.yaml');
    writeFileSync(file, readFileSync(file, 'utf8').replace('bytes: 2MiB/s', 'records: 100/s'));
    expect(() => loadManifest(file)).toThrow(/turnpike\.yaml:8:\d+ spec\.consumes\[0\]\.quota\.records can't be limited for a consumer yet; give bytes\./);
  });
});
