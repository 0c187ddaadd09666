import type { GrantClaims } from '@turnpike/core/spi';
import { type SigningKey, signGrant } from '@turnpike/policy';
import type { RegistryClient } from '@turnpike/schema';
import { schemaFingerprint } from '../generate/contract.ts';
import { type Manifest, type ServiceResource, topicOf } from '../manifest/model.ts';
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
  const names = [...new Set([...service.produces, ...service.consumes].map((e) => e.topic))];
  return Promise.all(
    names
      .flatMap((name) => topicOf(manifest, name) ?? [])
      .map(async ({ value }) => {
        const references = await Promise.all(
          value.references.map(async (r) => ({ name: r.name, subject: r.subject, version: (await registry.latest(r.subject))?.version ?? 1 })),
        );
        return { subject: value.subject, sha256: schemaFingerprint(value), id: await registry.lookupId(value.subject, value.text, { references }) };
      }),
  );
}
