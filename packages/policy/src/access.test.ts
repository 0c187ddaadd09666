import type { TurnpikeError } from '@turnpike/core';
import { ManualClock } from '@turnpike/core/memory';
import type { EnforcementMode, GrantClaims } from '@turnpike/core/spi';
import { describe, expect, it } from 'vitest';
import { accessPolicy, type Refusal } from './access.ts';
import { claimsOf, recordingLogger } from './claims.fixture.ts';

const departed = (mode: EnforcementMode, ops: ('read' | 'write')[] = []) => [{ cluster: 'airside', name: 'flights.departed', ops, mode }];

function policyOf(first: GrantClaims) {
  let claims = first;
  const clock = new ManualClock();
  const logger = recordingLogger();
  const refused: Refusal[] = [];
  const policy = accessPolicy({ claims: () => claims, cluster: 'airside', clock, logger, onRefusal: (r) => refused.push(r) });
  return { policy, clock, logger, refused, grant: (next: GrantClaims) => (claims = next) };
}

const refusal = (run: () => void): TurnpikeError => {
  try {
    run();
  } catch (error) {
    return error as TurnpikeError;
  }
  throw new Error('nothing was refused');
};

describe('the access policy', () => {
  it('lets through what is granted, and counts nothing', () => {
    const { policy, logger } = policyOf(claimsOf());
    policy.produce('flights.departed');
    policy.consume('weather.observed', 'flight-ops.weather');
    expect([policy.refusals(), logger.lines]).toEqual([[], []]);
  });

  it('in mode enforce refuses with who, what, the grant and the commands that change it', () => {
    const { policy } = policyOf(claimsOf());
    const error = refusal(() => policy.produce('payroll'));
    expect(error).toMatchObject({
      code: 'GRANT_DENIED',
      written: 'no',
      retriable: false,
      facts: { topic: 'payroll', principal: 'flight-ops-dev', cluster: 'airside', grantRevision: 7 },
    });
    for (const part of ['flight-ops-dev', 'payroll', 'revision 7', 'environment dev', 'produces in turnpike.yaml', 'turnpike grant issue'])
      expect(error.message).toContain(part);
  });

  it('tells read from write, cluster from cluster, and a topic from its group', () => {
    const { policy } = policyOf(claimsOf());
    expect(refusal(() => policy.produce('weather.observed')).code).toBe('GRANT_DENIED');
    expect(refusal(() => policy.consume('flights.departed', 'flight-ops.weather')).facts.topic).toBe('flights.departed');
    expect(refusal(() => policy.consume('weather.observed', 'another.group')).facts).toMatchObject({ group: 'another.group' });
    const elsewhere = accessPolicy({ claims: () => claimsOf(), cluster: 'landside', clock: new ManualClock(), logger: recordingLogger() });
    expect(refusal(() => elsewhere.produce('flights.departed')).facts.cluster).toBe('landside');
  });

  it('in mode shadow counts and says nothing', () => {
    const { policy, logger, refused } = policyOf(claimsOf({ topics: departed('shadow') }));
    policy.produce('flights.departed');
    policy.produce('flights.departed');
    expect(policy.refusals()).toEqual([{ action: 'produce', name: 'flights.departed', mode: 'shadow', count: 2 }]);
    expect(refused).toHaveLength(2);
    expect(logger.lines).toEqual([]);
  });

  it('in mode warn logs each thing once a minute', async () => {
    const { policy, logger, clock } = policyOf(claimsOf({ mode: 'warn' }));
    for (let i = 0; i < 100; i++) policy.produce('payroll');
    policy.produce('salaries');
    expect(logger.lines.map(([event, facts]) => [event, facts?.name])).toEqual([
      ['grant.would_refuse', 'payroll'],
      ['grant.would_refuse', 'salaries'],
    ]);
    await clock.advance(60_000);
    policy.produce('payroll');
    expect(logger.lines).toHaveLength(3);
  });

  it('takes a listed topic’s own mode, the grant’s for what isn’t listed', () => {
    const { policy } = policyOf(claimsOf({ mode: 'enforce', topics: departed('shadow') }));
    policy.produce('flights.departed');
    expect(refusal(() => policy.produce('payroll')).code).toBe('GRANT_DENIED');
  });

  it('follows a changed grant at once, both ways', () => {
    const { policy, grant } = policyOf(claimsOf({ topics: departed('enforce', ['write']) }));
    policy.produce('flights.departed');
    grant(claimsOf({ rev: 8, topics: departed('enforce') }));
    expect(refusal(() => policy.produce('flights.departed')).facts.grantRevision).toBe(8);
    grant(claimsOf({ rev: 9, topics: departed('enforce', ['write']) }));
    policy.produce('flights.departed');
  });

  it('holds a transactional id against the grant’s prefixes, and says whom to ask', () => {
    const { policy, grant } = policyOf(claimsOf({ transactionalIdPrefixes: ['flight-ops.'] }));
    policy.check('transact', 'flight-ops.billing');
    const error = refusal(() => policy.check('transact', 'billing'));
    expect(error).toMatchObject({ code: 'GRANT_DENIED', facts: { transactionalId: 'billing' } });
    expect(error.message).toContain('a transactional-id prefix that billing begins with');
    grant(claimsOf({ rev: 8, mode: 'shadow', topics: departed('shadow') }));
    policy.check('transact', 'flight-ops.billing');
    policy.check('produce', 'flights.departed');
    expect(policy.refusals().map(({ action, name, mode, count }) => [action, name, mode, count])).toEqual([
      ['transact', 'billing', 'enforce', 1],
      ['transact', 'flight-ops.billing', 'shadow', 1],
      ['produce', 'flights.departed', 'shadow', 1],
    ]);
  });
});
