// Peers that are no JavaScript: a Go program with franz-go, and the tools that come with Kafka. Each is measured from outside the child that the others run in.
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { prepareKafka } from '@turnpike/testing';
import { newGroup, tokenOf } from './clients/common.ts';
import { type Answer, type Job, Missing, type Outcome } from './job.ts';
import { cpuOfAll } from './measure.ts';
import { valuesOf } from './records.ts';

const run = promisify(execFile);

/** How long a program may take beside warm-up and measuring, in ms. */
const GRACE_MS = 90_000;

/** Under way. Nothing tells them that this process has ended. */
const programs = new Set<ChildProcess>();

export function stopPrograms(): void {
  for (const program of programs) program.kill('SIGKILL');
}

function known<T extends ChildProcess>(program: T): T {
  programs.add(program);
  program.once('exit', () => programs.delete(program));
  return program;
}

type ProgramName = 'franz-go' | 'franz-go-callback' | 'java';

export const isProgram = (client: string): client is ProgramName => client === 'java' || client.startsWith('franz-go');

/** Runs one round of it. Never rejects. */
export async function runProgram(name: ProgramName, job: Job): Promise<Answer> {
  try {
    return { outcome: await (name === 'java' ? java(job) : franz(job)) };
  } catch (error) {
    if (error instanceof Missing) return { missing: error.message };
    return { failed: (error as Error).message };
  }
}

async function franz(job: Job): Promise<Outcome> {
  const program = await franzProgram();
  const valuesFile = path.join(job.folder, `values-${job.valueBytes}`);
  writeFileSync(valuesFile, Buffer.concat(valuesOf(job.valueBytes)), { mode: 0o600 });
  const { oauth, ...rest } = job;
  const proof = oauth ? { caFile: oauth.caFile, token: (await tokenOf(oauth)).value } : {};
  const running = run(program, [], { timeout: job.warmUpMs + job.measureMs + GRACE_MS });
  known(running.child).stdin?.end(JSON.stringify({ ...rest, valuesFile, ...proof }));
  const { stdout } = await running.catch((error: { readonly stderr?: string; readonly message: string }) => {
    throw new Error(error.stderr?.trim() || error.message);
  });
  return JSON.parse(stdout) as Outcome;
}

let built: Promise<string> | undefined;

/** Built once for each version of it, in the user's cache folder. @throws Missing where there is no Go, or its modules can't be had */
function franzProgram(): Promise<string> {
  built ??= buildFranz();
  return built;
}

async function buildFranz(): Promise<string> {
  const go = ['/usr/local/go/bin/go', ...(process.env.PATH ?? '').split(path.delimiter).map((folder) => path.join(folder, 'go'))].find(existsSync);
  if (go === undefined) throw new Missing('Go is not installed');
  const source = path.join(import.meta.dirname, 'franz');
  const { stdout: version } = await run(go, ['version']);
  const key = createHash('sha256').update(version);
  for (const file of ['main.go', 'go.mod', 'go.sum']) key.update(readFileSync(path.join(source, file)));
  const folder = path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'turnpike', 'bench');
  const program = path.join(folder, `franz-${key.digest('hex').slice(0, 12)}`);
  if (existsSync(program)) return program;
  mkdirSync(folder, { recursive: true });
  const fresh = `${program}.${process.pid}`;
  try {
    await run(go, ['build', '-o', fresh, '.'], { cwd: source });
  } catch (error) {
    const said = (error as { stderr?: string }).stderr?.trim().split('\n').at(-1);
    throw new Missing(`it can't be built: ${said || (error as Error).message}`);
  }
  renameSync(fresh, program);
  return program;
}

const REPORT_MS = 100;

/** The distribution's own tools. They are read while they run, so that neither the start of Java nor its warm-up counts. */
async function java(job: Job): Promise<Outcome> {
  const { work, topic, bootstrap } = job;
  if (job.oauth || job.compression !== 'none') throw new Missing('it is measured in plaintext, uncompressed');
  const { java: program, libs } = await prepareKafka();
  const tool = (name: string) => [
    '-Xmx512m',
    '-cp',
    path.join(libs, '*'),
    `org.apache.kafka.tools.${name}`,
    '--bootstrap-server',
    bootstrap.join(','),
    '--topic',
    topic,
  ];
  const report = ['--reporting-interval', String(REPORT_MS)];
  if (work.kind === 'produce') {
    const all = ['--num-records', '2000000000', '--throughput', '-1', '--record-size', String(job.valueBytes), '--command-property', 'acks=all'];
    return watch(program, [...tool('ProducerPerformance'), ...all, ...report], job, (line, before) => {
      const sent = /^(\d+) records sent,.* ([\d.]+) ms max latency/.exec(line);
      return sent ? before + Number(sent[1]) : undefined;
    });
  }
  if (work.kind === 'consume') {
    const all = ['--num-records', String(Math.ceil(work.records * 1.25)), '--group', newGroup(), '--show-detailed-stats', '--hide-header'];
    return watch(program, [...tool('ConsumerPerformance'), ...all, ...report], job, (line) => {
      const [, , , , read] = line.split(',');
      return read === undefined || !/^\s*\d+\s*$/.test(read) ? undefined : Number(read);
    });
  }
  throw new Missing('it has no such test');
}

/** `totalOf` gives how many records there have been in all, from a line of the tool's output. */
function watch(program: string, args: readonly string[], job: Job, totalOf: (line: string, before: number) => number | undefined): Promise<Outcome> {
  const child = known(spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] }));
  const enough = job.work.kind === 'consume' ? job.work.records : Number.POSITIVE_INFINITY;
  return new Promise<Outcome>((resolve, reject) => {
    const said: string[] = [];
    let total = 0;
    let firstAt: number | undefined;
    let start: Sample | undefined;
    let last: Sample | undefined;
    const timer = setTimeout(() => reject(new Error(`it said nothing more: ${said.slice(-3).join(' ')}`)), job.warmUpMs + job.measureMs + GRACE_MS);
    const end = (result: () => void) => {
      clearTimeout(timer);
      child.kill('SIGKILL');
      result();
    };
    const finish = () => {
      const outcome = start && last && last.total > start.total ? between(start, last) : undefined;
      end(() => (outcome ? resolve(outcome) : reject(new Error(`it ended without figures: ${said.slice(-3).join(' ')}`))));
    };
    createInterface(child.stdout).on('line', (line) => {
      said.push(line);
      const now = totalOf(line, total);
      if (now === undefined) return;
      total = now;
      firstAt ??= performance.now();
      last = sampleOf(child, job, total);
      const warm = total >= enough / 5 || last.at - firstAt >= Math.max(job.warmUpMs, 1_000);
      if (!start && warm) start = last;
      else if (start && (total - start.total >= enough || last.at - start.at >= job.measureMs)) finish();
    });
    createInterface(child.stderr).on('line', (line) => said.push(line));
    child.on('error', (error) => end(() => reject(error)));
    // It reads what there is and ends, its last line a little before.
    child.on('exit', finish);
  });
}

interface Sample {
  readonly total: number;
  readonly at: number;
  readonly cpu: number | null;
  readonly broker: number | null;
  readonly rssMiB: number | null;
}

function sampleOf({ pid = 0 }: ChildProcess, job: Job, total: number): Sample {
  return { total, at: performance.now(), cpu: cpuOfAll([pid]), broker: cpuOfAll(job.brokerPids), rssMiB: rssOf(pid) };
}

function between(from: Sample, to: Sample): Outcome {
  const used = (a: number | null, b: number | null) => (a === null || b === null ? null : b - a);
  return {
    records: to.total - from.total,
    totalRecords: to.total,
    seconds: (to.at - from.at) / 1000,
    cpuMicros: used(from.cpu, to.cpu),
    brokerCpuMicros: used(from.broker, to.broker),
    rssMiB: to.rssMiB,
    peakRssMiB: null,
    p50Ms: null,
    p99Ms: null,
  };
}

function rssOf(pid: number): number | null {
  try {
    const kib = /^VmRSS:\s*(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return kib === undefined ? null : Number(kib) / 1024;
  } catch {
    return null;
  }
}
