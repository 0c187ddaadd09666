import { expect, it } from 'vitest';
import { profileTable } from './profile.ts';

const frame = (id: number, functionName: string, url = '') => ({ id, callFrame: { functionName, url } });

it('says whose code the time went to, without what a process waits for and starts with', () => {
  const nodes = [
    frame(1, '(idle)'),
    frame(2, 'append', 'file:///x/packages/core/dist/chunk-A.js'),
    frame(3, 'writeRecord', 'file:///x/packages/core/dist/chunk-A.js'),
    frame(4, 'append', 'file:///x/node_modules/.pnpm/a@1/node_modules/@platformatic/kafka/dist/protocol/writer.js'),
    frame(5, 'writeBuffer'),
    frame(6, '(garbage collector)'),
    frame(7, 'compileSourceTextModule', 'node:internal/modules/esm/utils'),
    frame(8, 'copy', 'node:buffer'),
  ];
  const samples = [1, 2, 2, 3, 4, 5, 6, 7, 8];
  const table = profileTable({ nodes, samples, timeDeltas: samples.map(() => 1_000) });
  expect(table.split('\n').slice(2)).toEqual([
    '| @turnpike/core | 43 % | `append` 29 %, `writeRecord` 14 % |',
    '| @platformatic/kafka | 14 % | `append` 14 % |',
    '| the socket, in the kernel | 14 % | `writeBuffer` 14 % |',
    '| garbage collection | 14 % |  |',
    "| Node's own JavaScript | 14 % | `copy` 14 % |",
  ]);
});
