import { describe, expect, it } from 'vitest';
import { Handled } from './handled.ts';
import { History } from './history.ts';

function of(count: number): { history: History; handled: Handled; take: (member: string, ...events: number[]) => void; committed: (offset: bigint) => void } {
  const history = new History();
  for (let n = 0; n < count; n++) history.acknowledge(history.send('t', 'k').event, { partition: 0, offset: n });
  const handled = new Handled(history);
  return {
    history,
    handled,
    take: (member, ...events) => {
      for (const event of events) handled.handle(member, { topic: 't', partition: 0, offset: event, key: 'k', event });
    },
    committed: (offset) => handled.committed([{ topic: 't', partition: 0, offset }]),
  };
}

describe('what a group has handled', () => {
  it('counts what no member has handled', () => {
    const { handled, take } = of(3);
    take('a', 0, 1);
    expect(handled.missing()).toBe(1);
    take('b', 2);
    expect(handled.missing()).toBe(0);
    expect(handled).toMatchObject({ events: 3, again: 0, outOfOrder: 0, rewinds: [], mistakes: [] });
  });

  it('lets another member handle again what was not committed', () => {
    const { handled, take, committed } = of(4);
    take('a', 0, 1, 2);
    committed(1n);
    take('b', 1, 2, 3);
    expect(handled).toMatchObject({ events: 4, again: 2, rewinds: ['t/0: b after a from 1, 2 again; committed 1'], mistakes: [] });
  });

  it('does not explain a record that comes again though it was committed', () => {
    const { handled, take, committed } = of(4);
    take('a', 0, 1, 2);
    committed(3n);
    take('b', 2, 3);
    expect(handled.mistakes).toEqual(['comes again though committed: t/0: b after a from 2, 1 again; committed 3']);
  });

  it('does not explain records that are passed over, commits of what nobody has handled, or commits that go back', () => {
    const { handled, take, committed } = of(6);
    take('a', 0, 3);
    committed(5n);
    committed(2n);
    expect(handled.mistakes).toEqual([
      'a goes on at t/0@3, nobody has handled 1 to 2',
      't/0 is committed up to 5, and handled up to 4',
      't/0 was committed up to 5, and then up to 2',
    ]);
  });

  it('counts a record that is handled for the first time behind a later one of its key', () => {
    const { handled } = of(3);
    for (const [offset, event] of [0, 2, 1].entries()) handled.handle('a', { topic: 't', partition: 0, offset, key: 'k', event });
    expect(handled.outOfOrder).toBe(1);
  });
});
