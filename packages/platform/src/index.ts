export { type ApplyInit, applyManifest } from './apply/apply.ts';
export { type DesiredCluster, desiredClusters } from './apply/desired.ts';
export { type LocalInit, type LocalPlatform, type LocalService, prepareLocal } from './dev/local.ts';
export { type GeneratedFile, generatedFiles, writeFiles } from './generate/generate.ts';
export { type ClaimsInit, grantClaims } from './grant/claims.ts';
export { type IssuedGrant, issueGrants } from './grant/issue.ts';
export { loadManifest } from './manifest/load.ts';
export type {
  ClusterResource,
  Consumes,
  Manifest,
  Produces,
  QuotaSpec,
  SchemaResource,
  ServiceEnvironment,
  ServiceResource,
  TopicResource,
} from './manifest/model.ts';
export type { Location } from './manifest/problems.ts';
