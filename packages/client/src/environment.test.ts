import type { ClusterDescriptor, Identity } from '@turnpike/core/spi';
import { describe, expect, it } from 'vitest';
import { openEnvironment } from './environment.ts';

const identity = { kind: 'mtls', principal: 'platform-admin' } as Identity;
const airside: ClusterDescriptor = { name: 'airside', epoch: 1, primary: { id: 'abc', bootstrap: { mtls: ['kafka-1:9093'] } } };

describe('the environment of a tool', () => {
  it('is read as connect() reads it: who, where, which registry', async () => {
    await using environment = await openEnvironment({ env: { TURNPIKE_ENV: 'prod', TURNPIKE_REGISTRY: 'https://registry' }, identity, clusters: [airside] });
    expect(environment).toMatchObject({ name: 'prod', registry: 'https://registry', identity: { principal: 'platform-admin' } });
    expect(environment.cluster('airside')).toEqual({ name: 'airside', id: 'abc', bootstrap: ['kafka-1:9093'] });
    expect(() => environment.cluster('landside')).toThrow(/No descriptor for the cluster landside \(there are: airside\)/);
  });

  it('wants a name and an identity, and says how to give them', async () => {
    await expect(openEnvironment({ env: {}, identity })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringMatching(/say --env NAME, or set TURNPIKE_ENV/),
    });
    await expect(openEnvironment({ env: { TURNPIKE_ENV: 'prod' } })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringMatching(/No identity: set TURNPIKE_TLS_CERT, TURNPIKE_TLS_KEY and TURNPIKE_TLS_CA \(mTLS\), or TURNPIKE_TOKEN_URL/),
    });
  });
});
