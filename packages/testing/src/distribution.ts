import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { TurnpikeError } from '@turnpike/core';
import { pause, systemClock } from '@turnpike/core/spi';

const run = promisify(execFile);

export const KAFKA_VERSION = '4.3.1';

/** The jars of a broker and the Java that runs them. */
export interface KafkaDistribution {
  readonly java: string;
  /** Folder with the jars. */
  readonly libs: string;
  /** Where what is made once per version is kept. */
  readonly cache: string;
}

/** Whether a broker can be had here, and if not, what to install. */
export async function kafkaAvailability(): Promise<
  { readonly available: true; readonly cached: boolean } | { readonly available: false; readonly reason: string }
> {
  const java = await javaVersion();
  if (java === undefined || java < 17)
    return {
      available: false,
      reason: `${java === undefined ? 'there is no java on the PATH' : `java is version ${java}`}; install Java 17 or newer (Debian: apt-get install openjdk-17-jre-headless)`,
    };
  const libs = kafkaHomeLibs() ?? cachedLibs();
  if (existsSync(libs)) return { available: true, cached: true };
  if (await works('mvn', ['--version'])) return { available: true, cached: false };
  return {
    available: false,
    reason: 'there is neither KAFKA_HOME nor Maven to fetch Kafka with; set KAFKA_HOME to an unpacked Kafka, or install Maven (Debian: apt-get install maven)',
  };
}

/** Makes sure that the jars are there: from KAFKA_HOME, else fetched through Maven once per version. @throws TurnpikeError PLATFORM_UNAVAILABLE. */
export async function prepareKafka(say: (line: string) => void = () => {}): Promise<KafkaDistribution> {
  const availability = await kafkaAvailability();
  if (!availability.available) throw new TurnpikeError('PLATFORM_UNAVAILABLE', `No Kafka broker can be had here: ${availability.reason}.`);
  const cache = cacheFolder();
  mkdirSync(cache, { recursive: true });
  const libs = kafkaHomeLibs() ?? cachedLibs();
  if (!existsSync(libs)) await fetchJars(libs, say);
  return { java: javaPath(), libs, cache };
}

async function fetchJars(libs: string, say: (line: string) => void): Promise<void> {
  const lock = `${libs}.lock`;
  await locked(lock, async () => {
    if (existsSync(libs)) return; // Another process has fetched them meanwhile.
    say(`fetching Apache Kafka ${KAFKA_VERSION} through Maven (55 MB, once)`);
    const folder = mkdtempSync(path.join(cacheFolder(), 'fetch-'));
    try {
      writeFileSync(path.join(folder, 'pom.xml'), POM);
      await run('mvn', ['-B', '-q', 'dependency:copy-dependencies'], { cwd: folder, maxBuffer: 16 * 1024 * 1024 });
      renameSync(path.join(folder, 'libs'), libs);
    } catch (cause) {
      const { stdout = '', stderr = '' } = cause as { stdout?: string; stderr?: string };
      throw new TurnpikeError(
        'PLATFORM_UNAVAILABLE',
        `Maven could not fetch Kafka ${KAFKA_VERSION}: ${`${stdout}${stderr}`.trim().split('\n').slice(0, 3).join(' ')}. Check the network and Maven's settings, or set KAFKA_HOME.`,
        { cause },
      );
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
}

/** One process at a time; a lock that its owner has left behind by dying is taken over after 5 minutes. */
async function locked(file: string, action: () => Promise<void>): Promise<void> {
  for (;;) {
    try {
      mkdirSync(file);
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      const age = Date.now() - (statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0);
      if (age > 300_000) rmSync(file, { recursive: true, force: true });
      else await pause(systemClock, 200);
    }
  }
  try {
    await action();
  } finally {
    rmSync(file, { recursive: true, force: true });
  }
}

function cacheFolder(): string {
  return path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'turnpike', `kafka-${KAFKA_VERSION}`);
}

const cachedLibs = () => path.join(cacheFolder(), 'libs');

function kafkaHomeLibs(): string | undefined {
  const home = process.env.KAFKA_HOME;
  if (!home) return undefined;
  const libs = path.join(home, 'libs');
  if (existsSync(libs) && readdirSync(libs).some((f) => f.startsWith('kafka-clients-'))) return libs;
  throw new TurnpikeError(
    'PLATFORM_UNAVAILABLE',
    `KAFKA_HOME is ${home}, but ${libs} holds no Kafka. Set it to an unpacked Kafka, or unset it to have one fetched.`,
  );
}

function javaPath(): string {
  const home = process.env.JAVA_HOME;
  const own = home ? path.join(home, 'bin', 'java') : undefined;
  return own && existsSync(own) ? own : 'java';
}

/** The feature version: 17 of "17.0.15". */
export async function javaVersion(): Promise<number | undefined> {
  try {
    const { stderr, stdout } = await run(javaPath(), ['-version']);
    const match = /version "(\d+)/.exec(`${stderr}${stdout}`);
    return match ? Number(match[1]) : undefined;
  } catch {
    return undefined;
  }
}

async function works(program: string, args: string[]): Promise<boolean> {
  try {
    await run(program, args);
    return true;
  } catch {
    return false;
  }
}

const dependency = (group: string, artifact: string, version: string) =>
  `<dependency><groupId>${group}</groupId><artifactId>${artifact}</artifactId><version>${version}</version></dependency>`;

// Not a build: a list of what to fetch. log4j-slf4j-impl is not transitive, and without it the broker has no log.
const POM = `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>dev.turnpike</groupId><artifactId>kafka-distribution</artifactId><version>1</version><packaging>pom</packaging>
<properties><project.build.sourceEncoding>UTF-8</project.build.sourceEncoding></properties>
<dependencies>${dependency('org.apache.kafka', 'kafka_2.13', KAFKA_VERSION)}${dependency('org.apache.kafka', 'kafka-tools', KAFKA_VERSION)}${dependency('org.apache.logging.log4j', 'log4j-slf4j-impl', '2.25.4')}</dependencies>
<build><plugins><plugin><groupId>org.apache.maven.plugins</groupId><artifactId>maven-dependency-plugin</artifactId><version>3.8.1</version>
<configuration><outputDirectory>\${project.basedir}/libs</outputDirectory><includeScope>runtime</includeScope></configuration></plugin></plugins></build></project>
`;
