import { existsSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { read, root } from './documents.ts';

const documents = [
  'README.md',
  'docs/design.md',
  'docs/dependencies.md',
  'docs/configuration.md',
  'docs/manifest.md',
  'docs/errors.md',
  'docs/guard.md',
  'docs/transports.md',
  'examples/guarded/README.md',
];

/** As GitHub makes an anchor of a heading. */
const anchor = (heading: string) =>
  heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-');

describe.each(documents)('%s', (name) => {
  const text = read(name);

  it('names only files of the project that are there', () => {
    const named = [...text.matchAll(/`((?:packages|scripts|test|docs|examples)\/[\w./-]+)`/g)].map((m) => m[1] ?? '');
    expect([...new Set(named)].filter((file) => !existsSync(path.join(root, file)))).toEqual([]);
  });

  it('links only to what is there', () => {
    const prose = text.replace(/^```.*?^```$/gms, '');
    const broken = [...prose.matchAll(/\[[^\]]+\]\(([^)\s]+)\)/g)].flatMap(([, target = '']) => {
      const [file = '', fragment] = target.split('#');
      const linked = file === '' ? name : path.join(path.dirname(name), file);
      if (!existsSync(path.join(root, linked))) return [target];
      const anchors = [...read(linked).matchAll(/^#+ (.*)$/gm)].map((m) => anchor(m[1] ?? ''));
      return fragment === undefined || anchors.includes(fragment) ? [] : [target];
    });
    expect(broken).toEqual([]);
  });
});
