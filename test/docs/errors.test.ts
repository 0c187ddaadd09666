import { readdirSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { code, read, root, rows } from './documents.ts';

const document = read('docs/errors.md');
const source = read('packages/core/src/errors.ts');
const union = [...source.slice(source.indexOf('export type ErrorCode'), source.indexOf('export type Written')).matchAll(/\| '([A-Z_]+)'/g)].map((m) => m[1]);
const listed = rows(document).map(([name]) => code(name));

describe('docs/errors.md', () => {
  it('lists every code, in the order of the union, and no other', () => {
    expect(union.length).toBeGreaterThan(0);
    expect(listed).toEqual(union);
  });

  it('says of each whether it is retriable, what is written and what to do', () => {
    for (const [name, when, retriable, written, remedy] of rows(document)) {
      expect(when, name).not.toBe('');
      expect(retriable, name).toMatch(/^(n|y|y; n .+)$/);
      expect(written, name).toMatch(/^(-|no|no or unknown|either)$/);
      expect(remedy, name).not.toBe('');
    }
  });

  it('calls reserved exactly what nothing throws', () => {
    const thrown = readdirSync(path.join(root, 'packages'), { recursive: true, encoding: 'utf8' })
      .filter((f) => /^[a-z-]+\/src\/.*\.ts$/.test(f) && !f.endsWith('.test.ts') && f !== 'core/src/errors.ts')
      .map((f) => read(path.join('packages', f)))
      .join('\n');
    const reserved = rows(document).flatMap(([name, when]) => (when?.startsWith('reserved') ? [code(name)] : []));
    expect(reserved).toEqual(listed.filter((name) => !thrown.includes(`'${name}'`)));
  });
});
