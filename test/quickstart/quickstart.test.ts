import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { build } from '../support/build.ts';

const root = path.resolve(import.meta.dirname, '../..');
const LAST = 'quickstart: 20000 produced, 20000 consumed, 0 lost, 0 duplicated';

async function quickstart(args: readonly string[], env: Record<string, string> = {}): Promise<{ code: number | null; lines: string[]; left: string[] }> {
  // A temporary folder of its own: what is left in it was left by this run.
  const tmp = mkdtempSync(path.join(tmpdir(), 'quickstart-test-'));
  const child = spawn(process.execPath, ['examples/flights/quickstart.ts', ...args], { cwd: root, env: { ...process.env, TMPDIR: tmp, ...env } });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk));
  const code = await new Promise<number | null>((resolve) => child.on('exit', resolve));
  const left = readdirSync(tmp).filter((name) => name.startsWith('turnpike-'));
  rmSync(tmp, { recursive: true, force: true });
  return { code, lines: output.trimEnd().split('\n'), left };
}

beforeAll(build);

describe('quickstart', () => {
  it('brings 20,000 flights through a real, secured broker, shows what is refused, and leaves nothing behind', async () => {
    const { code, lines, left } = await quickstart([]);
    expect(lines.filter((l) => l.includes('✗'))).toEqual([]);
    expect(lines.at(-1)).toBe(LAST);
    expect(code).toBe(0);
    for (const shown of ['TOPIC_UNDECLARED', 'GRANT_DENIED', 'TOPIC_AUTHORIZATION_FAILED', 'quota 200/s', 'process flights.departed', 'create delays.alerted'])
      expect(lines.join('\n')).toContain(shown);
    expect(lines.filter((l) => [...l].length > 80)).toEqual([]);
    expect(left).toEqual([]);
  });

  it.each(['confluent', 'kafkajs'])('does all of that through %s too', async (transport) => {
    const { code, lines, left } = await quickstart(['--transport', transport]);
    expect(lines.filter((l) => l.includes('✗'))).toEqual([]);
    expect(lines.at(-1)).toBe(LAST);
    expect(code).toBe(0);
    expect(lines.join('\n')).toContain(`identity (${transport})`);
    expect(lines.filter((l) => [...l].length > 80)).toEqual([]);
    expect(left).toEqual([]);
  });

  it('runs in memory when it is told to', async () => {
    const { code, lines } = await quickstart(['--memory']);
    expect(lines.at(-1)).toBe(LAST);
    expect(code).toBe(0);
  });

  it('says what options there are, and ends with 2 for one that there is not', async () => {
    expect(await quickstart(['--help'])).toMatchObject({ code: 0, lines: expect.arrayContaining([expect.stringMatching(/^ {2}--memory /)]) });
    expect(await quickstart(['--transport', 'java'])).toMatchObject({
      code: 2,
      lines: expect.arrayContaining([expect.stringMatching(/Unknown transport 'java'/)]),
    });
    expect(await quickstart(['--memory', '--transport', 'kafkajs'])).toMatchObject({ code: 2 });
    expect(await quickstart(['--bogus'])).toMatchObject({
      code: 2,
      lines: expect.arrayContaining(["quickstart: Unknown option '--bogus'. There are:", expect.stringMatching(/^ {2}--memory /)]),
    });
  });

  it('ends quietly when nobody reads on', async () => {
    const tmp = mkdtempSync(path.join(tmpdir(), 'quickstart-test-'));
    const child = spawn(process.execPath, ['examples/flights/quickstart.ts', '--memory'], { cwd: root, env: { ...process.env, TMPDIR: tmp } });
    let told = '';
    child.stderr.on('data', (chunk) => (told += chunk));
    child.stdout.once('data', () => child.stdout.destroy());
    const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
    expect([code, told]).toEqual([141, '']);
    // The guard of the folder outlives the process that it watches.
    await expect.poll(() => readdirSync(tmp).filter((name) => name.startsWith('turnpike-'))).toEqual([]);
    rmSync(tmp, { recursive: true, force: true });
  });

  it('names TMPDIR where no folder can be made in it', async () => {
    // Under a file: a folder that is only missing may be made by whoever runs first.
    const { code, lines } = await quickstart(['--memory'], { TMPDIR: path.join(import.meta.filename, 'tmp') });
    expect(lines.at(-1)).toMatch(/^quickstart: failed: \[PLATFORM_UNAVAILABLE\] No folder can be made in \S+\/tmp \(ENOTDIR\); set TMPDIR to a folder/);
    expect(code).toBe(1);
  });

  it('runs in memory, and says why, where there is no Java', async () => {
    const bin = mkdtempSync(path.join(tmpdir(), 'no-java-'));
    symlinkSync(process.execPath, path.join(bin, 'node'));
    const { code, lines } = await quickstart([], { PATH: bin, JAVA_HOME: '' });
    rmSync(bin, { recursive: true });
    expect(lines.join(' ').replace(/\s+/g, ' ')).toMatch(/No Kafka broker can be had here: there is no java, .*install Java 17.*Running in memory instead/);
    expect(lines.at(-1)).toBe(LAST);
    expect(code).toBe(0);
  });
});
