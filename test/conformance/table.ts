import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Capabilities } from '@turnpike/core/spi';
import type { ConformanceRow, Support } from '@turnpike/testing';

const FILE = path.resolve(import.meta.dirname, '../../docs/transports.md');
const BEGIN = '<!-- conformance: written by `npm run prove -- conformance` -->';
const END = '<!-- /conformance -->';

const TEXT: Readonly<Record<Support, string>> = { yes: 'yes', refused: 'no: refused at `connect()`', no: 'no', none: '–' };

export interface Column {
  readonly transport: string;
  readonly capabilities: Capabilities;
  readonly rows: readonly ConformanceRow[];
}

/** What docs/transports.md says of each transport, a line for each row of the suite and for what the capabilities list. */
export function tableOf(columns: readonly Column[]): string {
  const names = [...new Set(columns.flatMap((c) => c.rows.map((r) => r.row)))];
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  const listed = (head: string, of: (capabilities: Capabilities) => string) => line([head, ...columns.map((c) => of(c.capabilities))]);
  return [
    line(['', ...columns.map((c) => c.transport)]),
    line(['---', ...columns.map(() => '---')]),
    ...names.map((name) => line([name, ...columns.map((c) => TEXT[c.rows.find((r) => r.row === name)?.support ?? 'none'])])),
    listed('Codecs', (c) => c.compression.join(', ')),
    listed('Group protocols', (c) => c.groupProtocols.join(', ')),
    listed('A quota counts', (c) => (c.quotaBasis === 'wire' ? 'compressed bytes, each attempt' : 'bytes before compression, once')),
  ].join('\n');
}

/** The table as it stands in the document. */
export function readTable(): string {
  const [, table] = parts();
  return table.trim();
}

export function writeTable(table: string): void {
  const [before, , after] = parts();
  writeFileSync(FILE, `${before}${BEGIN}\n${table}\n${END}${after}`);
}

function parts(): readonly [string, string, string] {
  const text = readFileSync(FILE, 'utf8');
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`${FILE} has no ${BEGIN} ... ${END}; put them where the table belongs.`);
  return [text.slice(0, begin), text.slice(begin + BEGIN.length, end), text.slice(end + END.length)];
}
