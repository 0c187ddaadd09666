import { TurnpikeError } from '@turnpike/core';
import type { RegistryClient, RegistryReference } from '@turnpike/schema';

/** Of the schemas listed before it, those whose type a text names: a registry reads a text with what it was registered with, and no more. */
export function referredTo(text: string, before: readonly RegistryReference[]): readonly RegistryReference[] {
  const named = new Set([...text.matchAll(/"([^"\\]*)"/g)].map(([, string]) => string));
  return before.filter(({ name }) => named.has(name) || named.has(name.slice(name.lastIndexOf('.') + 1)));
}

/** The version that an id is under a subject: the newest, most often. A reference is to a version, and to the one that was locked, not to what came after. */
export async function versionOf(registry: Pick<RegistryClient, 'latest' | 'version'>, subject: string, id: number): Promise<number> {
  const latest = await registry.latest(subject);
  for (let version = latest?.version ?? 0; version > 0; version--) {
    if (version === latest?.version ? latest.id === id : (await idAt(registry, subject, version)) === id) return version;
  }
  throw new TurnpikeError('SCHEMA_UNKNOWN', `The registry has id ${id} under no version of ${subject}. Run turnpike apply again.`, { subject });
}

/** undefined = that version was deleted. */
async function idAt(registry: Pick<RegistryClient, 'version'>, subject: string, version: number): Promise<number | undefined> {
  try {
    return (await registry.version(subject, version)).id;
  } catch (error) {
    if (error instanceof TurnpikeError && error.code === 'SCHEMA_UNKNOWN') return undefined;
    throw error;
  }
}
