import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { KAFKA_VERSION, kafkaAvailability, prepareKafka, startPlatform } from '@turnpike/testing';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type Program, processesWith, startProgram } from './programs.ts';

let folder: string;
let cache: string;

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'distribution-'));
  cache = path.join(folder, 'turnpike', `kafka-${KAFKA_VERSION}`);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

/** A `mvn` that counts its calls and copies two jars into `libs`; between them it waits until `go` is there. */
function stubMaven(script = ''): void {
  const file = path.join(folder, 'bin', 'mvn');
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(
    file,
    `#!/bin/sh
[ "$1" = --version ] && exit 0
echo called >> "${folder}/calls"
${script}
grep -q kafka_2.13 pom.xml || exit 9
mkdir libs && echo one > libs/kafka-clients-${KAFKA_VERSION}.jar
while [ ! -e "${folder}/go" ]; do sleep 0.05; done
echo two > libs/kafka_2.13-${KAFKA_VERSION}.jar
`,
  );
  chmodSync(file, 0o755);
}

const calls = () => (existsSync(path.join(folder, 'calls')) ? readFileSync(path.join(folder, 'calls'), 'utf8').trim().split('\n').length : 0);
const go = () => writeFileSync(path.join(folder, 'go'), '');
const fetching = () => (existsSync(cache) ? readdirSync(cache).filter((name) => name.startsWith('fetch-')) : []);
const fetcher = (): Program =>
  startProgram(
    `
import { readdirSync } from 'node:fs';
import { prepareKafka } from '@turnpike/testing';
const kafka = await prepareKafka((line) => console.log('said ' + line)).catch((e) => { console.log('failed ' + e.message); process.exit(1); });
console.log('jars ' + readdirSync(kafka.libs).sort().join());`,
    { XDG_CACHE_HOME: folder, KAFKA_HOME: '', PATH: `${path.join(folder, 'bin')}:${process.env.PATH}` },
  );
const both = `kafka-clients-${KAFKA_VERSION}.jar,kafka_2.13-${KAFKA_VERSION}.jar`;

describe('Kafka’s jars through Maven', () => {
  it('are fetched once, whole, by the first of two processes; the other waits for it and says so', async () => {
    stubMaven();
    await using one = fetcher();
    await one.line('said fetching Apache Kafka');
    await using two = fetcher();
    await two.line('said waiting for another process to fetch Apache Kafka');
    expect(existsSync(path.join(cache, 'libs'))).toBe(false);
    go();
    expect([await one.line('jars '), await two.line('jars ')]).toEqual([both, both]);
    await Promise.all([one.ended, two.ended]);
    expect(calls()).toBe(1);
    expect(readdirSync(cache)).toEqual(['libs']);
  });

  it('whose fetch was killed leave no half folder, and the next process doesn’t wait for the dead one', async () => {
    stubMaven();
    await using killed = fetcher();
    await expect.poll(fetching, { timeout: 5_000 }).toHaveLength(1);
    await expect.poll(calls, { timeout: 5_000 }).toBe(1);
    killed.process.kill('SIGKILL');
    await killed.ended;
    expect(existsSync(path.join(cache, 'libs'))).toBe(false);
    expect(existsSync(path.join(cache, 'libs.lock'))).toBe(true);
    go();
    await using next = fetcher();
    expect(await next.line('jars ')).toBe(both);
    expect((await next.ended).output).not.toContain('waiting');
    expect(readdirSync(cache)).toEqual(['libs']);
  });

  it('are taken over from a process of another machine that hasn’t been heard of for long', async () => {
    stubMaven();
    go();
    mkdirSync(cache, { recursive: true });
    const lock = path.join(cache, 'libs.lock');
    writeFileSync(lock, `not-${hostname()} 1`);
    await using waits = fetcher();
    await waits.line('said waiting');
    const old = new Date(Date.now() - 60_000);
    utimesSync(lock, old, old);
    expect(await waits.line('jars ')).toBe(both);
  });

  it('that can’t be had are PLATFORM_UNAVAILABLE with what Maven says, and leave nothing', async () => {
    stubMaven('echo "[ERROR] Could not transfer artifact: Connection refused"; exit 1');
    await using program = fetcher();
    const message = await program.line('failed ');
    expect(message).toContain('[PLATFORM_UNAVAILABLE] Maven could not fetch Kafka');
    expect(message).toContain('Could not transfer artifact: Connection refused. Check the network');
    await program.ended;
    expect(readdirSync(cache)).toEqual([]);
  });
});

describe('KAFKA_HOME', () => {
  it('that holds no Kafka is refused with where it was looked for', async () => {
    vi.stubEnv('KAFKA_HOME', folder);
    expect(await kafkaAvailability()).toMatchObject({
      available: false,
      reason: expect.stringContaining(`KAFKA_HOME is ${folder}, but ${folder}/libs holds no Kafka`),
    });
    await expect(startPlatform()).rejects.toMatchObject({ code: 'PLATFORM_UNAVAILABLE', message: expect.stringContaining('KAFKA_HOME') });
  });

  it('is where the broker’s jars come from, with a cache of its own; the first stop leaves what makes the next start faster', async () => {
    const { libs } = await prepareKafka();
    symlinkSync(libs, path.join(folder, 'libs'));
    vi.stubEnv('KAFKA_HOME', folder);
    vi.stubEnv('XDG_CACHE_HOME', path.join(folder, 'cache'));
    expect(await kafkaAvailability()).toEqual({ available: true, cached: true });
    const own = await prepareKafka();
    expect(realpathSync(own.libs)).toBe(realpathSync(libs));
    {
      await using platform = await startPlatform();
      const broker = [...processesWith(platform.directory).values()].find((command) => command.includes('kafka.Kafka'));
      expect(broker).toContain(path.join(folder, 'libs'));
    }
    expect(readdirSync(own.cache).map((name) => name.replace(/java-.*\.jsa$/, 'java.jsa'))).toEqual(['bootstrap.checkpoint', 'classes-java.jsa']);
    expect(readdirSync(path.join(folder, 'cache', 'turnpike'))).toEqual([path.basename(own.cache)]);
  });
});
