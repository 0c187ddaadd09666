import { TurnpikeError } from '@turnpike/core';
import type { GrantClaims } from '@turnpike/core/spi';

const MODES = ['shadow', 'warn', 'enforce'];
const UNITS = ['bytesOut', 'recordsOut', 'bytesIn', 'inFlight'];

/** Checks every field of a grant's claims. Claims that are unknown are ignored, as RFC 7519 asks; a later form that must be understood raises `v`.
 *  Throws GRANT_INVALID with the path. */
export function checkClaims(raw: unknown): GrantClaims {
  const c = object(raw, 'claims');
  if (c.v !== 1) throw invalid('v', `is ${JSON.stringify(c.v)}; this SDK reads version 1: update @turnpike/client`);
  oneOf(c.mode, MODES, 'mode');
  for (const name of ['iss', 'aud', 'sub']) text(c[name], name);
  for (const name of ['nbf', 'exp', 'refreshAfterS']) atLeast(c[name], 0, name);
  whole(c.rev, 0, 'rev');
  oneOf(c.onExpiry, ['hold', 'refuse'], 'onExpiry');
  if (c.minSdk !== undefined) text(c.minSdk, 'minSdk');
  if (c.minLingerMs !== undefined) atLeast(c.minLingerMs, 0, 'minLingerMs');
  if (c.binding !== undefined) object(c.binding, 'binding');
  for (const [i, topic] of list(c.topics, 'topics').entries()) {
    const t = object(topic, `topics[${i}]`);
    text(t.cluster, `topics[${i}].cluster`);
    text(t.name, `topics[${i}].name`);
    oneOf(t.mode, MODES, `topics[${i}].mode`);
    for (const [j, op] of list(t.ops, `topics[${i}].ops`).entries()) oneOf(op, ['read', 'write'], `topics[${i}].ops[${j}]`);
  }
  for (const name of ['groups', 'transactionalIdPrefixes']) for (const [i, item] of list(c[name], name).entries()) text(item, `${name}[${i}]`);
  for (const [i, schema] of list(c.schemas, 'schemas').entries()) {
    const s = object(schema, `schemas[${i}]`);
    text(s.subject, `schemas[${i}].subject`);
    text(s.sha256, `schemas[${i}].sha256`);
    whole(s.id, 0, `schemas[${i}].id`);
  }
  const ids = new Set<unknown>();
  for (const [i, quota] of list(c.quotas, 'quotas').entries()) {
    const q = object(quota, `quotas[${i}]`);
    text(q.id, `quotas[${i}].id`);
    text(q.cluster, `quotas[${i}].cluster`);
    if (q.topic !== undefined) text(q.topic, `quotas[${i}].topic`);
    if (q.group !== undefined) text(q.group, `quotas[${i}].group`);
    oneOf(q.unit, UNITS, `quotas[${i}].unit`);
    for (const name of ['rate', 'burst', 'weight', 'safeShare']) atLeast(q[name], 0, `quotas[${i}].${name}`);
    whole(q.maxInstances, 1, `quotas[${i}].maxInstances`);
    // Two buckets of one id would share a level.
    if (ids.has(q.id)) throw invalid(`quotas[${i}].id`, `is ${JSON.stringify(q.id)}, which another quota has`);
    ids.add(q.id);
  }
  return c as unknown as GrantClaims;
}

function object(value: unknown, path: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid(path, 'must be an object');
  return value as Record<string, unknown>;
}

function list(value: unknown, path: string): unknown[] {
  if (!Array.isArray(value)) throw invalid(path, 'must be a list');
  return value;
}

function text(value: unknown, path: string): void {
  if (typeof value !== 'string' || value === '') throw invalid(path, 'must be a string that is not empty');
}

function atLeast(value: unknown, min: number, path: string): void {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < min) throw invalid(path, `must be a number from ${min}`);
}

function whole(value: unknown, min: number, path: string): void {
  if (!Number.isSafeInteger(value) || (value as number) < min) throw invalid(path, `must be a whole number from ${min}`);
}

function oneOf(value: unknown, allowed: readonly string[], path: string): void {
  if (!allowed.includes(value as string)) throw invalid(path, `is ${JSON.stringify(value)}; it must be one of ${allowed.join(', ')}`);
}

function invalid(path: string, what: string): TurnpikeError {
  return new TurnpikeError('GRANT_INVALID', `The grant's ${path} ${what}. Have the platform issue it anew with turnpike grant issue.`, { path });
}
