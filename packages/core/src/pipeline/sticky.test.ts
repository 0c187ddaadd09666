import { describe, expect, it } from 'vitest';
import { StickyPartition } from './sticky.ts';

const everywhere = () => true;

describe('StickyPartition', () => {
  it('stays with a partition until it has got its bytes, then takes another', () => {
    const rolls = [0.1, 0.9];
    const sticky = new StickyPartition({ random: () => rolls.shift() ?? 0, switchBytes: 100 });
    expect([60, 60, 60].map((bytes) => sticky.next(4, bytes, everywhere))).toEqual([0, 0, 3]);
  });

  // It used to stay for 16 KiB, all of which waited for a leader while the other partitions had one.
  it('leaves a partition at once when it has lost its leader, and takes only such as have one', () => {
    const sticky = new StickyPartition({ random: () => 0.5, switchBytes: 1_000_000 });
    expect(sticky.next(4, 1, everywhere)).toBe(2);
    const chosen = new Set(Array.from({ length: 20 }, () => sticky.next(4, 1, (p) => p === 3)));
    expect(chosen).toEqual(new Set([3]));
  });

  it('takes any where none has a leader: the record waits for one', () => {
    const sticky = new StickyPartition({ random: () => 0.5, switchBytes: 100 });
    expect(sticky.next(4, 1, () => false)).toBe(2);
  });
});
