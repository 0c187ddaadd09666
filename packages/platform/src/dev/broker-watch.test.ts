import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { BrokerWatch } from './broker-watch.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const brokers = (n: number) => Array.from({ length: n }, (_, i) => ({ id: i + 1, running: true }));

function watched(all: { id: number; running: boolean }[]): { readonly watch: BrokerWatch; readonly said: string[] } {
  const watch = new BrokerWatch(all);
  const said: string[] = [];
  watch.onLost = (lost) => said.push(lost.message);
  return { watch, said };
}

it('of three brokers one may end; without a quorum the cluster is lost, which is said once', () => {
  const [one, two, three] = brokers(3);
  if (!one || !two || !three) throw new Error('three');
  const { said } = watched([one, two, three]);
  one.running = false;
  vi.advanceTimersByTime(1_000);
  expect(said).toEqual([]);
  three.running = false;
  vi.advanceTimersByTime(1_000);
  expect(said).toEqual([expect.stringMatching(/^\[PLATFORM_UNAVAILABLE\] Brokers 1 and 3 of 3 ended unasked/)]);
});

it('a broker that is stopped once nobody watches is none that was lost', () => {
  const all = brokers(1);
  const { watch, said } = watched(all);
  watch[Symbol.dispose]();
  for (const b of all) b.running = false;
  vi.advanceTimersByTime(1_000);
  expect([said, watch.lost]).toEqual([[], undefined]);
});
