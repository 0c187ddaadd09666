import type { GrantKey } from './jws.ts';

/** The environment of a developer's own machine. */
export const LOCAL_ENVIRONMENT = 'local';

const common = {
  kty: 'OKP',
  crv: 'Ed25519',
  x: 'd96BTG4pShC8E8iET3cBLlEPjcOBmJj7XZxH-jWGJz4',
  kid: 'turnpike-development',
  alg: 'EdDSA',
  use: 'sig',
} as const;

/** Signs the grants of the local platform, so that a contract with production's root keys runs there unchanged. Everybody has it, so it proves nothing: it is accepted in the environment
 *  `local` only, and connect() reaches only loopback addresses there. */
export const developmentKey: { readonly publicJwk: GrantKey; readonly privateJwk: GrantKey } = {
  publicJwk: common,
  privateJwk: { ...common, d: 'APXaqtiketjlLPGSjT60uhL2baqseRlddIJTMu7P820' }, // Not a secret.
};
