import { spawn } from 'node:child_process';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { build } from '../support/build.ts';

const root = path.resolve(import.meta.dirname, '../..');

describe('examples/guarded', () => {
  beforeAll(build, 120_000);

  it('runs its kafkajs service in shadow mode and reports exactly what its turnpike.yaml forgets', async () => {
    const child = spawn(process.execPath, ['examples/guarded/main.ts'], { cwd: root });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk));
    const code = await new Promise<number | null>((resolve) => child.on('exit', resolve));
    const lines = output.trimEnd().split('\n');
    expect({ code, wrong: code === 0 ? '' : output }).toEqual({ code: 0, wrong: '' });
    const [, sent, consumed, refused] = (/^guarded: (\d+) sent, (\d+) consumed, (\d+) would be refused$/.exec(lines.at(-1) ?? '') ?? []).map(Number);
    expect(sent).toBeGreaterThan(5_000);
    expect(consumed).toBeGreaterThan(5_000);
    expect(refused).toBeGreaterThan(0);
    for (const forgotten of [
      ...['produce', 'consume'].flatMap((operation) => [`${operation} +passengers\\.notified`, `${operation} +gate-desk\\.retry`]),
      ...['produce +gate-desk\\.dlq', 'join +gate-desk\\.notify', 'join +gate-desk\\.retry', 'transact +gate-desk-summary'],
    ])
      expect(output).toMatch(new RegExp(`^  ${forgotten} +[1-9]`, 'm'));
    expect(lines.filter((line) => line.length > 80)).toEqual([]);
    expect(output).not.toMatch(/PRIVATE KEY|"level":"ERROR"/);
  }, 120_000);
});
