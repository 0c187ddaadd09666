// npm run bench: every client against one real broker, in turn, and how ours stands to the others.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, totalmem } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { KAFKA_VERSION } from '@turnpike/testing';
import { chart } from './chart.ts';
import { BenchCluster } from './cluster.ts';
import { writeFigures } from './document.ts';
import { type BenchTest, CLIENTS, choose, TESTS } from './plan.ts';
import { profileTables } from './profile.ts';
import { stopPrograms } from './programs.ts';
import { report, targetsTable } from './report.ts';
import { type BenchFile, fileOf, type LeftOut, mergeFiles } from './results.ts';
import { runTest, type TestRounds, type Timing } from './rounds.ts';

const USAGE = `npm run bench -- [OPTION]: throughput, CPU and latency of every client against a real broker

  --quick         4 tests, 5 clients, 3 short rounds: about 3 minutes
  --test TEXT     only the test of this name, else those whose name has it in it; more than once for several
  --client TEXT   likewise the clients
  --rounds N      of each client at each test (default 5)
  --seconds N     that are measured in a round, after a warm-up (default 3)
  --json FILE     writes the figures
  --svg FILE      draws them
  --profile DIR   writes a CPU profile of each child process there, and prints whose
                  code the time went to
  --write FILE    measures nothing: takes the figures of such a file into docs/performance.md
                  and its chart; more than once for runs of parts
  --help          this

tests:   ${TESTS.map((t) => t.name).join(', ')}
clients: ${Object.keys(CLIENTS).join(', ')}
`;

const options = readOptions();
// The broker is stopped by the platform's own handler, and the children end with this process.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, stopPrograms);
const file = options.write.length > 0 ? mergeFiles(options.write.map((name) => JSON.parse(readFileSync(name, 'utf8')) as BenchFile)) : await run();
if (options.write.length > 0) {
  writeFigures(file);
  console.log('bench: the figures are in docs/performance.md, the chart beside it');
}
if (options.svg !== undefined) {
  writeFileSync(options.svg, chart(file));
  console.log(`bench: the chart is ${options.svg}`);
}
const missed = file.ratios.filter((r) => !r.met).length;
console.log(`bench: ${file.results.length} results, ${file.ratios.length - missed} of ${file.ratios.length} targets met`);
process.exitCode = file.results.length > 0 ? 0 : 1;

async function run(): Promise<BenchFile> {
  const tests = choose(options);
  if (tests.length === 0) usage(`nothing has that name. There are:\n\n${USAGE}`);
  const machine = `${cpus().length} x ${cpus()[0]?.model.trim() ?? 'CPU'}, ${Math.round(totalmem() / 2 ** 30)} GiB, ${process.platform} ${process.arch}, Node ${process.versions.node}, Kafka ${KAFKA_VERSION}, load ${loadavg()[0]?.toFixed(1)} at the start`;
  console.log(`bench: ${tests.length} tests, ${options.timing.rounds} rounds; ${machine}`);
  const rounds = new Map<string, TestRounds['outcomes']>();
  const leftOut: LeftOut[] = [];
  const made = () => fileOf(rounds, { date: new Date().toISOString().slice(0, 10), machine, leftOut });
  for (const nodes of [1, 3] as const)
    await runAll(
      tests.filter((t) => t.brokers === nodes),
      nodes,
      (test, done) => {
        rounds.set(test.name, done.outcomes);
        leftOut.push(...done.leftOut);
        // As they come: a long run that is interrupted has measured what it has.
        if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(made(), null, 2)}\n`);
      },
    );
  const file = made();
  console.log(`\n${report(file)}\n`);
  if (file.ratios.length > 0) console.log(`${targetsTable(file.ratios)}\n`);
  if (options.profile !== undefined) console.log(`${profileTables(options.profile)}\n`);
  return file;
}

async function runAll(those: readonly BenchTest[], nodes: 1 | 3, onTest: (test: BenchTest, done: TestRounds) => void): Promise<void> {
  if (those.length === 0) return;
  await using cluster = await BenchCluster.start(nodes);
  for (const test of those) {
    console.log(`\n${test.name}: ${test.title}`);
    onTest(test, await runTest(test, cluster, { timing: options.timing, profiles: options.profile, say: console.log }));
  }
}

/** Ends the process where there is nothing to run: the options were asked for, or one of them is wrong. */
function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        quick: { type: 'boolean', default: false },
        test: { type: 'string', multiple: true, default: [] },
        client: { type: 'string', multiple: true, default: [] },
        rounds: { type: 'string' },
        seconds: { type: 'string' },
        json: { type: 'string' },
        svg: { type: 'string' },
        write: { type: 'string', multiple: true, default: [] },
        profile: { type: 'string' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    if (values.help) {
      process.stdout.write(USAGE);
      process.exit(0);
    }
    const { quick } = values;
    const seconds = positive('seconds', values.seconds, quick ? 1.5 : 3);
    const timing: Timing = {
      rounds: Math.ceil(positive('rounds', values.rounds, quick ? 3 : 5)),
      measureMs: seconds * 1000,
      warmUpMs: quick ? 600 : 1_500,
      consumeMs: quick ? 3_000 : Math.max(15_000, seconds * 1000),
      soakSeconds: values.seconds === undefined ? undefined : seconds,
    };
    const profile = values.profile === undefined ? undefined : path.resolve(values.profile);
    if (profile !== undefined) mkdirSync(profile, { recursive: true });
    return { quick, tests: values.test, clients: values.client, timing, json: values.json, svg: values.svg, write: values.write, profile };
  } catch (error) {
    return usage(`${(error as Error).message}. There are:\n\n${USAGE}`);
  }
}

function positive(name: string, text: string | undefined, otherwise: number): number {
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (!(value > 0)) throw new Error(`--${name} is ${JSON.stringify(text)}; it must be a number above 0`);
  return value;
}

function usage(message: string): never {
  console.error(`bench: ${message}`);
  process.exit(2);
}
