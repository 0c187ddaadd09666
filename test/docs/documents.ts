import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

export const root = path.resolve(import.meta.dirname, '../..');
export const read = (file: string): string => readFileSync(path.join(root, file), 'utf8');

/** A file that a document shows: its name as code at the head of a paragraph, then a fenced block. */
export interface ShownFile {
  readonly name: string;
  readonly text: string;
}

export function shownFiles(document: string): readonly ShownFile[] {
  const shown = document.matchAll(/^`([\w./-]+\.\w+)`[^\n]*\n\n```\w+\n(.*?)^```$/gms);
  return [...shown].map(([, name = '', text = '']) => ({ name, text }));
}

export function writeShown(folder: string, files: readonly ShownFile[]): void {
  for (const { name, text } of files) {
    const file = path.join(folder, name);
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
}

/** The part under a heading, up to the next one of its level or above. */
export function section(document: string, heading: string): string {
  const lines = document.split('\n');
  const start = lines.findIndex((line) => /^#+ /.test(line) && line.replace(/^#+ /, '') === heading);
  if (start < 0) throw new Error(`There is no heading ${JSON.stringify(heading)}.`);
  const level = (lines[start]?.match(/^#+/)?.[0] ?? '').length;
  const length = lines.slice(start + 1).findIndex((line) => (line.match(/^(#+) /)?.[1]?.length ?? 9) <= level);
  return lines.slice(start, length < 0 ? undefined : start + 1 + length).join('\n');
}

/** Table rows as cells, without the heads. */
export function rows(text: string): readonly (readonly string[])[] {
  const cells = (line: string) =>
    line
      .slice(1, -1)
      .split(/(?<!\\)\|/)
      .map((c) => c.trim());
  const lines = text.split('\n');
  return lines.flatMap((line, i) => (line.startsWith('|') && !line.startsWith('|-') && !lines[i + 1]?.startsWith('|-') ? [cells(line)] : []));
}

/** What stands as code at the head of a cell. */
export const code = (cell = ''): string => /^`([^`]+)`/.exec(cell)?.[1] ?? '';
