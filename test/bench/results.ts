// From rounds to figures: what goes into the JSON file, the tables and the chart.
import type { Outcome } from './job.ts';
import { type Spread, spreadOf } from './statistics.ts';
import { evaluate, type Ratio } from './targets.ts';

/** One client at one test, over all rounds; medians where there is no spread. */
export interface Result {
  readonly test: string;
  readonly client: string;
  readonly rounds: number;
  /** Measured in a round. */
  readonly records: number;
  readonly recordsPerSecond: Spread;
  /** Per record. */
  readonly cpuMicros: number | null;
  readonly cpuMicrosSpread: Spread | null;
  readonly brokerCpuMicros: number | null;
  /** To the broker, of the kind that the test is about (Produce or Fetch): by the records in each, as the first round had it. */
  readonly requestsPerSecond: number | null;
  readonly rssMiB: number | null;
  readonly peakRssMiB: number | null;
  readonly p50Ms: number | null;
  readonly p99Ms: number | null;
  /** MiB a minute, in the second half of a soak, of what is left after a collection. */
  readonly liveSlope: number | null;
  /** Of a soak, in MiB, one a second. */
  readonly rssSamples?: readonly number[];
  /** Of a soak, in MiB: heap and buffers after a full collection, one each ten seconds. */
  readonly liveSamples?: readonly number[];
}

export interface LeftOut {
  readonly test: string;
  readonly client: string;
  readonly why: string;
}

export interface BenchFile {
  readonly date: string;
  readonly machine: string;
  readonly results: readonly Result[];
  readonly ratios: readonly Ratio[];
  readonly leftOut: readonly LeftOut[];
}

/** Test -> client -> what each round gave; undefined = the client failed in it. */
export type Rounds = ReadonlyMap<string, ReadonlyMap<string, readonly (Outcome | undefined)[]>>;

export const perRecord = (micros: number | null, { records }: Outcome): number | null => (micros === null || records === 0 ? null : micros / records);

function resultsOf(rounds: Rounds): readonly Result[] {
  return [...rounds].flatMap(([test, clients]) => [...clients].flatMap(([client, outcomes]) => resultOf(test, client, outcomes) ?? []));
}

function resultOf(test: string, client: string, outcomes: readonly (Outcome | undefined)[]): Result | undefined {
  const made = outcomes.filter((o) => o !== undefined);
  const recordsPerSecond = spreadOf(made.map((o) => o.records / o.seconds));
  const [first] = made;
  if (!recordsPerSecond || !first) return undefined;
  const over = (pick: (o: Outcome) => number | null): Spread | null => spreadOf(made.map(pick).filter((v) => v !== null));
  const cpu = over((o) => perRecord(o.cpuMicros, o));
  return {
    test,
    client,
    rounds: made.length,
    records: spreadOf(made.map((o) => o.records))?.median ?? 0,
    recordsPerSecond,
    cpuMicros: cpu?.median ?? null,
    cpuMicrosSpread: cpu,
    brokerCpuMicros: over((o) => perRecord(o.brokerCpuMicros, o))?.median ?? null,
    requestsPerSecond: over(requestsPerSecond)?.median ?? null,
    rssMiB: over((o) => o.rssMiB)?.median ?? null,
    peakRssMiB: over((o) => o.peakRssMiB)?.median ?? null,
    p50Ms: over((o) => o.p50Ms)?.median ?? null,
    p99Ms: over((o) => o.p99Ms)?.median ?? null,
    liveSlope: over((o) => o.liveSlope ?? null)?.median ?? null,
    ...(first.rssSamples ? { rssSamples: first.rssSamples } : {}),
    ...(first.liveSamples ? { liveSamples: first.liveSamples } : {}),
  };
}

function requestsPerSecond({ requests, records, totalRecords, seconds }: Outcome): number | null {
  return typeof requests === 'number' && totalRecords > 0 ? (records / seconds) * (requests / totalRecords) : null;
}

export function fileOf(rounds: Rounds, facts: { readonly date: string; readonly machine: string; readonly leftOut: readonly LeftOut[] }): BenchFile {
  return { date: facts.date, machine: facts.machine, results: resultsOf(rounds), ratios: evaluate(rounds), leftOut: facts.leftOut };
}

/** Runs of parts of it, put together: of a test that is in several, the last counts. */
export function mergeFiles(files: readonly BenchFile[]): BenchFile {
  const last = files.at(-1);
  if (!last) throw new Error('there is no file to merge');
  const owner = new Map(files.flatMap((file) => file.results.map((r) => [r.test, file] as const)));
  const kept = <T extends { readonly test: string }>(pick: (file: BenchFile) => readonly T[]): T[] =>
    files.flatMap((file) => pick(file).filter((item) => owner.get(item.test) === file));
  return { date: last.date, machine: last.machine, results: kept((f) => f.results), ratios: kept((f) => f.ratios), leftOut: kept((f) => f.leftOut) };
}
