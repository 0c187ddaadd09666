// What is promised, and whether it holds. Ours is idempotent with acks=all, peers are at their own defaults with acks=all.
import type { Outcome } from './job.ts';
import { perRecord, type Rounds } from './results.ts';
import { spreadOf } from './statistics.ts';

export const OURS = 'turnpike-wire';

export type Measure = 'throughput' | 'cpu' | 'p50' | 'rss' | 'liveSlope';

export interface Target {
  readonly test: string;
  /** null = an absolute figure of ours. */
  readonly against: string | null;
  readonly measure: Measure;
  readonly is: 'atLeast' | 'atMost';
  readonly bound: number;
}

export interface Ratio {
  readonly test: string;
  readonly against: string | null;
  readonly measure: Measure;
  /** As it is said: ">= 4x", "<= 1/8", "<= 0.8 us". */
  readonly target: string;
  /** Ours divided by theirs within each round, the median over the rounds; without a peer, ours. */
  readonly value: number;
  readonly min: number;
  readonly max: number;
  readonly met: boolean;
}

const faster = (test: string, against: string, bound: number): Target => ({ test, against, measure: 'throughput', is: 'atLeast', bound });
const cheaper = (test: string, against: string, bound: number): Target => ({ test, against, measure: 'cpu', is: 'atMost', bound });
const sooner = (test: string, against: string, bound: number): Target => ({ test, against, measure: 'p50', is: 'atMost', bound });
const within = (test: string, measure: Measure, bound: number): Target => ({ test, against: null, measure, is: 'atMost', bound });

export const TARGETS: readonly Target[] = [
  faster('single', 'confluent', 4),
  faster('single', 'platformatic', 35),
  faster('single', 'kafkajs', 25),
  faster('single', 'franz-go', 0.9),
  cheaper('single', 'confluent', 1 / 8),
  cheaper('single', 'platformatic', 1 / 60),
  cheaper('single', 'kafkajs', 1 / 50),
  cheaper('single', 'franz-go', 0.8),
  sooner('sequential', 'confluent-linger0', 1),
  sooner('sequential', 'kafkajs', 0.9),
  sooner('sequential', 'franz-go', 1.2),
  faster('batch-1000', 'platformatic', 1.5),
  faster('batch-1000', 'confluent', 3),
  faster('batch-1000', 'kafkajs', 3),
  cheaper('batch-1000', 'platformatic', 1 / 3),
  cheaper('batch-1000', 'confluent', 1 / 8),
  cheaper('batch-1000', 'kafkajs', 1 / 8),
  faster('consume-each', 'kafkajs', 5),
  faster('consume-each', 'kafkajs-eachbatch', 3),
  faster('consume-each', 'platformatic', 8),
  faster('consume-each', 'confluent', 12),
  within('consume-each', 'cpu', 0.8),
  within('consume-each', 'rss', 200),
  faster('end-to-end', 'confluent', 20),
  faster('end-to-end', 'kafkajs', 25),
  within('end-to-end', 'cpu', 5),
  faster('enforcement', 'turnpike-open', 0.87),
  cheaper('enforcement', 'turnpike-open', 1.15),
  within('soak', 'liveSlope', 0.5),
];

const UNITS: Readonly<Record<Measure, string>> = { throughput: 'records/s', cpu: 'us', p50: 'ms', rss: 'MiB', liveSlope: 'MiB a minute' };

/** Those for which there are figures of both. */
export function evaluate(rounds: Rounds, targets: readonly Target[] = TARGETS): readonly Ratio[] {
  return targets.flatMap((target) => {
    const spread = spreadOf(valuesOf(rounds, target));
    if (!spread) return [];
    const { test, against, measure, is, bound } = target;
    const met = is === 'atLeast' ? spread.median >= bound : spread.median <= bound;
    return [{ test, against, measure, target: said(target), value: spread.median, min: spread.min, max: spread.max, met }];
  });
}

/** Both are of one round, minutes apart at most: what else the machine had to do then, it had to do for both. */
function valuesOf(rounds: Rounds, { test, against, measure }: Target): readonly number[] {
  const clients = rounds.get(test);
  const ours = clients?.get(OURS) ?? [];
  const theirs = against === null ? undefined : (clients?.get(against) ?? []);
  return ours.flatMap((outcome, round) => {
    const mine = outcome && figure(outcome, measure);
    const other = theirs?.[round];
    const peer = theirs === undefined ? 1 : other && figure(other, measure);
    return typeof mine === 'number' && typeof peer === 'number' && peer > 0 ? [mine / peer] : [];
  });
}

function figure(outcome: Outcome, measure: Measure): number | null {
  switch (measure) {
    case 'throughput':
      return outcome.records / outcome.seconds;
    case 'cpu':
      return perRecord(outcome.cpuMicros, outcome);
    case 'p50':
      return outcome.p50Ms;
    case 'rss':
      return outcome.rssMiB;
    case 'liveSlope':
      return outcome.liveSlope ?? null;
  }
}

function said({ against, measure, is, bound }: Target): string {
  const sign = is === 'atLeast' ? '>=' : '<=';
  if (against === null) return `${sign} ${bound} ${UNITS[measure]}`;
  if (measure === 'cpu' && bound < 0.5) return `${sign} 1/${Math.round(1 / bound)}`;
  return `${sign} ${bound}x`;
}
