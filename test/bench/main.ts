// npm run bench: every client against one real broker, in turn, and how ours stands to the others.
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, totalmem } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { KAFKA_VERSION } from '@turnpike/testing';
import { BenchCluster } from './cluster.ts';
import type { Outcome } from './job.ts';
import { type BenchTest, CLIENTS, choose, TESTS } from './plan.ts';
import { report } from './report.ts';
import { fileOf, type LeftOut } from './results.ts';
import { runTest, type Timing } from './rounds.ts';

const USAGE = `npm run bench -- [OPTION]: throughput, CPU and latency of every client against a real broker

  --quick         4 tests, 5 clients, 3 short rounds: about 3 minutes
  --test TEXT     only the test of this name, else those whose name has it in it; more than once for several
  --client TEXT   likewise the clients
  --rounds N      of each client at each test (default 5)
  --seconds N     that are measured in a round, after a warm-up (default 3)
  --json FILE     writes the figures
  --profile DIR   writes a CPU profile of each child process there
  --help          this

tests:   ${TESTS.map((t) => t.name).join(', ')}
clients: ${Object.keys(CLIENTS).join(', ')}
`;

const options = readOptions();
const tests = choose(options);
if (tests.length === 0) usage(`nothing has that name. There are:\n\n${USAGE}`);

const rounds = new Map<string, ReadonlyMap<string, readonly (Outcome | undefined)[]>>();
const leftOut: LeftOut[] = [];
const machine = `${cpus().length} x ${cpus()[0]?.model.trim() ?? 'CPU'}, ${Math.round(totalmem() / 2 ** 30)} GiB, ${process.platform} ${process.arch}, Node ${process.versions.node}, Kafka ${KAFKA_VERSION}, load ${loadavg()[0]?.toFixed(1)} at the start`;
console.log(`bench: ${tests.length} tests, ${options.timing.rounds} rounds; ${machine}`);
for (const nodes of [1, 3] as const)
  await runAll(
    tests.filter((t) => t.brokers === nodes),
    nodes,
  );

const file = fileOf(rounds, { date: new Date().toISOString().slice(0, 10), machine, leftOut });
console.log(`\n${report(file)}\n`);
if (options.json !== undefined) {
  writeFileSync(options.json, `${JSON.stringify(file, null, 2)}\n`);
  console.log(`bench: the figures are in ${options.json}`);
}
const missed = file.ratios.filter((r) => !r.met).length;
console.log(`bench: ${file.results.length} results, ${file.ratios.length - missed} of ${file.ratios.length} targets met`);
process.exitCode = file.results.length > 0 ? 0 : 1;

async function runAll(those: readonly BenchTest[], nodes: 1 | 3): Promise<void> {
  if (those.length === 0) return;
  await using cluster = await BenchCluster.start(nodes);
  for (const test of those) {
    console.log(`\n${test.name}: ${test.title}`);
    const done = await runTest(test, cluster, { timing: options.timing, profiles: options.profile, say: console.log });
    rounds.set(test.name, done.outcomes);
    leftOut.push(...done.leftOut);
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
      rounds: positive('rounds', values.rounds, quick ? 3 : 5),
      measureMs: seconds * 1000,
      warmUpMs: quick ? 600 : 1_500,
      consumeMs: quick ? 3_000 : Math.max(15_000, seconds * 1000),
    };
    const profile = values.profile === undefined ? undefined : path.resolve(values.profile);
    if (profile !== undefined) mkdirSync(profile, { recursive: true });
    return { quick, tests: values.test, clients: values.client, timing, json: values.json, profile };
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
