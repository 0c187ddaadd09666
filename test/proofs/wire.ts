// npm run prove -- wire [--quick]: the leader of a partition is killed ten times while records go on, and every record that was acknowledged is in the log once, in order.
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { connect } from '@turnpike/client';
import type { Logger } from '@turnpike/core/spi';
import { startPlatform } from '@turnpike/testing';
import { wireTransport } from '@turnpike/transports/wire';
import { MISSED_SOON } from '../support/brokers.ts';
import { Desk } from '../support/service.ts';
import { makeService, PARTITIONS, TOPICS } from './support/contract.ts';
import { Handled } from './support/handled.ts';
import { History, holds, type Verdict } from './support/history.ts';
import { type Kill, Leaders, until } from './support/leaders.ts';
import { Load } from './support/load.ts';
import { Members, WAYS } from './support/members.ts';
import { Random } from './support/random.ts';
import { readBack } from './support/read-back.ts';

const USAGE = `npm run prove -- wire [OPTION]: leaders are killed under load, on a real Kafka of three brokers

  --quick     3 leaders instead of 10
  --kills N   so many
  --rate N    records a second (default 6000; 4000 with --quick)
  --timeout N delivery timeout in ms (default 60000). Under 30000 records may fail:
              then only what their errors claim is checked
  --seed N    the same choices again; one is taken and printed by default
  --verbose   what the client logs, and each rewind of the consumer group
  --keep      leaves the brokers' data and logs where they are, and says where
  --help      this
`;

/** So that a broker that is gone is found out in 3 s, and leads again soon when it is back. */
const BROKER = { ...MISSED_SOON, 'leader.imbalance.check.interval.seconds': '2' };
/** With a delivery timeout of so many ms no change of leaders here may fail a record. */
const NO_FAILURE_MS = 30_000;
/** How long the group may take to handle the rest, in ms. */
const CATCH_UP_MS = 60_000;
/** Load before the first kill, and between two, in ms. */
const CALM_MS = 1_000;

const options = readOptions();
/** An error that nobody awaited is the client's mistake. */
const stray: unknown[] = [];
process.on('unhandledRejection', (error) => {
  stray.push(error);
  console.log(`an error that nobody has awaited: ${error instanceof Error ? error.stack : String(error)}`);
});

const history = new History();
const handled = new Handled(history);
const random = new Random(options.seed);
console.log(`seed ${options.seed}`);

await using platform = await startPlatform({ nodes: 3, properties: BROKER, keep: options.keep });
if (options.keep) console.log(`in ${platform.directory}`);
await using desk = await Desk.open(platform);
const { service, options: connecting } = await makeService(desk);
await using kafka = await connect(service, {
  ...connecting,
  transport: wireTransport(),
  producer: { acks: 'all', idempotent: true, deliveryTimeoutMs: options.timeoutMs, maxWaitingSends: 1_000_000 },
  logger: options.verbose ? printed() : undefined,
});
console.log(`3 brokers over mTLS; ${TOPICS.length} topics of ${PARTITIONS} partitions, 3 replicas, at least 2 in sync; ${options.rate} records a second`);

const members = new Members({ kafka, handled, admin: desk.admin });
members.join('loop');
members.join('run');
const leaders = new Leaders(platform, desk.admin, TOPICS);
await leaders.settled();
const load = new Load({ kafka, history, random: new Random(options.seed + 1), rate: options.rate });
const started = performance.now();
let killed = 0;
try {
  await until(
    () => 'the cluster keeps up with the load',
    async () => history.sent >= options.rate && history.unsettled < options.rate / 4,
  );
  for (; killed < options.kills; killed++) {
    await pause(CALM_MS);
    console.log(lineOf(killed + 1, await leaders.kill({ random, load, history })));
    // A rebalance more, which no broker's death has asked for.
    members.join(random.of(WAYS));
    await members.leave();
  }
} catch (error) {
  console.log(error instanceof Error ? `${error.stack}` : String(error)); // What has been sent until now is audited all the same.
}
await load.stop();
const seconds = (performance.now() - started) / 1000;
const { heldBackMs } = load;
console.log(
  `${history.acknowledged} acknowledged, ${history.failed} failed, in ${seconds.toFixed(1)} s${heldBackMs > 0 ? `; nothing sent for ${secondsOf(heldBackMs)}, since so much was under way` : ''}`,
);
for (const [kind, times] of history.failures) console.log(`  ${times} x ${kind}`);

const end = performance.now() + CATCH_UP_MS;
while (handled.missing() > 0 && performance.now() < end) await pause(200);
const missing = handled.missing();
await members.stop();
console.log(
  `the group: ${handled.events} handled by ${members.joined} members, ${missing} lost, ${handled.again} again in ${handled.rewinds.length} rewinds, ${handled.outOfOrder} out of order, ${handled.mistakes.length} unexplained`,
);
for (const rewind of options.verbose ? handled.rewinds : []) console.log(`  ${rewind}`);
for (const mistake of handled.mistakes.slice(0, 20)) console.log(`  unexplained: ${mistake}`);
for (const failure of members.failures) console.log(`  ${failure}`);

const audit = history.audit();
const stored = await readBack(platform, TOPICS, (record) => audit.add(record));
const verdict = audit.verdict();
console.log(`read back: ${stored} records${otherMistakes(verdict)}`);
for (const example of verdict.examples) console.log(`  ${example}`);

const groupHolds = missing + handled.outOfOrder + handled.mistakes.length + members.failures.length === 0;
process.exitCode =
  killed === options.kills && holds(verdict) && (verdict.failed === 0 || options.timeoutMs < NO_FAILURE_MS) && groupHolds && stray.length === 0 ? 0 : 1;
console.log(
  `\nwire: ${killed} leaders killed, ${verdict.acknowledged} records, ${verdict.lost} lost, ${verdict.duplicated} duplicated, ${verdict.outOfOrder} out of order`,
);

function lineOf(i: number, k: Kill): string {
  return (
    `kill ${i}: broker ${k.broker}, leader of ${k.partition} and ${k.led - 1} more; acknowledged again after ${secondsOf(k.firstMs)}, all after ${secondsOf(k.allMs)}; ` +
    `${k.underWay} under way, at most ${k.mostUnderWay}; ${k.failed} failed; in sync after ${secondsOf(k.backMs)}`
  );
}

function otherMistakes({ falselyDenied, misplaced, foreign, scattered, gaps, unsettled }: Verdict): string {
  const named = {
    'there though denied': falselyDenied,
    'not where acknowledged': misplaced,
    'never sent': foreign,
    'in two partitions': scattered,
    gaps,
    'without an end': unsettled,
  };
  return Object.entries(named)
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `, ${count} ${name}`)
    .join('');
}

function secondsOf(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

function printed(): Logger {
  const line = (event: string, facts?: Readonly<Record<string, unknown>>) =>
    console.log(`  ${(performance.now() / 1000).toFixed(1)} ${event} ${JSON.stringify(facts ?? {}, (_, v) => (typeof v === 'bigint' ? String(v) : v))}`);
  return { debug: line, info: line, warn: line, error: line };
}

/** Ends the process where there is nothing to run: the options were asked for, or one of them is wrong. */
function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        quick: { type: 'boolean', default: false },
        kills: { type: 'string' },
        rate: { type: 'string' },
        timeout: { type: 'string' },
        seed: { type: 'string' },
        verbose: { type: 'boolean', default: false },
        keep: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    if (values.help) {
      process.stdout.write(USAGE);
      process.exit(0);
    }
    return {
      kills: numberOf('--kills', values.kills, values.quick ? 3 : 10, 1),
      rate: numberOf('--rate', values.rate, values.quick ? 4_000 : 6_000, 1),
      timeoutMs: numberOf('--timeout', values.timeout, 2 * NO_FAILURE_MS, 1),
      seed: numberOf('--seed', values.seed, Math.floor(Math.random() * 2 ** 31), 0),
      verbose: values.verbose,
      keep: values.keep,
    };
  } catch (error) {
    console.error(`wire: ${(error as Error).message}. There are:\n\n${USAGE}`);
    process.exit(2);
  }
}

function numberOf(name: string, given: string | undefined, otherwise: number, least: number): number {
  if (given === undefined) return otherwise;
  const number = Number(given);
  if (!Number.isSafeInteger(number) || number < least) throw new Error(`'${name} ${given}' is not a whole number of at least ${least}`);
  return number;
}
