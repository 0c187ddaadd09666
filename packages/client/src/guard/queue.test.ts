import { ManualClock } from '@turnpike/core/memory';
import { type GrantClaims, type GrantQuota, silentLogger } from '@turnpike/core/spi';
import { quotaGates } from '@turnpike/policy';
import { describe, expect, it } from 'vitest';
import { Queue } from './queue.ts';
import { Tally } from './tally.ts';

const quota = (topic: string, rate: number): GrantQuota => ({
  ...{ id: topic, cluster: 'airside', topic, unit: 'recordsOut', rate, burst: rate, weight: 1, safeShare: rate, maxInstances: 1 },
});

function queueOf(quotas: readonly GrantQuota[], onExceeded: 'wait' | 'refuse' = 'wait') {
  const clock = new ManualClock();
  const claims = { quotas, topics: [], mode: 'shadow' } as unknown as GrantClaims;
  const gates = quotaGates({ claims: () => claims, cluster: 'airside', clock, logger: silentLogger, onExceeded });
  const queue = new Queue({ cluster: 'airside', gates, clock, quotaTimeoutMs: 3_000 });
  const tally = new Tally(clock);
  const went: string[] = [];
  const enter = (name: string, ...topics: readonly [topic: string, records: number][]) => {
    const batches = topics.map(([topic, records]) => ({ topic, messages: Array.from({ length: records }, () => ({ value: 'v' })) }));
    const waiting = queue.enter(batches, tally);
    if (!waiting) return void went.push(name);
    void waiting.then(
      (release) => {
        went.push(name);
        release();
      },
      (error: { code: string }) => went.push(`${name} ${error.code}`),
    );
  };
  return { clock, enter, queue, tally, went };
}

describe('the queue before a library', () => {
  it('lets go at once what has no quota, or room in it', () => {
    const { enter, went, tally } = queueOf([quota('a', 10)]);
    enter('free', ['b', 1_000]);
    enter('room', ['a', 10]);
    expect(went).toEqual(['free', 'room']);
    expect(tally.report().quotas).toEqual([]);
  });

  it('keeps the order of a topic, also of sends to several', async () => {
    const { clock, enter, went } = queueOf([quota('a', 10), quota('b', 10)]);
    enter('1', ['a', 10]);
    enter('2', ['a', 5], ['b', 1]);
    enter('3', ['b', 1]); // There is room for it, but it is behind the second.
    enter('4', ['a', 1]);
    expect(went).toEqual(['1']);
    await clock.advance(490);
    expect(went).toEqual(['1']);
    await clock.advance(20);
    expect(went).toEqual(['1', '2', '3']);
    await clock.advance(100);
    expect(went).toEqual(['1', '2', '3', '4']);
  });

  it('gives back what a send had taken that waited too long, and lets those behind it try', async () => {
    const { clock, enter, went, tally } = queueOf([quota('a', 10), quota('b', 0.1)]);
    enter('1', ['b', 1]);
    enter('2', ['a', 10], ['b', 1]); // The next record of b may go in 10 s.
    enter('3', ['a', 10]);
    await clock.advance(2_900);
    expect(went).toEqual(['1']);
    await clock.advance(200);
    expect(went).toEqual(['1', '2 QUOTA_EXCEEDED', '3']);
    expect(tally.report().quotas).toMatchObject([
      { topic: 'b', times: 1, refused: 1, waitedMs: 3_000 },
      { topic: 'a', times: 1, refused: 0, waitedMs: 3_000 },
    ]);
  });

  it('in refuse mode refuses the whole send, and charges none of it', () => {
    const { enter, went } = queueOf([quota('a', 10), quota('b', 10)], 'refuse');
    enter('1', ['b', 10]);
    expect(() => enter('2', ['a', 10], ['b', 1])).toThrow(/QUOTA_EXCEEDED.*b: over its quota/);
    enter('3', ['a', 10]);
    expect(went).toEqual(['1', '3']);
  });
});
