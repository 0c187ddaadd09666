import type { Identity } from '@turnpike/core/spi';
import { describe, expect, it } from 'vitest';
import { tlsOptions } from './connections.ts';

const identity = (kind: Identity['kind'], tls?: ReturnType<Identity['tls']>): Identity => ({
  kind,
  principal: 'flight-ops',
  tls: () => tls,
  token: () => Promise.reject(new Error('it has none')),
  onChange: () => ({ [Symbol.dispose]: () => {} }),
  http: { request: () => Promise.reject(new Error('nobody is asked')) },
});

describe('a connection without TLS', () => {
  it.each(['127.0.0.1', '127.12.0.7', '::1', 'localhost'])('is opened to %s, for an identity that has nothing to prove', (host) => {
    expect(tlsOptions(identity('none'), host)).toBeUndefined();
  });

  it.each(['kafka-1', '10.0.0.1', '127.0.0.1.example.org', 'localhost.example.org', '1127.0.0.1', '::2', '0.0.0.0', ''])('is refused to %j', (host) => {
    expect(() => tlsOptions(identity('none'), host)).toThrow(
      '[IDENTITY_INVALID] flight-ops has no TLS material; beyond this machine the wire transport speaks TLS only. Use mtlsIdentity() or oauthIdentity().',
    );
  });

  it.each(['mtls', 'oauth'] as const)('is refused to an identity of the kind %s, which has lost its material, on this machine too', (kind) => {
    expect(() => tlsOptions(identity(kind), '127.0.0.1')).toThrow('[IDENTITY_INVALID]');
  });

  it('is never opened where there is TLS material', () => {
    expect(tlsOptions(identity('none', { ca: 'a CA' }), '127.0.0.1')).toMatchObject({ ca: 'a CA', minVersion: 'TLSv1.2' });
  });
});
