// Runs a kafkajs service under guard(), in shadow mode, on a local platform with 5,000 real flights; then prints what enforcement would have refused. Exit code 0: exactly
// what its turnpike.yaml forgets.
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { type Guarded, type GuardReport, openGuard } from '@turnpike/client';
import { isTurnpikeError } from '@turnpike/core';
import { loadManifest, prepareLocal } from '@turnpike/platform';
import { type Platform, startPlatform } from '@turnpike/testing';
import kafkajs, { type Kafka as KafkajsKafka } from 'kafkajs';
import { flights } from '../flights/quickstart/flights.ts';
import { differences, type Expected, expectedOf, gateway } from './expected.ts';
import { gateDesk } from './generated/gate-desk.ts';
import { say, showLimits, showReport, title } from './screen.ts';
import { type Departure, GateDesk } from './service.ts';
import { yesterdaysCluster } from './yesterday.ts';

const { Kafka, logLevel } = kafkajs;
const FLIGHTS = 5_000;
const DONE_WITHIN_MS = 60_000;

// kafkajs 2.2.4 asks newer Nodes for a timer in the past, which they warn of.
process.removeAllListeners('warning');
process.on('warning', (warning) => {
  if (warning.name !== 'TimeoutNegativeWarning') console.error(warning);
});

/** What the team adds to its bootstrap file. Who it is, where the cluster is and what it may do come from the environment. */
async function bootstrap(env: Readonly<Record<string, string>>) {
  const guard = await openGuard(gateDesk, { env });
  const kafka: KafkajsKafka = new Kafka({ ...guard.options(guard.identity), logLevel: logLevel.NOTHING, retry: { retries: 8 } });
  return { guard, guarded: guard(kafka) };
}

async function main(platform: Platform): Promise<boolean> {
  const services = await prepareLocal({
    platform,
    manifests: [loadManifest(path.join(import.meta.dirname, 'turnpike.yaml'))],
    folder: path.join(import.meta.dirname, '.turnpike', 'local'),
    onProgress: (line) => say('applied', line),
  });
  await yesterdaysCluster(platform);
  say('yesterday', 'topics and ACLs that turnpike.yaml forgets');
  const { guard, guarded } = await bootstrap(services.find((s) => s.name === 'gate-desk')?.env ?? {});
  try {
    const departures: readonly Departure[] = flights().slice(0, FLIGHTS);
    const expected = expectedOf(departures);
    await runService(guarded, { departures, expected });
    showLimits(guarded);
    const report = guarded.report();
    showReport(report);
    return verdict(report, expected);
  } finally {
    await guard.close();
  }
}

async function runService(
  guarded: Guarded<KafkajsKafka>,
  { departures, expected }: { readonly departures: readonly Departure[]; readonly expected: Expected },
): Promise<void> {
  const desk = new GateDesk(guarded.instance, { notify: gateway, log: (level, message) => say(level === 'error' ? 'ERROR' : 'service', message) });
  await desk.start();
  try {
    await desk.report(departures);
    const until = performance.now() + DONE_WITHIN_MS;
    const done = () => (['boarded', 'notified', 'retried', 'deadLettered'] as const).every((name) => desk.health()[name] >= expected[name]);
    while (!done() && performance.now() < until) await pause(50);
    const { boarded, notified, retried, deadLettered } = desk.health();
    say('service', `${boarded} departures on the board, ${notified} passenger lists notified, ${retried} retries, ${deadLettered} dead letters`);
  } finally {
    await desk.stop();
  }
}

function verdict(report: GuardReport, expected: Expected): boolean {
  const wrong = differences(report, expected);
  title(wrong.length === 0 ? 'That is what turnpike.yaml forgets, and nothing else.' : 'That is not what turnpike.yaml forgets:');
  for (const line of wrong) console.log(`  ${line}`);
  console.log(`\nguarded: ${report.sent} sent, ${report.consumed} consumed, ${report.refused} would be refused`);
  return wrong.length === 0 && report.refused > 0;
}

try {
  await using platform = await startPlatform({ onProgress: (line) => say('started', line) });
  if (!(await main(platform))) process.exitCode = 1;
} catch (error) {
  console.error(isTurnpikeError(error) ? error.message : error);
  process.exitCode = 1;
}
