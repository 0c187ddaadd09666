import type { GrantClaims, GrantQuota, Logger } from '@turnpike/core/spi';

/** 2026-01-01, where ManualClock begins, in s. */
export const startS = Date.UTC(2026, 0, 1) / 1000;

export function claimsOf(more: Partial<GrantClaims> = {}): GrantClaims {
  return {
    v: 1,
    mode: 'enforce',
    iss: 'platform',
    aud: 'dev',
    sub: 'flight-ops-dev',
    rev: 7,
    nbf: startS - 10,
    exp: startS + 14 * 86_400,
    refreshAfterS: 300,
    onExpiry: 'hold',
    topics: [
      { cluster: 'airside', name: 'flights.departed', ops: ['write'], mode: 'enforce' },
      { cluster: 'airside', name: 'weather.observed', ops: ['read'], mode: 'enforce' },
    ],
    groups: ['flight-ops.weather'],
    transactionalIdPrefixes: [],
    schemas: [{ subject: 'flights.departed-value', sha256: 'ab', id: 3 }],
    quotas: [],
    ...more,
  };
}

export function quotaOf(more: Partial<GrantQuota> = {}): GrantQuota {
  return { id: 'q', cluster: 'airside', unit: 'bytesOut', rate: 1_000, burst: 1_000, weight: 1, safeShare: 0, maxInstances: 1, ...more };
}

export function recordingLogger(): Logger & { readonly lines: (readonly [event: string, facts: Readonly<Record<string, unknown>> | undefined])[] } {
  const lines: (readonly [string, Readonly<Record<string, unknown>> | undefined])[] = [];
  const add = (event: string, facts?: Readonly<Record<string, unknown>>) => void lines.push([event, facts]);
  return { lines, debug: () => {}, info: add, warn: add, error: add };
}
