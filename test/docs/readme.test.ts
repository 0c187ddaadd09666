// What the README shows is what a newcomer copies: it is extracted, generated from, compiled under strict and run.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import type { ConnectOptions } from '@turnpike/client';
import { MemoryCluster, memoryTransport } from '@turnpike/core/memory';
import { generatedFiles, loadManifest, writeFiles } from '@turnpike/platform';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { read, root, shownFiles, writeShown } from './documents.ts';

const run = promisify(execFile);
const readme = read('README.md');

describe('the README', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'turnpike-readme-'));

  beforeAll(() => {
    writeShown(folder, [{ name: 'package.json', text: '{ "type": "module" }' }, ...shownFiles(readme)]);
    writeFiles(generatedFiles(loadManifest(path.join(folder, 'turnpike.yaml'))));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it('shows a service of about 20 lines that produces and consumes what it says', async () => {
    const shown = shownFiles(readme).find((f) => f.name === 'service.ts');
    expect(shown?.text.trim().split('\n').length).toBeLessThanOrEqual(22);
    const { main } = (await import(path.join(folder, 'service.ts'))) as { main: (options: ConnectOptions) => Promise<string> };
    const cluster = new MemoryCluster({ topics: { 'flights.departed': 3 } });
    const said = await main({ environment: 'local', env: {}, transport: memoryTransport({ cluster }) });
    expect(said).toMatch(/^\d@0: DL-81 \+0, WN-12 \+35, WN-90 \+0$/);
    const keys = cluster.records('flights.departed').map((r) => String(r.key));
    expect(keys.sort()).toEqual(['ATL', 'SFO', 'SFO']);
  });

  it('is compiled under strict, and an undeclared topic or a wrong event is not', async () => {
    const wrong = [
      `import { connect } from '@turnpike/client';`,
      `import { flightOps } from './generated/flight-ops.ts';`,
      `const kafka = await connect(flightOps);`,
      `kafka.producer('flights.landed');`,
      `await kafka.producer('flights.departed').send({ id: 'DL-81', origin: 404 });`,
      `kafka.consumer(['flights.departed'], { group: 'another' });`,
    ];
    writeFileSync(path.join(folder, 'wrong.ts'), wrong.join('\n'));
    const options = { typeRoots: [path.join(root, 'node_modules/@types')] };
    writeFileSync(
      path.join(folder, 'tsconfig.json'),
      JSON.stringify({ extends: path.join(root, 'tsconfig.json'), compilerOptions: options, include: ['*.ts', 'generated'] }),
    );
    const tsc = [path.join(root, 'node_modules/typescript/bin/tsc'), '-p', folder, '--pretty', 'false'];
    const { stdout } = await run(process.execPath, tsc, { cwd: root }).catch((failed: { stdout: string }) => failed);
    const places = stdout.split('\n').flatMap((line) => {
      const [, file = '', at] = /^(\S+)\((\d+),\d+\): error/.exec(line) ?? [];
      const shown = path.relative(folder, path.resolve(root, file));
      return at === undefined || shown.startsWith('..') ? [] : `${shown}:${at}`;
    });
    expect(places, stdout).toEqual(['wrong.ts:4', 'wrong.ts:5', 'wrong.ts:6']);
  });

  it('names commands that there are', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
    const named = [...readme.matchAll(/npm (?:run )?(quickstart|test|setup|[a-z]+)(?= |`|\n)/g)].map((m) => m[1] ?? '').filter((n) => n !== 'install');
    expect(named.length).toBeGreaterThan(2);
    expect(named.filter((name) => !(name in scripts))).toEqual([]);
  });
});
