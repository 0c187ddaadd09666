// Tables, for the terminal and for docs/performance.md alike.
import { CLIENTS, TESTS } from './plan.ts';
import type { BenchFile, Result } from './results.ts';
import type { Spread } from './statistics.ts';
import type { Measure, Ratio } from './targets.ts';

const clientTitle = (name: string): string => (CLIENTS as Readonly<Record<string, string>>)[name] ?? name;
const testTitle = (name: string): string => TESTS.find((t) => t.name === name)?.title ?? name;

/** Every test that there are figures of, in the plan's order. */
export function report(file: BenchFile): string {
  const names = [...new Set(file.results.map((r) => r.test))].sort((a, b) => place(a) - place(b));
  return names.map((name) => section(name, file)).join('\n\n');
}

const place = (name: string): number => TESTS.findIndex((t) => t.name === name);

function section(name: string, { results, leftOut }: BenchFile): string {
  const parts = [`### ${testTitle(name)}`, `\`${name}\``, resultTable(results.filter((r) => r.test === name))];
  const missing = leftOut.filter((l) => l.test === name);
  if (missing.length > 0) parts.push(`Left out: ${missing.map((l) => `${clientTitle(l.client)} (${l.why})`).join('; ')}.`);
  return parts.join('\n\n');
}

function resultTable(results: readonly Result[]): string {
  const timed = results.some((r) => r.p50Ms !== null);
  const head = [
    'client',
    'records/s, median (min - max)',
    'CPU us/record',
    'broker CPU us/record',
    'requests/s',
    'RSS MiB',
    ...(timed ? ['p50 ms', 'p99 ms'] : []),
  ];
  const rows = results.map((r) => [
    clientTitle(r.client),
    perSecond(r.recordsPerSecond),
    number(r.cpuMicros),
    number(r.brokerCpuMicros),
    number(r.requestsPerSecond),
    number(r.rssMiB),
    ...(timed ? [number(r.p50Ms), number(r.p99Ms)] : []),
  ]);
  return table(head, rows);
}

const MEASURES: Readonly<Record<Measure, string>> = {
  throughput: 'throughput',
  cpu: 'CPU per record',
  p50: 'p50',
  rss: 'RSS at the end',
  liveSlope: 'growth of live memory in the second half',
};

/** Ours against each peer that a target names. */
export function targetsTable(ratios: readonly Ratio[]): string {
  const rows = ratios.map((r) => [
    r.test,
    r.against === null ? '-' : clientTitle(r.against),
    MEASURES[r.measure],
    r.target,
    ratioText(r),
    r.met ? 'yes' : 'no',
  ]);
  return table(['test', 'ours against', 'measure', 'target', 'ours (min - max)', 'met'], rows);
}

/** A part of theirs is said as a fraction, as its target is. */
function ratioText({ value, min, max, target, against }: Ratio): string {
  const one = (v: number) => (target.includes('1/') ? `1/${number(1 / v)}` : `${number(v)}${against === null ? '' : 'x'}`);
  return `${one(value)} (${one(min)} - ${one(max)})`;
}

const perSecond = ({ min, median, max }: Spread): string => `${whole(median)} (${whole(min)} - ${whole(max)})`;
const whole = (value: number): string => Math.round(value).toLocaleString('en-US');

/** Three figures are what such a measurement carries. */
export function number(value: number | null): string {
  if (value === null) return '-';
  if (Math.abs(value) >= 100) return whole(value);
  return Number(value.toPrecision(Math.abs(value) >= 10 ? 3 : 2)).toString();
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((cell, i) => Math.max(cell.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const line = (cells: readonly string[]) => `| ${cells.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' | ')} |`;
  return [line(head), `|${widths.map((w) => '-'.repeat(w + 2)).join('|')}|`, ...rows.map(line)].join('\n');
}
