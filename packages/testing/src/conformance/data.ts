import type { Sent } from './producer-bench.ts';

/** 0, 1, 2, ... */
export const numbered = (count: number): readonly number[] => Array.from({ length: count }, (_, n) => n);

/** Where each record stands; throws the first error. */
export function eachSent(outcomes: readonly PromiseSettledResult<Sent>[]): readonly Sent[] {
  return outcomes.map((outcome) => {
    if (outcome.status === 'rejected') throw outcome.reason;
    return outcome.value;
  });
}
