export { anonymousIdentity } from './anonymous.ts';
export { type MtlsOptions, mtlsIdentity } from './mtls.ts';
export { type OAuthOptions, oauthIdentity } from './oauth.ts';
