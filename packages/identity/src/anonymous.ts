import { TurnpikeError } from '@turnpike/core';
import type { Identity } from '@turnpike/core/spi';
import { httpPort } from './http.ts';

/** An identity that proves nothing: for the memory transport, which asks for no proof, and for a broker that is reached in plaintext, on loopback only. */
export function anonymousIdentity(principal: string): Identity {
  return {
    kind: 'none',
    principal,
    tls: () => undefined,
    token: () =>
      Promise.reject(new TurnpikeError('IDENTITY_INVALID', `${principal} is an anonymous identity and has no token; use oauthIdentity().`, { principal })),
    onChange: () => ({ [Symbol.dispose]: () => {} }),
    http: httpPort({ tls: () => undefined }),
  };
}
