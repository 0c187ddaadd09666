import type { SchemaRef } from './codec.ts';

export type EnforcementMode = 'shadow' | 'warn' | 'enforce';

/** The claims of a grant: a JWS for one principal in one environment. Times in s since the epoch (RFC 7519). */
export interface GrantClaims {
  readonly v: 1;
  /** For what isn't listed; groups and transactional ids too. */
  readonly mode: EnforcementMode;
  readonly iss: string;
  /** The environment. */
  readonly aud: string;
  /** The principal. */
  readonly sub: string;
  /** Rises with every issue. */
  readonly rev: number;
  readonly nbf: number;
  readonly exp: number;
  readonly refreshAfterS: number;
  readonly minSdk?: string;
  readonly binding?: { readonly issuer?: string; readonly spiffe?: string };
  readonly onExpiry: 'hold' | 'refuse';
  readonly minLingerMs?: number;
  readonly topics: readonly { readonly cluster: string; readonly name: string; readonly ops: readonly ('read' | 'write')[]; readonly mode: EnforcementMode }[];
  readonly groups: readonly string[];
  readonly transactionalIdPrefixes: readonly string[];
  /** Ids are the environment's registry's own. */
  readonly schemas: readonly (SchemaRef & { readonly id: number; readonly guid?: string })[];
  readonly quotas: readonly GrantQuota[];
}

export interface GrantQuota {
  readonly id: string;
  readonly cluster: string;
  readonly topic?: string;
  readonly group?: string;
  readonly unit: 'bytesOut' | 'recordsOut' | 'bytesIn' | 'inFlight';
  /** Per second, over the whole fleet (inFlight: a count). */
  readonly rate: number;
  readonly burst: number;
  readonly weight: number;
  readonly safeShare: number;
  readonly maxInstances: number;
}

/** Where a logical cluster is. Bootstrap addresses by the kind of identity, since each kind has its own listener. */
export interface ClusterDescriptor {
  readonly name: string;
  readonly epoch: number;
  readonly primary: ClusterSite;
  readonly standby?: ClusterSite & { readonly topicPrefix?: string };
}

export interface ClusterSite {
  /** The cluster id that must answer; empty = not known yet, not checked. */
  readonly id: string;
  readonly bootstrap: { readonly mtls?: readonly string[]; readonly oauth?: readonly string[] };
}

/** `turnpike.lock`. Ids and versions are a registry's own and don't stand here. */
export interface Lock {
  readonly lockVersion: 1;
  readonly subjects: Readonly<Record<string, LockedSubject>>;
}

export interface LockedSubject {
  readonly format: 'avro' | 'protobuf' | 'json';
  readonly version?: number;
  readonly sha256: string;
  readonly schema: string;
  readonly references: readonly SchemaRef[];
}
