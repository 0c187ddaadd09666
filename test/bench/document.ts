// The figures in docs/performance.md: written from a file, never by hand.
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { chart } from './chart.ts';
import { report, targetsTable } from './report.ts';
import type { BenchFile } from './results.ts';

export const PERFORMANCE = path.resolve(import.meta.dirname, '../../docs/performance.md');
const BEGIN = '<!-- figures: npm run bench -- --write FILE -->';
const CHART = 'performance.svg';
const END = '<!-- end of figures -->';

/** The document with these figures in place of those between its markers. */
export function withFigures(document: string, file: BenchFile): string {
  const [begin, end] = [document.indexOf(BEGIN), document.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`docs/performance.md needs the lines ${BEGIN} and ${END}, in this order`);
  return `${document.slice(0, begin + BEGIN.length)}\n\n${figures(file)}\n\n${document.slice(end)}`;
}

function figures(file: BenchFile): string {
  const counts = file.results.map((r) => r.rounds);
  const [fewest, most] = [Math.min(...counts), Math.max(...counts)];
  const rounds = most === 1 ? '1 round' : `${fewest === most ? '' : `${fewest} to `}${most} rounds`;
  const parts = [`Measured on ${file.date}, ${rounds}, on ${file.machine}.`, `![Records per second of each client, by test](${CHART})`];
  if (file.ratios.length > 0) parts.push(`### Targets\n\n${targetsTable(file.ratios)}`);
  return [...parts, report(file)].join('\n\n');
}

/** And the chart beside it. */
export function writeFigures(file: BenchFile): void {
  writeFileSync(PERFORMANCE, withFigures(readFileSync(PERFORMANCE, 'utf8'), file));
  writeFileSync(path.join(path.dirname(PERFORMANCE), CHART), chart(file));
}
