import { transportConformance } from '@turnpike/testing';
import { afterAll, describe, it } from 'vitest';
import { Platforms, type TransportName, underTest } from './under-test.ts';

/** The suite of one transport, a test for each case. */
export function runConformance(name: TransportName, { quick = false }: { readonly quick?: boolean } = {}): void {
  const platforms = new Platforms();
  const suite = transportConformance(() => underTest(name, platforms));
  afterAll(async () => {
    await suite[Symbol.asyncDispose]();
    await platforms[Symbol.asyncDispose]();
  });
  const rows = Map.groupBy(
    suite.cases.filter((c) => c.quick || !quick),
    (c) => c.row,
  );
  for (const [row, cases] of rows)
    describe(row, () => {
      it.each(cases)(
        '$name',
        async ({ run }) => {
          await run();
        },
        70_000,
      );
    });
}
