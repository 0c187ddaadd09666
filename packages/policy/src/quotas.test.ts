import { TurnpikeError } from '@turnpike/core';
import { ManualClock } from '@turnpike/core/memory';
import type { GrantClaims, GrantQuota } from '@turnpike/core/spi';
import { describe, expect, it } from 'vitest';
import { claimsOf, quotaOf, recordingLogger } from './claims.fixture.ts';
import { quotaGates } from './quotas.ts';

function gatesOf(quotas: readonly GrantQuota[], more: { onExceeded?: 'wait' | 'refuse'; claims?: Partial<GrantClaims> } = {}) {
  let claims = (): GrantClaims => first;
  const first = claimsOf({ quotas, ...more.claims });
  const clock = new ManualClock();
  const gates = quotaGates({
    claims: () => claims(),
    cluster: 'airside',
    clock,
    logger: recordingLogger(),
    ...(more.onExceeded ? { onExceeded: more.onExceeded } : {}),
  });
  return {
    gates,
    clock,
    grant(next: readonly GrantQuota[], other: Partial<GrantClaims> = {}) {
      const made = claimsOf({ quotas: next, rev: 8, ...other });
      claims = () => made;
    },
    fail(error: TurnpikeError) {
      claims = () => {
        throw error;
      };
    },
  };
}

const refusal = (run: () => void): TurnpikeError => {
  try {
    run();
  } catch (error) {
    return error as TurnpikeError;
  }
  throw new Error('nothing was refused');
};

describe('a quota at the drain', () => {
  it('admits at once where there is none', () => {
    const { gates } = gatesOf([quotaOf({ topic: 'other' }), quotaOf({ id: 'c', cluster: 'landside' })]);
    expect(gates.admit('t', 1_000_000, 1_000_000_000)).toBe(0);
    expect(gates.burst('t')).toBeUndefined();
  });

  it('admits up to the burst, then says how long to wait, and keeps its word', async () => {
    const { gates, clock } = gatesOf([quotaOf({ rate: 1_000, burst: 500 })]);
    expect(gates.admit('t', 1, 500)).toBe(0);
    expect(gates.admit('t', 1, 100)).toBe(100);
    await clock.advance(99);
    expect(gates.admit('t', 1, 100)).toBe(1);
    await clock.advance(1);
    expect(gates.admit('t', 1, 100)).toBe(0);
  });

  it('limits records as well as bytes, and charges neither when one of them waits', () => {
    const { gates } = gatesOf([quotaOf({ id: 'b', unit: 'bytesOut', burst: 1_000 }), quotaOf({ id: 'r', unit: 'recordsOut', burst: 10 })]);
    expect(gates.burst('t')).toEqual({ records: 10, bytes: 1_000 });
    expect(gates.admit('t', 8, 10)).toBe(0);
    expect(gates.admit('t', 5, 10)).toBeGreaterThan(0);
    expect(gates.admit('t', 2, 990)).toBe(0);
  });

  it('is hierarchical: the topic’s and the principal’s must both have room', async () => {
    const { gates, clock } = gatesOf([quotaOf({ id: 'all', rate: 100, burst: 100 }), quotaOf({ id: 'a', topic: 'a', rate: 50, burst: 50 })]);
    expect(gates.admit('a', 1, 50)).toBe(0);
    expect(gates.admit('a', 1, 10)).toBe(200);
    expect(gates.admit('b', 1, 50)).toBe(0);
    expect(gates.admit('b', 1, 10)).toBe(100);
    await clock.advance(100);
    expect(gates.admit('b', 1, 10)).toBe(0);
  });

  it('gives each process its share of the fleet’s rate and burst', async () => {
    const { gates, clock } = gatesOf([quotaOf({ rate: 1_000, burst: 400, maxInstances: 4 })]);
    expect(gates.burst('t')?.bytes).toBe(100);
    expect(gates.admit('t', 1, 100)).toBe(0);
    expect(gates.admit('t', 1, 25)).toBe(100);
    await clock.advance(100);
    expect(gates.admit('t', 1, 25)).toBe(0);
  });

  it('lets a batch that is larger than the burst go when the bucket is full, and the next ones pay for it', async () => {
    const { gates, clock } = gatesOf([quotaOf({ rate: 1_000, burst: 100 })]);
    expect(gates.admit('t', 1, 50)).toBe(0);
    expect(gates.admit('t', 1, 300)).toBe(50);
    await clock.advance(50);
    expect(gates.admit('t', 1, 300)).toBe(0);
    expect(gates.admit('t', 1, 1)).toBe(201);
  });

  it('refunds the charge of what was definitely not written, up to the burst', () => {
    const { gates } = gatesOf([quotaOf({ burst: 100 })]);
    gates.admit('t', 1, 100);
    gates.refund('t', 1, 60);
    expect(gates.admit('t', 1, 60)).toBe(0);
    gates.refund('t', 1, 1_000);
    expect(gates.admit('t', 1, 100)).toBe(0);
    expect(gates.admit('t', 1, 1)).toBeGreaterThan(0);
  });

  it('has what waits ask again within a second, so that a raised quota reaches it', () => {
    const { gates, grant } = gatesOf([quotaOf({ rate: 1, burst: 100 })]);
    gates.admit('t', 1, 100);
    expect(gates.admit('t', 1, 100)).toBe(1_000);
    grant([]);
    expect(gates.admit('t', 1, 100)).toBe(0);
  });

  it('keeps a bucket’s level when the grant changes: no grant is worth another burst', async () => {
    const { gates, clock, grant } = gatesOf([quotaOf({ rate: 100, burst: 100 })]);
    gates.admit('t', 1, 100);
    grant([quotaOf({ rate: 1_000, burst: 200 })]);
    expect(gates.admit('t', 1, 100)).toBe(100);
    await clock.advance(100);
    expect(gates.admit('t', 1, 100)).toBe(0);
  });

  it('gives nothing away when the wall clock jumps', () => {
    const { gates, clock } = gatesOf([quotaOf({ burst: 100 })]);
    gates.admit('t', 1, 100);
    clock.jumpWall(3_600_000);
    expect(gates.admit('t', 1, 100)).toBeGreaterThan(0);
  });

  it('goes on with the last quotas when the grant has expired: what waits was let in before', () => {
    const { gates, fail } = gatesOf([quotaOf({ burst: 100 })]);
    expect(gates.admit('t', 1, 100)).toBe(0);
    fail(new TurnpikeError('GRANT_EXPIRED', 'expired'));
    expect(gates.admit('t', 1, 100)).toBeGreaterThan(0);
    expect(refusal(() => gates.permit('t', 'g')).code).toBe('GRANT_EXPIRED');
  });

  it('of 0 admits nothing, however small or large', () => {
    const { gates } = gatesOf([quotaOf({ rate: 0, burst: 500 }), quotaOf({ id: 'in', unit: 'bytesIn', rate: 0, burst: 500 })]);
    expect(gates.admit('t', 1, 1)).toBe(1_000);
    expect(gates.admit('t', 1, 1_000)).toBe(1_000);
    expect(gates.permit('weather.observed', 'g')).toBe(1_000);
  });

  it('holds its bound: in any window T no more than rate x T + burst, or + the one batch that is larger', async () => {
    for (let seed = 1; seed <= 40; seed++) {
      const random = lcg(seed);
      const rate = 10 ** random(5) + random(1_000);
      const burst = 1 + random(5_000);
      const { gates, clock, grant } = gatesOf([quotaOf({ rate, burst })]);
      const admitted: { at: number; bytes: number }[] = [];
      for (let step = 0; step < 120; step++) {
        const bytes = 1 + random(random(5) === 0 ? burst * 3 : burst);
        const waitMs = gates.admit('t', 1, bytes);
        if (waitMs === 0) admitted.push({ at: clock.monotonic(), bytes });
        // Some come back when told, some too early, some after a stall; the wall clock jumps; the same grant is issued again.
        else await clock.advance([waitMs, waitMs / 3, 10_000][random(3)] ?? 0);
        if (random(10) === 0) clock.jumpWall((random(2) - 0.5) * 1e9);
        if (random(10) === 0) grant([quotaOf({ rate, burst })]);
      }
      expect(admitted.length).toBeGreaterThan(10);
      for (const [i, from] of admitted.entries()) {
        let sum = 0;
        let largest = 0;
        for (const to of admitted.slice(i)) {
          sum += to.bytes;
          largest = Math.max(largest, to.bytes);
          const bound = (rate * (to.at - from.at)) / 1000 + Math.max(burst, largest);
          expect(sum, `seed ${seed}`).toBeLessThanOrEqual(bound * (1 + 1e-9) + 1e-6);
        }
      }
    }
  });
});

describe('a quota at send(), in refuse mode', () => {
  it('refuses what could not go at once with what is queued, and says when it could', () => {
    const { gates } = gatesOf([quotaOf({ rate: 1_000, burst: 100 })], { onExceeded: 'refuse' });
    gates.refuse('t', 2, 100);
    expect(refusal(() => gates.refuse('t', 3, 150))).toMatchObject({
      code: 'QUOTA_EXCEEDED',
      written: 'no',
      retriable: true,
      facts: { topic: 't', retryAfterMs: 50 },
    });
    gates.refuse('t', 1, 500);
    gates.admit('t', 1, 500);
    expect(refusal(() => gates.refuse('t', 1, 50)).facts.retryAfterMs).toBe(450);
  });

  it('says so where the quota is 0, and nothing of trying again', () => {
    const { gates } = gatesOf([quotaOf({ rate: 0, burst: 0 })], { onExceeded: 'refuse' });
    const error = refusal(() => gates.refuse('t', 1, 50));
    expect(error).toMatchObject({ code: 'QUOTA_EXCEEDED', retriable: false, facts: { topic: 't' } });
    expect(error.facts.retryAfterMs).toBeUndefined();
  });

  it('does nothing in wait mode', () => {
    const { gates } = gatesOf([quotaOf({ burst: 1 })]);
    gates.refuse('t', 1_000, 1_000_000);
  });
});

describe('a quota before a fetch', () => {
  const bytesIn = (more: Partial<GrantQuota> = {}) => quotaOf({ unit: 'bytesIn', rate: 1_000, burst: 100, ...more });

  it('permits until something is owed, then until it is paid', async () => {
    const { gates, clock } = gatesOf([bytesIn({ topic: 'weather.observed' })]);
    expect(gates.permit('weather.observed', 'g')).toBe(0);
    gates.charge('weather.observed', 'g', 10, 600);
    expect(gates.permit('weather.observed', 'g')).toBe(500);
    await clock.advance(500);
    expect(gates.permit('weather.observed', 'g')).toBe(0);
  });

  it('holds by group where it names one', () => {
    const { gates } = gatesOf([bytesIn({ group: 'g1' })]);
    gates.charge('weather.observed', 'g1', 1, 1_000);
    expect(gates.permit('weather.observed', 'g1')).toBeGreaterThan(0);
    expect(gates.permit('weather.observed', 'g2')).toBe(0);
  });

  it('gives no permit for a topic that was revoked', () => {
    const { gates, grant } = gatesOf([]);
    expect(gates.permit('weather.observed', 'flight-ops.weather')).toBe(0);
    grant([], { topics: [] });
    expect(refusal(() => gates.permit('weather.observed', 'flight-ops.weather'))).toMatchObject({
      code: 'GRANT_DENIED',
      facts: { topic: 'weather.observed', grantRevision: 8 },
    });
    grant([], { topics: [], mode: 'warn' });
    expect(gates.permit('weather.observed', 'flight-ops.weather')).toBe(0);
  });
});

function lcg(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}
