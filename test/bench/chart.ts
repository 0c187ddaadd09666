// docs/performance.svg: bars by hand, readable on light and dark grounds.
import { CLIENTS, TESTS } from './plan.ts';
import { number } from './report.ts';
import type { BenchFile, Result } from './results.ts';
import { OURS } from './targets.ts';

/** What a reader asks first, where there are figures of it. */
const SHOWN = ['single', 'batch-1000', 'consume-each', 'end-to-end'];

const WIDTH = 860;
const LABELS = 190;
const VALUES = 200;
const BARS = WIDTH - LABELS - VALUES;
const ROW = 24;
const HEAD = 44;

const STYLE = `
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; font-size: 14px; }
  .quiet { fill: #59636e; font-size: 12px; }
  .bar { fill: #8c959f; }
  .ours { fill: #0969da; }
  .spread { stroke: #1f2328; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .quiet { fill: #9198a1; }
    .bar { fill: #656c76; }
    .ours { fill: #4493f8; }
    .spread { stroke: #f0f6fc; }
  }`;

/** Records a second of each client, a panel a test, each with a scale of its own from 0; a line from the slowest round to the fastest. */
export function chart({ results, date, machine }: BenchFile): string {
  const parts: string[] = [];
  let y = 24;
  for (const name of SHOWN) {
    const shown = results.filter((r) => r.test === name).toSorted((a, b) => b.recordsPerSecond.median - a.recordsPerSecond.median);
    if (shown.length === 0) continue;
    parts.push(text({ x: 0, y, className: 'title' }, TESTS.find((t) => t.name === name)?.title ?? name));
    parts.push(text({ x: WIDTH, y, className: 'quiet', anchor: 'end' }, 'records/s (CPU us/record)'));
    const most = Math.max(...shown.map((r) => r.recordsPerSecond.max));
    for (const [i, result] of shown.entries()) parts.push(row(result, y + 12 + i * ROW, most));
    y += HEAD + shown.length * ROW;
  }
  parts.push(text({ x: 0, y, className: 'quiet' }, `${date}; ${machine}`));
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y + 12}" role="img" aria-label="Records per second of each client, by test">
<style>${STYLE}
</style>
${parts.join('\n')}
</svg>
`;
}

function row({ client, recordsPerSecond: { min, median, max }, cpuMicros }: Result, y: number, most: number): string {
  const x = (value: number) => Math.round((LABELS + (value / most) * BARS) * 10) / 10;
  const middle = y + 8;
  const value = `${Math.round(median).toLocaleString('en-US')}${cpuMicros === null ? '' : ` (${number(cpuMicros)})`}`;
  return [
    text({ x: LABELS - 8, y: y + 13, anchor: 'end' }, (CLIENTS as Readonly<Record<string, string>>)[client] ?? client),
    `<rect class="${client === OURS ? 'ours' : 'bar'}" x="${LABELS}" y="${y}" width="${Math.max(1, Math.round((x(median) - LABELS) * 10) / 10)}" height="16" rx="2"/>`,
    `<line class="spread" x1="${x(min)}" y1="${middle}" x2="${x(max)}" y2="${middle}"/>`,
    text({ x: x(max) + 8, y: y + 13 }, value),
  ].join('\n');
}

function text({ x, y, className, anchor }: { x: number; y: number; className?: string; anchor?: 'end' }, content: string): string {
  const escaped = content.replace(/[&<>]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[c] ?? c);
  return `<text${className ? ` class="${className}"` : ''} x="${x}" y="${y}"${anchor ? ` text-anchor="${anchor}"` : ''}>${escaped}</text>`;
}
