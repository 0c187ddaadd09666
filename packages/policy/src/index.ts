export { type AccessOptions, accessPolicy, type RefusalCounts } from './access.ts';
export { type FileGrantOptions, fileGrant, type GrantSource } from './file-grant.ts';
export { decodeGrant, type GrantAlgorithm, type GrantKey, generateSigningKey, signGrant, type VerifyOptions, verifyGrant } from './jws.ts';
export { type QuotaOptions, quotaGates } from './quotas.ts';
