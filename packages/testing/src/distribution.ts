import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { homedir, hostname } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { TurnpikeError } from '@turnpike/core';
import { pause, systemClock } from '@turnpike/core/spi';

const run = promisify(execFile);

export const KAFKA_VERSION = '4.3.1';
const FETCHING = 'fetch-';
const LOCK_TOUCH_MS = 2_000;
const LOCK_STALE_MS = 30_000;

/** The jars of a broker and the Java that runs them. */
export interface KafkaDistribution {
  readonly java: string;
  /** Folder with the jars. */
  readonly libs: string;
  /** Where what is made once per version is kept. */
  readonly cache: string;
  /** In full, as "17.0.15". */
  readonly javaVersion: string;
}

/** Whether a broker can be had here, and if not, what to install: all of it at once. */
export async function kafkaAvailability(): Promise<
  { readonly available: true; readonly cached: boolean } | { readonly available: false; readonly reason: string }
> {
  const { home, wrongHome } = kafkaHome();
  const wrong = wrongHome ?? wrongJavaHome();
  if (wrong !== undefined) return { available: false, reason: wrong };
  const java = await javaVersion();
  const feature = Number.parseInt(java ?? '', 10);
  const cached = home !== undefined || existsSync(cachedLibs());
  const found: string[] = [];
  const install: string[] = [];
  if (!(feature >= 17)) {
    found.push(java === undefined ? 'there is no java, neither in JAVA_HOME nor on the PATH' : `java is version ${java}`);
    install.push('Java 17 or newer (Debian: apt-get install openjdk-17-jre-headless)');
  }
  if (!cached && !(await works('mvn', ['--version']))) {
    found.push('there is neither KAFKA_HOME nor Maven to fetch Kafka with');
    install.push('Maven (Debian: apt-get install maven), or set KAFKA_HOME to an unpacked Kafka');
  }
  return install.length === 0 ? { available: true, cached } : { available: false, reason: `${found.join(', and ')}; install ${install.join(' and ')}` };
}

/** Makes sure that the jars are there: from KAFKA_HOME, else fetched through Maven once per version. @throws TurnpikeError PLATFORM_UNAVAILABLE. */
export async function prepareKafka(say: (line: string) => void = () => {}): Promise<KafkaDistribution> {
  const availability = await kafkaAvailability();
  if (!availability.available) throw new TurnpikeError('PLATFORM_UNAVAILABLE', `No Kafka broker can be had here: ${availability.reason}.`);
  const { home } = kafkaHome();
  const cache = home?.cache ?? cacheFolder();
  mkdirSync(cache, { recursive: true });
  const libs = home?.libs ?? cachedLibs();
  if (!existsSync(libs)) await fetchJars(libs, say);
  return { java: javaPath(), libs, cache, javaVersion: (await javaVersion()) ?? '' };
}

async function fetchJars(libs: string, say: (line: string) => void): Promise<void> {
  await locked(`${libs}.lock`, say, async () => {
    if (existsSync(libs)) return; // Another process has fetched them meanwhile.
    // Who has the lock is alone: these are of processes that were killed.
    for (const name of readdirSync(cacheFolder())) if (name.startsWith(FETCHING)) rmSync(path.join(cacheFolder(), name), { recursive: true, force: true });
    say(`fetching Apache Kafka ${KAFKA_VERSION} through Maven (55 MB, once)`);
    const folder = mkdtempSync(path.join(cacheFolder(), FETCHING));
    try {
      writeFileSync(path.join(folder, 'pom.xml'), POM);
      await run('mvn', ['-B', '-q', 'dependency:copy-dependencies'], { cwd: folder, maxBuffer: 16 * 1024 * 1024 });
      rename(path.join(folder, 'libs'), libs);
    } catch (cause) {
      const { stdout = '', stderr = '' } = cause as { stdout?: string; stderr?: string };
      const said = `${stdout}${stderr}`.trim() || (cause as Error).message;
      throw new TurnpikeError(
        'PLATFORM_UNAVAILABLE',
        `Maven could not fetch Kafka ${KAFKA_VERSION}: ${said.split('\n').slice(0, 3).join(' ').slice(0, 1_000)}. Check the network and Maven's settings, or set KAFKA_HOME.`,
        { cause },
      );
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
}

/** Whole, or not at all. Somebody who was faster has done the same. */
function rename(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if (!existsSync(to)) throw error;
  }
}

/** One process at a time. The owner touches the lock; one whose owner is gone is taken over: at once on this machine, else when it hasn't been touched for a while. */
async function locked(file: string, say: (line: string) => void, action: () => Promise<void>): Promise<void> {
  const me = `${hostname()} ${process.pid}`;
  for (let waiting = false; !take(file, me); ) {
    if (abandoned(file)) rmSync(file, { force: true });
    else {
      if (!waiting) say(`waiting for another process to fetch Apache Kafka ${KAFKA_VERSION}`);
      waiting = true;
      await pause(systemClock, 100);
    }
  }
  const touch = setInterval(() => {
    if (existsSync(file)) utimesSync(file, new Date(), new Date());
  }, LOCK_TOUCH_MS);
  touch.unref();
  try {
    await action();
  } finally {
    clearInterval(touch);
    rmSync(file, { force: true });
  }
}

function take(file: string, me: string): boolean {
  try {
    writeFileSync(file, me, { flag: 'wx' });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

function abandoned(file: string): boolean {
  try {
    const [host, pid] = readFileSync(file, 'utf8').split(' ');
    if (Date.now() - statSync(file).mtimeMs > LOCK_STALE_MS) return true;
    return host === hostname() && pid !== undefined && !alive(Number(pid));
  } catch {
    return false; // It has just been given back.
  }
}

function alive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}

const cacheRoot = () => path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'turnpike');
const cacheFolder = () => path.join(cacheRoot(), `kafka-${KAFKA_VERSION}`);
const cachedLibs = () => path.join(cacheFolder(), 'libs');

/** An unpacked Kafka of the user's own. What is made for one installation doesn't fit another: each has its own cache. */
function kafkaHome(): { readonly home?: { readonly libs: string; readonly cache: string }; readonly wrongHome?: string } {
  const given = process.env.KAFKA_HOME;
  if (!given) return {};
  const libs = path.join(given, 'libs');
  const clients = existsSync(libs) ? readdirSync(libs).find((f) => f.startsWith('kafka-clients-')) : undefined;
  if (clients === undefined)
    return { wrongHome: `KAFKA_HOME is ${given}, but ${libs} holds no Kafka; set it to an unpacked Kafka, or unset it to have one fetched` };
  const key = createHash('sha256')
    .update(`${realpathSync(libs)}\0${clients}`)
    .digest('hex')
    .slice(0, 12);
  return { home: { libs, cache: path.join(cacheRoot(), `kafka-home-${key}`) } };
}

/** A JAVA_HOME that is wrong is told: the Java on the PATH is another one than was meant. Empty, it is not set. */
function wrongJavaHome(): string | undefined {
  const java = javaPath();
  if (java === 'java' || existsSync(java)) return undefined;
  return `JAVA_HOME is ${process.env.JAVA_HOME}, but there is no ${java}; set it to the folder of a Java 17 or newer, or unset it to use the java on the PATH`;
}

function javaPath(): string {
  const home = process.env.JAVA_HOME;
  return home ? path.join(home, 'bin', 'java') : 'java';
}

/** As "17.0.15"; undefined = there is none. */
async function javaVersion(): Promise<string | undefined> {
  try {
    const { stderr, stdout } = await run(javaPath(), ['-version']);
    return /version "(\d[\w.+-]*)"/.exec(`${stderr}${stdout}`)?.[1];
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
