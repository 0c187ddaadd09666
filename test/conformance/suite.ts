import { transportConformance } from '@turnpike/testing';
import { afterAll, describe, it } from 'vitest';
import { Platforms, type TransportName, underTest } from './under-test.ts';

/** A case has a deadline of its own, of a minute; the runner's is for what that one can't end. */
const CASE_MS = 70_000;

/** The suite of one transport, a test for each case. */
export function runConformance(name: TransportName, { quick = false }: { readonly quick?: boolean } = {}): void {
  const platforms = new Platforms();
  const suite = transportConformance(() => underTest(name, platforms));
  afterAll(async () => {
    await suite[Symbol.asyncDispose]();
    await platforms[Symbol.asyncDispose]();
  });
  const cases = suite.cases.filter((c) => c.quick || !quick);
  for (const alone of [false, true]) {
    const rows = Map.groupBy(
      cases.filter((c) => c.alone === alone),
      (c) => c.row,
    );
    if (rows.size === 0) continue;
    // A case waits for its cluster most of the time: several go side by side.
    describe(alone ? 'alone' : 'side by side', { concurrent: !alone }, () => {
      for (const [row, of] of rows)
        describe(row, () => {
          it.each(of)(
            '$name',
            async ({ run }) => {
              await run();
            },
            CASE_MS,
          );
        });
    });
  }
}
