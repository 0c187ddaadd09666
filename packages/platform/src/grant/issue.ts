import type { GrantClaims } from '@turnpike/core/spi';
import { type SigningKey, signGrant } from '@turnpike/policy';
import type { RegistryClient, RegistryReference } from '@turnpike/schema';
import { schemaFingerprint } from '../generate/contract.ts';
import { type Manifest, type SchemaResource, type ServiceResource, topicNames, topicOf } from '../manifest/model.ts';
import { referredTo, versionOf } from '../references.ts';
import { type ClaimsInit, grantClaims } from './claims.ts';

export interface IssuedGrant {
  readonly service: string;
  readonly principal: string;
  readonly claims: GrantClaims;
  /** A compact JWS. */
  readonly token: string;
}

/** Signs the grants of a service in one environment, one for each principal. With a registry, its ids of the pinned schemas come along, so that a service starts without it. */
export async function issueGrants(
  manifest: Manifest,
  service: ServiceResource,
  init: Omit<ClaimsInit, 'schemas'> & { readonly key: SigningKey; readonly registry?: RegistryClient },
): Promise<readonly IssuedGrant[]> {
  const { key, registry, ...claimsInit } = init;
  const schemas = registry ? await schemaIds(manifest, service, registry) : [];
  return Promise.all(
    grantClaims(manifest, service, { ...claimsInit, schemas }).map(async (claims) => ({
      service: service.name,
      principal: claims.sub,
      claims,
      token: await signGrant(claims, key),
    })),
  );
}

async function schemaIds(manifest: Manifest, service: ServiceResource, registry: RegistryClient): Promise<GrantClaims['schemas']> {
  const topics = topicNames(service).flatMap((name) => topicOf(manifest, name) ?? []);
  return Promise.all(topics.map(async ({ value }) => ({ subject: value.subject, sha256: schemaFingerprint(value), id: await registeredId(value, registry) })));
}

/** @throws TurnpikeError SCHEMA_UNKNOWN: it, or what it refers to, has not been applied. */
async function registeredId({ subject, text, references: given }: SchemaResource, registry: RegistryClient): Promise<number> {
  const references: RegistryReference[] = [];
  for (const { text, ...names } of given) {
    const id = await registry.lookupId(names.subject, text, { references: referredTo(text, references) });
    references.push({ ...names, version: await versionOf(registry, names.subject, id) });
  }
  return registry.lookupId(subject, text, { references });
}
