// npm run prove -- conformance [--quick]: every transport passes the one suite, on a real cluster, and docs/transports.md says what came of it.
import { parseArgs } from 'node:util';
import { type ConformanceCase, type ConformanceSuite, transportConformance } from '@turnpike/testing';
import { type Column, tableOf, writeTable } from '../conformance/table.ts';
import { Platforms, TRANSPORTS, type TransportName, underTest } from '../conformance/under-test.ts';

const USAGE = `npm run prove -- conformance [OPTION]: the transports' conformance suite, on a real Kafka

  --quick           all cases on memory and wire, a subset on the others; leaves docs/transports.md as it is
  --transport NAME  only this one (${TRANSPORTS.join(', ')}); more than once for several
  --case TEXT       only the cases whose row or name has this in it
  --verbose         a line for each case, with how long it took
  --help            this
`;

interface Failure {
  readonly transport: TransportName;
  readonly row: string;
  readonly name: string;
  readonly error: unknown;
}

interface Run extends Column {
  readonly cases: number;
  readonly passed: number;
  readonly refused: number;
  readonly seconds: number;
}

/** A case waits for its cluster most of the time. */
const SIDE_BY_SIDE = 4;

const options = readOptions();
const failures: Failure[] = [];
/** An error that nobody awaited is the transport's mistake, whichever case it came with: the next one that ends tells. */
const stray: unknown[] = [];
process.on('unhandledRejection', (error) => stray.push(error));

const runs: Run[] = [];
{
  await using platforms = new Platforms();
  for (const name of options.transports) runs.push(await prove(name, platforms));
}

console.log('');
for (const { transport, cases, passed, refused, seconds } of runs)
  console.log(`${transport.padEnd(10)} ${count(cases)} cases ${count(passed)} passed ${count(refused)} refused ${seconds.toFixed(1).padStart(7)} s`);
if (options.whole && failures.length === 0) {
  writeTable(tableOf(runs));
  console.log('docs/transports.md: the table is written');
}
const total = runs.reduce((sum, run) => sum + run.cases, 0);
console.log(`\nconformance: ${runs.length} transports, ${total} cases, ${failures.length} failed`);
process.exitCode = failures.length === 0 && total > 0 ? 0 : 1;

async function prove(name: TransportName, platforms: Platforms): Promise<Run> {
  const started = performance.now();
  const under = underTest(name, platforms);
  await using suite = transportConformance(() => under);
  const cases = chosen(suite, name);
  console.log(`${name}: ${cases.length} cases`);
  let [passed, refused] = [0, 0];
  const run = async (queue: ConformanceCase[]): Promise<void> => {
    for (let one = queue.shift(); one; one = queue.shift()) {
      const outcome = await outcomeOf(name, one);
      if (outcome === 'passed') passed++;
      if (outcome === 'refused') refused++;
    }
  };
  const together = cases.filter((c) => !c.alone);
  await Promise.all(Array.from({ length: SIDE_BY_SIDE }, () => run(together)));
  await run(cases.filter((c) => c.alone));
  const { capabilities } = under.transport();
  return { transport: name, capabilities, rows: suite.rows, cases: cases.length, passed, refused, seconds: (performance.now() - started) / 1000 };
}

function chosen({ cases }: ConformanceSuite, transport: TransportName): readonly ConformanceCase[] {
  const whole = !options.quick || transport === 'memory' || transport === 'wire';
  return cases.filter((c) => (whole || c.quick) && (options.text === undefined || `${c.row}: ${c.name}`.includes(options.text)));
}

async function outcomeOf(transport: TransportName, { row, name, run }: ConformanceCase): Promise<'passed' | 'refused' | 'failed'> {
  const started = performance.now();
  try {
    const outcome = await run();
    const [first] = stray.splice(0);
    if (first !== undefined) throw new Error('an error that nobody has awaited', { cause: first });
    if (options.verbose) console.log(`  ${((performance.now() - started) / 1000).toFixed(1).padStart(5)} s  ${row}: ${name}`);
    return outcome;
  } catch (error) {
    stray.splice(0);
    failures.push({ transport, row, name, error });
    console.log(`  FAILED after ${((performance.now() - started) / 1000).toFixed(1)} s: ${transport}: ${row}: ${name}\n${indented(error)}`);
    return 'failed';
  }
}

function indented(error: unknown): string {
  const text = error instanceof Error ? `${error.stack}${error.cause === undefined ? '' : `\ncaused by ${String(error.cause)}`}` : String(error);
  return text
    .split('\n')
    .slice(0, 16)
    .map((line) => `    ${line}`)
    .join('\n');
}

function count(n: number): string {
  return String(n).padStart(4);
}

/** Ends the process where there is nothing to run: the options were asked for, or one of them doesn't exist. */
function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        quick: { type: 'boolean', default: false },
        transport: { type: 'string', multiple: true },
        case: { type: 'string' },
        verbose: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    if (values.help) {
      process.stdout.write(USAGE);
      process.exit(0);
    }
    const unknown = values.transport?.find((t) => !(TRANSPORTS as readonly string[]).includes(t));
    if (unknown !== undefined) throw new Error(`There is no transport ${unknown}`);
    const transports = TRANSPORTS.filter((t) => values.transport?.includes(t) ?? true);
    return {
      transports,
      quick: values.quick,
      text: values.case,
      verbose: values.verbose,
      /** All that there is: only then is the table's every cell shown. */
      whole: !values.quick && values.case === undefined && transports.length === TRANSPORTS.length,
    };
  } catch (error) {
    console.error(`conformance: ${(error as Error).message}. There are:\n\n${USAGE}`);
    process.exit(2);
  }
}
