// The table is written by the proof, from what came of running every case. Without a broker it can still be told whether it is of these transports and this suite.
import { transportConformance } from '@turnpike/testing';
import { expect, it } from 'vitest';
import { readTable, tableOf } from './table.ts';
import { Platforms, TRANSPORTS, underTest } from './under-test.ts';

it('docs/transports.md says of each transport what its capabilities say, in the rows of the suite', () => {
  const columns = TRANSPORTS.map((transport) => {
    const under = underTest(transport, new Platforms());
    return { transport, capabilities: under.transport().capabilities, rows: transportConformance(() => under).rows };
  });
  expect(readTable()).toBe(tableOf(columns));
});
