import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Program, processesWith, startProgram } from './programs.ts';

/** Starts a platform and says where, then stays until it is ended. What listens must listen before it says so. */
const holder = (options: string, { listen = '', then = '' } = {}) => `
import { startPlatform } from '@turnpike/testing';
const platform = await startPlatform({ onProgress: (line) => console.log(line), ...${options} });
${listen}
console.log('up ' + platform.directory);
setInterval(() => {}, 60_000);
${then}`;

/** Neither a process nor a file of the platform is left. */
async function gone(directory: string, withinMs: number): Promise<void> {
  const left = () => ({ processes: [...processesWith(directory).values()], folder: existsSync(directory) });
  await expect.poll(left, { timeout: withinMs, interval: 50 }).toEqual({ processes: [], folder: false });
}

describe('a platform whose process ends', () => {
  it('by SIGKILL leaves neither a broker nor a folder', async () => {
    await using program = startProgram(holder('{}'));
    const directory = await program.line('up ');
    expect([...processesWith(directory).values()].some((command) => command.includes('kafka.Kafka'))).toBe(true);
    program.process.kill('SIGKILL');
    await program.ended;
    await gone(directory, 5_000);
  });

  it('by SIGKILL while its broker starts leaves neither', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'platform-'));
    await using program = startProgram(holder(`{ directory: ${JSON.stringify(folder)} }`));
    await expect.poll(() => [...processesWith(folder).values()].some((c) => c.includes('kafka.Kafka')), { timeout: 20_000, interval: 10 }).toBe(true);
    program.process.kill('SIGKILL');
    expect((await program.ended).output).not.toContain('up ');
    await gone(folder, 5_000);
  });

  it.each(['SIGINT', 'SIGTERM'] as const)('by %s closes it in order first, and ends by that signal', async (signal) => {
    await using program = startProgram(holder('{}'));
    const directory = await program.line('up ');
    program.process.kill(signal);
    expect(await program.ended).toMatchObject({ code: null, signal });
    await gone(directory, 1_000);
  });

  it('leaves the end to a program that listens itself', async () => {
    await using program = startProgram(holder('{ kafka: false }', { listen: `process.on('SIGTERM', () => setTimeout(() => process.exit(7), 300));` }));
    const directory = await program.line('up ');
    program.process.kill('SIGTERM');
    expect(await program.ended).toMatchObject({ code: 7 });
    await gone(directory, 1_000);
  });

  it('leaves its own end to the program too, when told so', async () => {
    const listen = `
import { existsSync } from 'node:fs';
process.on('SIGTERM', () => setTimeout(async () => {
  console.log('then ' + existsSync(platform.directory));
  await platform[Symbol.asyncDispose]();
  process.exit();
}, 300));`;
    await using program = startProgram(holder('{ kafka: false, closeOnSignal: false }', { listen }));
    const directory = await program.line('up ');
    program.process.kill('SIGTERM');
    expect(await program.line('then ')).toBe('true');
    expect(await program.ended).toMatchObject({ code: 0 });
    await gone(directory, 1_000);
  });

  it.each([
    ['SIGKILL without Kafka', '', 'SIGKILL'],
    ['process.exit()', 'process.exit(3);', undefined],
    ['an error that nobody catches', `throw new Error('a crash');`, undefined],
  ] as const)('by %s leaves no folder with keys', async (_name, then, signal) => {
    await using program = startProgram(holder('{ kafka: false }', { then }));
    const directory = await program.line('up ');
    if (signal) program.process.kill(signal);
    await program.ended;
    await gone(directory, 5_000);
  });

  it('keeps the folder that it was told to keep', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'platform-'));
    try {
      await using program = startProgram(holder(`{ kafka: false, keep: true, directory: ${JSON.stringify(folder)} }`));
      await program.line('up ');
      program.process.kill('SIGTERM');
      await program.ended;
      expect(existsSync(path.join(folder, 'principals', 'platform-admin', 'client.key.pem'))).toBe(true);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

describe('where Kafka can’t be had', () => {
  const attempt = `
import { kafkaAvailability, startPlatform } from '@turnpike/testing';
console.log('available ' + JSON.stringify(await kafkaAvailability()));
await startPlatform().then(() => console.log('it started'), (e) => console.log('failed ' + JSON.stringify({ code: e.code, message: e.message })));
await using without = await startPlatform({ kafka: false });
console.log('without ' + without.registryUrl);`;
  let empty: string;
  beforeAll(() => {
    empty = mkdtempSync(path.join(tmpdir(), 'nothing-'));
  });
  afterAll(() => rmSync(empty, { recursive: true, force: true }));

  const run = async (env: Readonly<Record<string, string>>) => {
    await using program: Program = startProgram(attempt, { KAFKA_HOME: '', XDG_CACHE_HOME: empty, ...env });
    const available = JSON.parse(await program.line('available ')) as { available: boolean; reason: string };
    const failed = JSON.parse(await program.line('failed ')) as { code: string; message: string };
    expect(await program.line('without ')).toMatch(/^https:\/\/127\.0\.0\.1:\d+$/);
    expect(await program.ended).toMatchObject({ code: 0 });
    expect(available.available).toBe(false);
    expect(failed).toEqual({ code: 'PLATFORM_UNAVAILABLE', message: `[PLATFORM_UNAVAILABLE] No Kafka broker can be had here: ${available.reason}.` });
    return available.reason;
  };

  it('without Java and Maven it says all that is to be installed, at once; without Kafka the rest starts', async () => {
    const reason = await run({ PATH: '', JAVA_HOME: '' });
    expect(reason).toContain('there is no java');
    expect(reason).toContain('install Java 17 or newer (Debian: apt-get install openjdk-17-jre-headless) and Maven (Debian: apt-get install maven)');
    expect(reason).toContain('set KAFKA_HOME');
  });

  it('a JAVA_HOME that holds no Java is told, though there may be one on the PATH', async () => {
    const reason = await run({ JAVA_HOME: empty });
    expect(reason).toBe(
      `JAVA_HOME is ${empty}, but there is no ${empty}/bin/java; set it to the folder of a Java 17 or newer, or unset it to use the java on the PATH`,
    );
  });

  it('a KAFKA_HOME that holds no Kafka is told, with where it was looked for', async () => {
    const reason = await run({ KAFKA_HOME: empty });
    expect(reason).toBe(`KAFKA_HOME is ${empty}, but ${empty}/libs holds no Kafka; set it to an unpacked Kafka, or unset it to have one fetched`);
  });
});
