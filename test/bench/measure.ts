// The measured part of a child: from start() to stop(), after the warm-up.
import { readFileSync } from 'node:fs';
import type { BenchClient, BenchProducer, Job, Outcome, Work } from './job.ts';
import { percentile, slopeOf } from './statistics.ts';

/** /proc counts in hundredths of a second, on every Linux that Node runs on (USER_HZ). */
const TICK_MICROS = 10_000;
const MIB = 1024 * 1024;

/** User and system time of a process since it began; undefined where the system doesn't say. */
function cpuOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name before may hold blanks and brackets.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) * TICK_MICROS;
  } catch {
    return undefined;
  }
}

/** Of all of them together; null where one of them isn't told. */
export function cpuOfAll(pids: readonly number[]): number | null {
  const each = pids.map(cpuOf);
  return each.includes(undefined) ? null : each.reduce<number>((sum, micros) => sum + (micros ?? 0), 0);
}

class Meter {
  readonly #brokers: readonly number[];
  #cpu = process.cpuUsage();
  #broker: number | null = null;
  #at = 0;

  constructor(brokers: readonly number[]) {
    this.#brokers = brokers;
  }

  start(): void {
    this.#broker = cpuOfAll(this.#brokers);
    this.#cpu = process.cpuUsage();
    this.#at = performance.now();
  }

  stop(records: number, totalRecords: number, latencies?: readonly number[]): Outcome {
    const seconds = (performance.now() - this.#at) / 1000;
    const { user, system } = process.cpuUsage(this.#cpu);
    const broker = cpuOfAll(this.#brokers);
    return {
      records,
      totalRecords,
      seconds,
      cpuMicros: user + system,
      brokerCpuMicros: broker === null || this.#broker === null ? null : broker - this.#broker,
      rssMiB: process.memoryUsage.rss() / MIB,
      peakRssMiB: process.resourceUsage().maxRSS / 1024,
      p50Ms: latencies ? percentile(latencies, 0.5) : null,
      p99Ms: latencies ? percentile(latencies, 0.99) : null,
    };
  }
}

const after = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

export async function measure(client: BenchClient, job: Job): Promise<Outcome> {
  const { work } = job;
  if (work.kind === 'consume') return consume(client, job, work);
  if (work.kind === 'soak') return soak(client, job, work);
  const producer = await client.producer();
  if (work.kind === 'produce') return produce(producer, job, work);
  if (work.kind === 'sequential') return sequential(producer, job);
  return atRate(producer, job, work.perSecond);
}

type Produce = Extract<Work, { kind: 'produce' }>;

/** How many are handed over at a time where nobody waits for them: memory bounds what is under way, at the start of the measured part as at its end. */
const AT_A_TIME = 1_000;

async function produce(producer: BenchProducer, job: Job, work: Produce): Promise<Outcome> {
  const { outstanding, perCall } = producer.unawaited ? { outstanding: 1, perCall: AT_A_TIME } : work;
  const meter = new Meter(job.brokerPids);
  let [next, counted, ended] = [0, 0, false];
  let counting = false;
  const caller = async () => {
    while (!ended) {
      const from = next;
      next += perCall;
      await (perCall === 1 ? producer.sendOne(from) : producer.sendMany(from, perCall));
      if (counting) counted += perCall;
    }
  };
  const callers = Promise.all(Array.from({ length: outstanding }, (_, i) => (producer.inRequest ? producer.inRequest(i, caller) : caller())));
  await Promise.race([after(job.warmUpMs), callers]);
  counting = true;
  meter.start();
  await Promise.race([after(job.measureMs), callers]);
  const outcome = meter.stop(counted, next);
  ended = true;
  await callers;
  return { ...outcome, totalRecords: next };
}

async function sequential(producer: BenchProducer, job: Job): Promise<Outcome> {
  const meter = new Meter(job.brokerPids);
  const latencies: number[] = [];
  let next = 0;
  for (const end = performance.now() + job.warmUpMs; performance.now() < end; ) await producer.sendOne(next++);
  meter.start();
  for (const end = performance.now() + job.measureMs; performance.now() < end; ) {
    const from = performance.now();
    await producer.sendOne(next++);
    latencies.push(performance.now() - from);
  }
  return meter.stop(latencies.length, next, latencies);
}

async function atRate(producer: BenchProducer, job: Job, perSecond: number): Promise<Outcome> {
  const meter = new Meter(job.brokerPids);
  const latencies: number[] = [];
  const under: Promise<unknown>[] = [];
  const began = performance.now();
  let [sent, counted, metering] = [0, 0, false];
  for (;;) {
    const elapsed = performance.now() - began;
    if (elapsed >= job.warmUpMs + job.measureMs) break;
    if (!metering && elapsed >= job.warmUpMs) {
      metering = true;
      meter.start();
    }
    for (; sent < (elapsed * perSecond) / 1000; sent++) {
      // From when it was due: one that had to wait for its turn has waited.
      const due = began + (sent * 1000) / perSecond;
      const counts = metering;
      if (counts) counted++;
      under.push(
        producer.sendOne(sent).then(() => {
          if (counts) latencies.push(performance.now() - due);
        }),
      );
    }
    await after(1);
  }
  const { cpuMicros, brokerCpuMicros, rssMiB, peakRssMiB, seconds } = meter.stop(counted, sent);
  await Promise.all(under);
  const [p50Ms, p99Ms] = [percentile(latencies, 0.5), percentile(latencies, 0.99)];
  return { records: counted, totalRecords: sent, seconds, cpuMicros, brokerCpuMicros, rssMiB, peakRssMiB, p50Ms, p99Ms };
}

/** A fifth more is read before the clock starts, and whatever comes first ends it: so many records, or so much time. */
async function consume(client: BenchClient, job: Job, { by, records }: Extract<Work, { kind: 'consume' }>): Promise<Outcome> {
  const consumer = await client.consumer(by);
  const meter = new Meter(job.brokerPids);
  const done = Promise.withResolvers<Outcome>();
  let [seen, from, next, stage] = [0, 0, Math.floor(records / 5), 'cold' as 'cold' | 'warm' | 'over'];
  const step = () => {
    if (stage === 'cold') {
      stage = 'warm';
      from = seen;
      next = seen + records;
      meter.start();
      timers.push(setTimeout(step, job.measureMs));
    } else if (stage === 'warm') {
      stage = 'over';
      next = Number.POSITIVE_INFINITY;
      done.resolve(meter.stop(seen - from, seen));
    }
  };
  const timers: NodeJS.Timeout[] = [];
  const started = consumer.start(() => {
    if (seen++ === 0) timers.push(setTimeout(() => stage === 'cold' && step(), Math.max(job.warmUpMs, 1_000)));
    if (seen >= next) step();
  });
  started.catch(done.reject);
  timers.push(setTimeout(() => done.reject(new Error(`no record came within ${GROUP_MS / 1000} s`)), GROUP_MS));
  try {
    return await done.promise;
  } finally {
    for (const timer of timers) clearTimeout(timer);
  }
}

/** How long until a group's first record may take, with all of the reading after it, in ms. */
const GROUP_MS = 60_000;

/** Produces and consumes the same topic at a steady rate. Memory is flat when it doesn't rise in the second half. */
async function soak(client: BenchClient, job: Job, { perSecond, seconds }: Extract<Work, { kind: 'soak' }>): Promise<Outcome> {
  const producer = await client.producer();
  const consumer = await client.consumer('record');
  const meter = new Meter(job.brokerPids);
  const rss: number[] = [];
  const live: { x: number; y: number }[] = [];
  let [read, sent, acknowledged] = [0, 0, 0];
  let failure: unknown;
  consumer
    .start(() => read++)
    .catch((error: unknown) => {
      failure = error;
    });
  const began = performance.now();
  meter.start();
  for (let sampled = 0; performance.now() - began < seconds * 1000 && failure === undefined; ) {
    const elapsed = performance.now() - began;
    for (; sent < (elapsed * perSecond) / 1000; sent++)
      producer.sendOne(sent).then(
        () => acknowledged++,
        (error: unknown) => {
          failure = error;
        },
      );
    if (elapsed >= sampled * SAMPLE_MS) {
      rss.push(process.memoryUsage.rss() / MIB);
      if (sampled++ % LIVE_EACH === 0) live.push({ x: elapsed / 60_000, y: liveMiB() });
    }
    await after(2);
  }
  if (failure !== undefined) throw failure;
  const outcome = meter.stop(Math.min(read, acknowledged), sent);
  const second = live.filter((s) => s.x >= seconds / 120);
  return { ...outcome, liveSlope: slopeOf(second), rssSamples: rss.map(Math.round), liveSamples: live.map((s) => Math.round(s.y * 10) / 10) };
}

const SAMPLE_MS = 1_000;
/** Of those samples. */
const LIVE_EACH = 10;

/** What is in use: the collector decides when the rest goes, and the kernel what of it counts as RSS. */
function liveMiB(): number {
  globalThis.gc?.();
  const { heapUsed, external } = process.memoryUsage();
  return (heapUsed + external) / MIB;
}
