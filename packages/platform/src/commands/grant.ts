import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { openEnvironment } from '@turnpike/client/environment';
import { TurnpikeError } from '@turnpike/core';
import { type GrantClaims, systemClock } from '@turnpike/core/spi';
import { checkClaims, decodeGrant, developmentKey, type GrantKey, generateSigningKey, isExpired, LOCAL_ENVIRONMENT, verifyGrant } from '@turnpike/policy';
import { registryClient } from '@turnpike/schema';
import { issueGrants } from '../grant/issue.ts';
import { loadManifest } from '../manifest/load.ts';
import { Exit } from './exit.ts';

export async function keygen({ out, public: publicFile, alg }: { readonly out: string; readonly public: string; readonly alg: string }): Promise<void> {
  if (alg !== 'ES256' && alg !== 'EdDSA') throw new TurnpikeError('CONFIG_INVALID', `--alg is ${alg}; it must be ES256 or EdDSA.`);
  if (existsSync(out)) throw new TurnpikeError('CONFIG_INVALID', `${out} is there already; a key is never overwritten. Give another --out.`);
  const { kid, privateJwk, publicJwk } = await generateSigningKey(alg);
  const keys = existsSync(publicFile) ? (JSON.parse(readFileSync(publicFile, 'utf8')) as { keys: GrantKey[] }).keys : [];
  writeFileSync(out, `${JSON.stringify(privateJwk)}\n`, { mode: 0o600, flag: 'wx' });
  writeFileSync(publicFile, `${JSON.stringify({ keys: [...keys, publicJwk] }, null, 2)}\n`);
  console.log(`private key ${out} (mode 0600; keep it with whoever issues grants)\npublic key  ${publicFile} (${kid}; commit it, and run turnpike generate)`);
}

export interface IssueOptions {
  readonly env: string;
  readonly file: string;
  readonly service?: string;
  readonly key?: string;
  readonly out: string;
  readonly issuer: string;
  readonly days: string;
  readonly ids?: boolean;
}

export async function issue(options: IssueOptions): Promise<void> {
  const days = Number(options.days);
  if (!Number.isInteger(days) || days < 1) throw new TurnpikeError('CONFIG_INVALID', `--days is ${options.days}; it must be a whole number of at least 1.`);
  const manifest = loadManifest(options.file);
  const services = manifest.services.filter((s) => s.runtime === 'sdk' && (options.service === undefined || s.name === options.service));
  if (services.length === 0)
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `${options.file} has no service ${options.service ?? 'that uses the SDK'}; it has ${manifest.services.map((s) => s.name).join(', ') || 'none'}.`,
    );
  const key = signingKey(options);
  await using environment = options.ids ? await openEnvironment({ environment: options.env }) : undefined;
  const registry = environment?.registry === undefined ? undefined : registryClient({ url: environment.registry, http: environment.identity.http });
  if (options.ids && !registry) throw new TurnpikeError('CONFIG_INVALID', '--ids needs the registry: set TURNPIKE_REGISTRY to its URL.');
  mkdirSync(options.out, { recursive: true });
  for (const service of services) {
    const grants = await issueGrants(manifest, service, {
      environment: options.env,
      issuer: options.issuer,
      nowMs: Date.now(),
      lifetimeS: days * 86_400,
      key: { key },
      ...(registry ? { registry } : {}),
    });
    for (const { principal, claims, token } of grants) {
      const of = grants.length === 1 ? '' : `.${principal.replace(/[^A-Za-z0-9_-]+/g, '_')}`;
      const file = path.join(options.out, `${service.name}.${options.env}${of}.grant`);
      writeFileSync(file, `${token}\n`);
      console.log(`${file}: ${principal}, revision ${claims.rev}, mode ${claims.mode}, until ${date(claims.exp)}`);
    }
  }
}

/** Prints a grant whoever signed it; exit code 1 where nobody known did. */
export async function show(file: string, { rootKeys, json }: { readonly rootKeys: string; readonly json?: boolean }): Promise<void> {
  let token: string;
  try {
    token = readFileSync(file, 'utf8').trim();
  } catch (error) {
    throw new TurnpikeError('GRANT_MISSING', `${file} can't be read: ${(error as Error).message}.`);
  }
  const claims = checkClaims(decodeGrant(token).claims);
  const pinned = existsSync(rootKeys) ? (JSON.parse(readFileSync(rootKeys, 'utf8')) as { keys: GrantKey[] }).keys : [];
  const keys = claims.aud === LOCAL_ENVIRONMENT ? [...pinned, developmentKey.publicJwk] : pinned;
  const verdict = await verifyGrant(token, { rootKeys: keys, audience: claims.aud, principal: claims.sub, clock: systemClock }).then(
    () => 'valid',
    (error: TurnpikeError) => error.message,
  );
  console.log(json ? JSON.stringify({ ...claims, signature: verdict }, null, 2) : describe(claims, verdict));
  if (verdict !== 'valid') process.exitCode = Exit.error;
}

function describe(claims: GrantClaims, verdict: string): string {
  const expired = isExpired(claims, systemClock) ? ` (expired; then it says ${claims.onExpiry})` : '';
  const lines = [
    `principal    ${claims.sub}`,
    `environment  ${claims.aud}`,
    `signature    ${verdict}`,
    `issued by    ${claims.iss}, revision ${claims.rev}`,
    `valid        ${date(claims.nbf)} to ${date(claims.exp)}${expired}`,
    `mode         ${claims.mode} for what isn't listed`,
    ...claims.topics.map((t) => `topic        ${t.name} on ${t.cluster}: ${t.ops.join(', ')} (${t.mode})`),
    ...claims.groups.map((g) => `group        ${g}`),
    ...claims.quotas.map(
      (q) =>
        `quota        ${q.topic ?? 'all topics'}${q.group ? ` in ${q.group}` : ''}: ${q.rate} ${q.unit}/s over ${q.maxInstances} instances, burst ${q.burst}`,
    ),
    ...claims.schemas.map((s) => `schema       ${s.subject}: id ${s.id}`),
  ];
  return lines.join('\n');
}

function signingKey({ key, env }: IssueOptions): GrantKey {
  if (key === undefined) {
    if (env === LOCAL_ENVIRONMENT) return developmentKey.privateJwk;
    throw new TurnpikeError('CONFIG_INVALID', `A grant for ${env} needs a key: --key FILE, as turnpike grant keygen makes it.`);
  }
  try {
    return JSON.parse(readFileSync(key, 'utf8')) as GrantKey;
  } catch (error) {
    // Only what the system says of the file: a parser's error would quote it.
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `${key} is no private key in JWK form${(error as NodeJS.ErrnoException).code ? ` (${(error as NodeJS.ErrnoException).code})` : ''}.`,
    );
  }
}

const date = (seconds: number): string => new Date(seconds * 1000).toISOString().slice(0, 16).replace('T', ' ');
