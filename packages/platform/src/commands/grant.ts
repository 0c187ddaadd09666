import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type Clock, type GrantClaims, type GrantQuota, systemClock } from '@turnpike/core/spi';
import {
  checkClaims,
  decodeGrant,
  developmentKey,
  type GrantAlgorithm,
  type GrantKey,
  generateSigningKey,
  isExpired,
  LOCAL_ENVIRONMENT,
  verifyGrant,
} from '@turnpike/policy';
import { registryClient } from '@turnpike/schema';
import { issueGrants } from '../grant/issue.ts';
import { loadManifest } from '../manifest/load.ts';
import type { Manifest, ServiceResource } from '../manifest/model.ts';
import { readRootKeys } from '../manifest/root-keys.ts';
import { Exit } from './exit.ts';

export async function keygen({ out, public: publicFile, alg }: { readonly out: string; readonly public: string; readonly alg: GrantAlgorithm }): Promise<void> {
  if (existsSync(out)) throw new TurnpikeError('CONFIG_INVALID', `${out} is there already; a key is never overwritten. Give another --out.`);
  const { kid, privateJwk, publicJwk } = await generateSigningKey(alg);
  const pinned = existsSync(publicFile) ? rootKeysIn(publicFile) : undefined;
  for (const file of [out, publicFile]) mkdirSync(path.dirname(path.resolve(file)), { recursive: true });
  writeFileSync(out, `${JSON.stringify(privateJwk)}\n`, { mode: 0o600, flag: 'wx' });
  try {
    writeFileSync(publicFile, `${JSON.stringify({ keys: [...(pinned ?? []), publicJwk] }, null, 2)}\n`);
  } catch (error) {
    // A private key whose public one stands nowhere is of no use, and would be in the way of the next try.
    rmSync(out);
    throw error;
  }
  console.log(`private key  ${out} (mode 0600): for whoever issues grants; never commit it`);
  const where = pinned ? `, added to the ${pinned.length} that it had` : '';
  console.log(`public key   ${publicFile} (${kid})${where}: commit it, and run turnpike generate`);
}

export interface IssueOptions {
  readonly env: string;
  readonly file: string;
  readonly service?: string;
  readonly key?: string;
  readonly out: string;
  readonly issuer: string;
  readonly days: number;
  readonly ids?: boolean;
}

export async function issue(options: IssueOptions): Promise<void> {
  const { env, days } = options;
  const manifest = loadManifest(options.file);
  const services = chosen(manifest, options);
  const key = signingKey(options);
  await using environment = options.ids ? await (await import('@turnpike/client/environment')).openEnvironment({ environment: env }) : undefined;
  const registry = environment?.registry === undefined ? undefined : registryClient({ url: environment.registry, http: environment.identity.http });
  if (options.ids && !registry) throw new TurnpikeError('CONFIG_INVALID', '--ids needs the registry: set TURNPIKE_REGISTRY to its URL.');
  mkdirSync(options.out, { recursive: true });
  const written = new Set<string>();
  for (const service of services) {
    warnOfKey(service, key, env);
    const grants = await issueGrants(manifest, service, {
      environment: env,
      issuer: options.issuer,
      nowMs: Date.now(),
      lifetimeS: days * 86_400,
      key: { key },
      ...(registry ? { registry } : {}),
    });
    for (const { principal, claims, token } of grants) {
      const of = grants.length === 1 ? '' : `.${principal.replace(/[^A-Za-z0-9_-]+/g, '_')}`;
      const file = fileOf(path.join(options.out, `${service.name}.${env}${of}`), written);
      writeFileSync(file, `${token}\n`);
      console.log(`${file}: ${principal}, revision ${claims.rev}, mode ${claims.mode}, until ${date(claims.exp)}`);
    }
  }
}

function chosen(manifest: Manifest, { file, service, env }: IssueOptions): readonly ServiceResource[] {
  const ofSdk = manifest.services.filter((s) => s.runtime === 'sdk');
  const named = service === undefined ? ofSdk : ofSdk.filter((s) => s.name === service);
  if (named.length === 0)
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `${file} has no service ${service ?? 'that uses the SDK'}${service === undefined ? '' : ' that uses the SDK'}; it has ${ofSdk.map((s) => s.name).join(', ') || 'none'}.`,
    );
  // Of all services those that are in the environment; one that was named must be.
  const there = service === undefined ? named.filter((s) => Object.hasOwn(s.environments, env)) : named;
  return there.length > 0 ? there : named;
}

/** Two principals may look alike as file names. */
function fileOf(stem: string, written: Set<string>): string {
  let file = `${stem}.grant`;
  for (let n = 2; written.has(file); n++) file = `${stem}_${n}.grant`;
  written.add(file);
  return file;
}

/** Issued all the same: the key may be about to be pinned. */
function warnOfKey({ name, rootKeys }: ServiceResource, { kid }: GrantKey, environment: string): void {
  if (environment === LOCAL_ENVIRONMENT || rootKeys.some((k) => k.kid === kid)) return;
  console.error(
    `${name} pins no key ${String(kid)}, so it will refuse this grant. Put the public key into its turnpike.root-keys.json, and run turnpike generate.`,
  );
}

/** Prints a grant whoever signed it; exit code 1 where nobody known did, and where it is past its end and says refuse. */
export async function show(file: string, { rootKeys, json }: { readonly rootKeys: string; readonly json?: boolean }): Promise<void> {
  let token: string;
  try {
    token = readFileSync(file, 'utf8').trim();
  } catch (error) {
    throw new TurnpikeError('GRANT_MISSING', `${file} can't be read (${(error as NodeJS.ErrnoException).code}). Say where the grant lies.`);
  }
  const claims = checkClaims(decodeGrant(token).claims);
  const signature = await signatureOf(token, claims, rootKeys);
  const expired = isExpired(claims, systemClock);
  console.log(json ? JSON.stringify({ ...claims, signature, expired }, null, 2) : describe(claims, { signature, expired }));
  if (signature !== 'valid' || (expired && claims.onExpiry === 'refuse')) process.exitCode = Exit.error;
}

/** "valid", or what is wrong with it. */
async function signatureOf(token: string, claims: GrantClaims, rootKeys: string): Promise<string> {
  const pinned = existsSync(rootKeys) ? rootKeysIn(rootKeys) : [];
  const keys = claims.aud === LOCAL_ENVIRONMENT ? [...pinned, developmentKey.publicJwk] : pinned;
  if (keys.length === 0) return `not checked: there is no ${rootKeys} here; give --root-keys FILE`;
  const kid = decodeGrant(token).header.kid;
  if (!keys.some((k) => k.kid === kid)) return `REFUSED: signed by ${String(kid)}, which is not in ${rootKeys}`;
  // When it is valid is told apart from who signed it.
  const atIssue: Clock = { ...systemClock, now: () => claims.nbf * 1000 };
  try {
    await verifyGrant(token, { rootKeys: keys, audience: claims.aud, principal: claims.sub, clock: atIssue });
    return 'valid';
  } catch (error) {
    return `REFUSED: ${asTurnpikeError(error, 'GRANT_INVALID', String(error)).message}`;
  }
}

function describe(claims: GrantClaims, { signature, expired }: { readonly signature: string; readonly expired: boolean }): string {
  const end = expired ? `EXPIRED; then it says ${claims.onExpiry}${claims.onExpiry === 'hold' ? ': it stays in force' : ''}` : `then ${claims.onExpiry}`;
  const lines = [
    `principal    ${claims.sub}`,
    `environment  ${claims.aud}`,
    `signature    ${signature}`,
    `issued by    ${claims.iss}, revision ${claims.rev}`,
    `valid        ${date(claims.nbf)} to ${date(claims.exp)} UTC (${end})`,
    `mode         ${claims.mode} for what isn't listed`,
    ...claims.topics.map((t) => `topic        ${t.name} on ${t.cluster}: ${t.ops.join(', ')} (${t.mode})`),
    ...claims.groups.map((g) => `group        ${g}`),
    ...claims.quotas.map((q) => `quota        ${quotaText(q)}`),
    ...claims.schemas.map((s) => `schema       ${s.subject}: id ${s.id}`),
  ];
  return lines.join('\n');
}

const UNITS: Readonly<Record<GrantQuota['unit'], string>> = {
  bytesOut: 'bytes/s out',
  recordsOut: 'records/s out',
  bytesIn: 'bytes/s in',
  inFlight: 'in flight',
};

function quotaText({ topic, group, unit, rate, burst, maxInstances }: GrantQuota): string {
  const what = `${topic ?? 'all topics'}${group ? ` in ${group}` : ''}`;
  return `${what}: ${rate} ${UNITS[unit]}, burst ${burst}${maxInstances > 1 ? `, shared by ${maxInstances} instances` : ''}`;
}

function rootKeysIn(file: string): readonly GrantKey[] {
  try {
    return readRootKeys(file);
  } catch (error) {
    throw new TurnpikeError('CONFIG_INVALID', (error as Error).message);
  }
}

function signingKey({ key, env }: IssueOptions): GrantKey {
  if (key === undefined) {
    if (env === LOCAL_ENVIRONMENT) return developmentKey.privateJwk;
    throw new TurnpikeError('CONFIG_INVALID', `A grant for ${env} needs a key: --key FILE, as turnpike grant keygen makes it.`);
  }
  // Only what the system says of the file: a parser's error would quote it.
  const wrong = (why: string) => new TurnpikeError('CONFIG_INVALID', `${key} is no private key in JWK form (${why}); turnpike grant keygen makes one.`);
  let jwk: GrantKey | null;
  try {
    jwk = JSON.parse(readFileSync(key, 'utf8')) as GrantKey | null;
  } catch (error) {
    throw wrong((error as NodeJS.ErrnoException).code ?? 'it is not JSON');
  }
  if (typeof jwk !== 'object' || jwk === null || typeof jwk.d !== 'string') throw wrong('it has no private part');
  return jwk;
}

const date = (seconds: number): string => new Date(seconds * 1000).toISOString().slice(0, 16).replace('T', ' ');
