export { type AccessChecks, type AccessOptions, type Action, accessPolicy, type Refusal, type RefusalCount, remedyFor } from './access.ts';
export { checkClaims } from './claims.ts';
export { developmentKey, LOCAL_ENVIRONMENT } from './development-key.ts';
export { type FileGrantOptions, fileGrant, type GrantSource } from './file-grant.ts';
export {
  decodeGrant,
  type GrantAlgorithm,
  type GrantKey,
  generateSigningKey,
  isExpired,
  type SigningKey,
  signGrant,
  type VerifyOptions,
  verifyGrant,
} from './jws.ts';
export { type QuotaOptions, quotaGates } from './quotas.ts';
