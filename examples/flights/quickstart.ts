// npm run quickstart [-- --memory | --transport NAME]: two services speak to a real, secured Kafka the approved way, and what they did is counted in the log.
import { constants } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { kafkaAvailability } from '@turnpike/testing';
import { delayMonitor } from './delay-monitor/generated/delay-monitor.ts';
import { flightOps } from './flight-ops/generated/flight-ops.ts';
import { CREW_CALLS } from './flight-ops/run.ts';
import type { Backend } from './quickstart/backend.ts';
import { flights } from './quickstart/flights.ts';
import type { Message, SpanLine } from './quickstart/report.ts';
import { check, failures, progress, say, title } from './quickstart/screen.ts';
import { isTransport, type TransportName } from './quickstart/transports.ts';
import { traceAcross, tree } from './quickstart/tree.ts';
import { expectedAlerts, verdict } from './quickstart/verdict.ts';

/** The Confluent frame before each value: a zero byte and the schema's id. */
const FRAME = 5;
const CONSUME_TIMEOUT_MS = 60_000;
const source = flights();
const handled = new Map<string, number>();
const spans: SpanLine[] = [];
const ready = Promise.withResolvers<void>();

function onReport(message: Message): void {
  if (message.kind === 'ready') ready.resolve();
  else if (message.kind === 'span') spans.push(message.span);
  else if (message.kind === 'handled') for (const id of message.ids) handled.set(id, (handled.get(id) ?? 0) + 1);
  else if (message.kind === 'produced') progress('produced', message.count, source.length, `${rate(message.count, message.ms)}/s`);
  else if (message.kind === 'departed')
    say(
      `produced ${source.length.toLocaleString('en')} in ${(message.ms / 1000).toFixed(2)} s: ${rate(source.length, message.ms)} a second, each acknowledged`,
    );
  else if (message.kind === 'refused') {
    const [what, code] = message.what === 'undeclared' ? (['undeclared topic', 'TOPIC_UNDECLARED'] as const) : (['ungranted topic', 'GRANT_DENIED'] as const);
    check(message.code === code, what, message.message);
  } else {
    // A second's worth may go at once; the rest waits its turn.
    const leastMs = ((message.records - 200) / 200) * 1000;
    check(
      message.ms >= leastMs * 0.9,
      'quota 200/s',
      `a burst of ${message.records} pages took ${(message.ms / 1000).toFixed(1)} s: slowed, none refused, none lost`,
    );
  }
}

const rate = (count: number, ms: number): string => Math.round((count / ms) * 1000).toLocaleString('en');

const USAGE = `npm run quickstart [-- OPTION]: two services on a real, secured Kafka

  --transport NAME  through which client the services speak to Kafka:
                    wire (default), confluent or kafkajs
  --memory          a cluster in memory, not Kafka: needs no Java
  --help            this
`;

interface Options {
  readonly memory: boolean;
  readonly transport: TransportName;
}

/** Ends the process where there is nothing to run: the options were asked for, or one of them doesn't exist. */
function readOptions(): Options {
  try {
    const { values } = parseArgs({
      options: {
        memory: { type: 'boolean', default: false },
        transport: { type: 'string', default: 'wire' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    const { memory, transport, help } = values;
    if (!isTransport(transport)) throw new Error(`Unknown transport '${transport}'`);
    if (memory && transport !== 'wire') throw new Error(`'--memory' has no broker that '--transport ${transport}' could speak to`);
    if (!help) return { memory, transport };
    process.stdout.write(USAGE);
    process.exit(0);
  } catch (error) {
    console.error(`quickstart: ${(error as Error).message}. There are:\n\n${USAGE}`);
    process.exit(2);
  }
}

async function chooseBackend({ memory: inMemory, transport }: Options): Promise<Backend> {
  const availability = inMemory ? undefined : await kafkaAvailability();
  const real = availability?.available ?? false;
  if (availability && !availability.available) say(`No Kafka broker can be had here: ${availability.reason}. Running in memory instead.`);
  title(real ? 'Platform: Kafka, an OIDC issuer, a schema registry, all on loopback' : 'Platform: an OIDC issuer, a schema registry, a cluster in memory');
  return real ? (await import('./quickstart/brokers.ts')).brokers(say, transport) : (await import('./quickstart/memory.ts')).memory(say);
}

// Whoever read this has seen enough (`| head`): end as a shell shows it of a broken pipe, with nothing to say and nobody to say it to.
for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(128 + constants.signals.SIGPIPE);
    throw error;
  });
process.on('uncaughtException', (error) => {
  console.error(`\nquickstart: failed: ${error.message}`);
  process.exit(1);
});
const options = readOptions();
await using backend = await chooseBackend(options);

title(`Two services, each with its own manifest, grant and identity${options.transport === 'wire' ? '' : ` (${options.transport})`}`);
const monitor = await backend.start('delay-monitor', onReport);
await Promise.race([ready.promise, monitor.done]);
say('delay-monitor (OAuth) consumes flights.departed, produces delays.alerted');
const ops = await backend.start('flight-ops', onReport);
say('flight-ops (mTLS) produces flights.departed and crew.called');

title('20,000 real flights, and what may not be done');
const started = performance.now();
await ops.done;
while (handled.size < source.length && performance.now() - started < CONSUME_TIMEOUT_MS) {
  progress('consumed', handled.size, source.length);
  await Promise.race([pause(100), monitor.done]);
}
progress('consumed', handled.size, source.length);
await monitor.stop();
const answer = await backend.bypass('flights.cancelled');
check(answer === 'TOPIC_AUTHORIZATION_FAILED', 'grant bypassed', `${backend.bypasser}: ${answer}, says the broker's ACL`);

title('One trace across both services (~ = the flush that carried the record)');
const traceId = traceAcross(spans);
for (const line of traceId ? tree(spans, traceId) : []) say(line);
check(traceId !== undefined, 'trace', 'from the departure to the alert that it caused, across both services');

title('Read back from the broker');
const log = await backend.readBack(['flights.departed', 'delays.alerted', 'crew.called']);
const of = (topic: string) => log.filter((r) => r.topic === topic);
const { codec, schema } = flightOps.produces['flights.departed'].value;
const departed = codec();
const ids = of('flights.departed').map(({ value }) => departed.decode(value, FRAME, value.length, schema).id);
const alerts = of('delays.alerted').length;
const late = await backend.uncommitted(delayMonitor.consumes['flights.departed'].groups[0], 'flights.departed');
check(late === 0, 'commits', `of the group delay-monitor.delays: ${late} behind the end of the log`);
check(alerts === expectedAlerts(source), 'alerts', `${alerts} in delays.alerted; ${expectedAlerts(source)} by the file, airport by airport in order`);
check(of('crew.called').length === CREW_CALLS, 'pages', `${of('crew.called').length} of ${CREW_CALLS} in crew.called`);

const { produced, consumed, lost, duplicated } = verdict(source, ids, handled);
process.exitCode = failures() === 0 && produced === source.length && consumed === source.length && lost === 0 && duplicated === 0 ? 0 : 1;
console.log(`\nquickstart: ${produced} produced, ${consumed} consumed, ${lost} lost, ${duplicated} duplicated`);
