import { checkClaims } from '@turnpike/policy';
import { describe, expect, it } from 'vitest';
import { documents, service, topic, Workspace } from '../workspace.fixture.ts';
import { grantClaims } from './claims.ts';

const NOW_MS = Date.UTC(2026, 0, 1);
const NOW_S = NOW_MS / 1000;

function claimsOf(text: string, environment = 'prod', init: Partial<Parameters<typeof grantClaims>[2]> = {}) {
  using workspace = new Workspace({ 'turnpike.yaml': text });
  const manifest = workspace.load();
  const [of] = manifest.services;
  if (!of) throw new Error('The manifest has no service.');
  const all = grantClaims(manifest, of, { environment, issuer: 'ci', nowMs: NOW_MS, ...init });
  for (const claims of all) checkClaims(claims);
  return all;
}

describe('the claims of a grant', () => {
  it('are one set for each principal of the environment, with every topic and operation, each group once', () => {
    const text = documents(
      topic('a'),
      topic('b'),
      topic('c'),
      service(
        's',
        'produces: [{ topic: b }, { topic: a }], consumes: [{ topic: a, group: g }, { topic: c, group: g }, { topic: c, group: h }], environments: { prod: { principals: [p, q], enforcement: warn } }',
      ),
    );
    const [first, second] = claimsOf(text, 'prod', { revision: 7 });
    expect(first).toEqual({
      v: 1,
      mode: 'warn',
      iss: 'ci',
      aud: 'prod',
      sub: 'p',
      rev: 7,
      nbf: NOW_S - 60,
      exp: NOW_S + 30 * 86_400,
      refreshAfterS: 300,
      onExpiry: 'hold',
      topics: [
        { cluster: 'main', name: 'a', ops: ['read', 'write'], mode: 'warn' },
        { cluster: 'main', name: 'b', ops: ['write'], mode: 'warn' },
        { cluster: 'main', name: 'c', ops: ['read'], mode: 'warn' },
      ],
      groups: ['g', 'h'],
      transactionalIdPrefixes: [],
      schemas: [],
      quotas: [],
    });
    expect(second).toEqual({ ...first, sub: 'q' });
  });

  it.each([
    ['shadow, unless the manifest says otherwise', 'prod: { principals: [p] }', 'prod', 'shadow'],
    ['what it says', 'prod: { principals: [p], enforcement: enforce }', 'prod', 'enforce'],
    ["enforce on a developer's own machine, which is always there", 'prod: { principals: [p] }', 'local', 'enforce'],
    ['what it says there too', 'local: { principals: [p], enforcement: warn }', 'local', 'warn'],
  ])('have the mode %s', (_what, environments, environment, mode) => {
    expect(claimsOf(service('s', `environments: { ${environments} }`), environment).map((c) => c.mode)).toEqual([mode]);
  });

  it('limit a topic by its rates, with a burst in time of the rate, a weight, and the share that each instance has for sure', () => {
    const [claims] = claimsOf(
      documents(
        topic('a'),
        topic('b').replace('cluster: main', 'cluster: other'),
        service(
          's',
          'produces: [{ topic: a, quota: { bytes: 5MiB/s, records: 2000/s, burst: 2s, weight: 3 } }], consumes: [{ topic: b, group: g, quota: { bytes: 1MB/s } }], environments: { prod: { principals: [p], instances: { max: 4 } } }',
        ),
      ),
    );
    const common = { cluster: 'main', topic: 'a', weight: 3, maxInstances: 4 };
    expect(claims?.quotas).toEqual([
      { ...common, id: 's/a/bytesOut', unit: 'bytesOut', rate: 5_242_880, burst: 10_485_760, safeShare: 1_310_720 },
      { ...common, id: 's/a/recordsOut', unit: 'recordsOut', rate: 2000, burst: 4000, safeShare: 500 },
      { id: 's/b/g/bytesIn', cluster: 'other', topic: 'b', group: 'g', unit: 'bytesIn', rate: 1e6, burst: 1e6, weight: 1, safeShare: 250_000, maxInstances: 4 },
    ]);
  });

  it('refuse past their end as soon as one use of a topic says so', () => {
    const spec = (onExpiry: string) => documents(topic('a'), topic('b'), service('s', `produces: [{ topic: a }, { topic: b, onExpiry: ${onExpiry} }]`));
    expect([...claimsOf(spec('hold'), 'local'), ...claimsOf(spec('refuse'), 'local')].map((c) => c.onExpiry)).toEqual(['hold', 'refuse']);
  });

  it('live as long as is asked, and rise by the second', () => {
    const [claims] = claimsOf(service('s'), 'local', { lifetimeS: 60 });
    expect([claims?.exp, claims?.rev]).toEqual([NOW_S + 60, NOW_S]);
  });

  it.each(['staging', 'constructor'])('are refused for the environment %s, which the service does not have', (environment) => {
    expect(() => claimsOf(service('s', 'environments: { prod: { principals: [p] } }'), environment)).toThrow(
      expect.objectContaining({
        code: 'CONFIG_INVALID',
        message: expect.stringContaining(`s has no environment "${environment}"; turnpike.yaml has local, prod.`),
      }),
    );
  });
});
