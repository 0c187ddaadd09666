import { isDeepStrictEqual } from 'node:util';
import { isTurnpikeError, TurnpikeError } from '@turnpike/core';
import type { GrantClaims, SchemaRef } from '@turnpike/core/spi';
import { selfContained } from './avro/inline.ts';
import { fingerprint } from './fingerprint.ts';
import type { RegistryClient, RegistryReference } from './registry.ts';

/** The ids of one registry. An id means nothing in another. */
export interface SchemaIds {
  /** Rejects with SCHEMA_UNKNOWN (nobody has registered it) or SCHEMA_UNAVAILABLE (retriable). Never registers. */
  idOf(ref: SchemaRef, text: string): Promise<number>;
  /** A writer's schema, self-contained. Rejects likewise. */
  textOf(id: number): Promise<WriterText>;
}

export interface WriterText {
  readonly text: string;
  /** What the registered text refers to; already part of `text`. */
  readonly references: readonly RegistryReference[];
}

/** How many versions of a subject are looked through for one that was registered with references. */
const maxVersionsTried = 50;

/** Ids from a registry: looked up by text, cached for ever once known; a failure is not cached. */
export function registryIds(registry: RegistryClient): SchemaIds {
  const ids = new Map<string, Promise<number>>();
  return {
    idOf(ref, text) {
      const key = `${ref.subject}\0${ref.sha256}`;
      const known = ids.get(key);
      if (known) return known;
      const asked = idByText(registry, ref.subject, text);
      ids.set(key, asked);
      asked.catch(() => ids.delete(key));
      return asked;
    },
    async textOf(id) {
      const { text, references, format } = await registry.schemaById(id);
      if (format !== 'avro')
        throw new TurnpikeError(
          'SCHEMA_INCOMPATIBLE',
          `The schema with id ${id} is of the format ${format}, but this service reads Avro; whoever writes such records must use the topic's own schema.`,
        );
      return { text: await whole(registry, { text, references }), references };
    },
  };
}

/** A service holds its schema self-contained. One that CI registered with references stands in the registry in another text, so its versions are put together and compared, newest first. */
async function idByText(registry: RegistryClient, subject: string, text: string): Promise<number> {
  try {
    return await registry.lookupId(subject, text);
  } catch (error) {
    if (!isTurnpikeError(error) || error.code !== 'SCHEMA_UNKNOWN') throw error;
    const latest = await registry.latest(subject);
    if (!latest) throw error;
    for (let version = latest.version; version > Math.max(0, latest.version - maxVersionsTried); version--) {
      const candidate = version === latest.version ? latest : await registry.version(subject, version).catch(absent);
      if (candidate?.format !== 'avro' || candidate.references.length === 0) continue;
      if (isDeepStrictEqual(JSON.parse(await whole(registry, candidate)), JSON.parse(text))) return candidate.id;
    }
    throw error;
  }
}

function absent(error: unknown): undefined {
  if (isTurnpikeError(error) && error.code === 'SCHEMA_UNKNOWN') return undefined;
  throw error;
}

async function whole(registry: RegistryClient, { text, references }: WriterText): Promise<string> {
  return references.length === 0 ? text : selfContained(text, await textsOf(registry, references));
}

/** The texts of references and of what those refer to, each before those that need it. */
async function textsOf(registry: RegistryClient, references: readonly RegistryReference[], seen = new Set<string>()): Promise<readonly string[]> {
  const texts: string[] = [];
  for (const { subject, version } of references) {
    const key = `${subject}\0${version}`;
    if (seen.has(key)) continue;
    seen.add(key);
    const found = await registry.version(subject, version);
    texts.push(...(await textsOf(registry, found.references, seen)), found.text);
  }
  return texts;
}

/** Ids that the platform put into the grant, so that a service starts with the registry down; what isn't there is asked of `fallback`. */
export function grantIds(schemas: GrantClaims['schemas'], fallback?: SchemaIds): SchemaIds {
  return {
    async idOf(ref, text) {
      const granted = schemas.find((s) => s.subject === ref.subject && s.sha256 === ref.sha256);
      if (granted) return granted.id;
      if (fallback) return fallback.idOf(ref, text);
      throw new TurnpikeError(
        'SCHEMA_UNKNOWN',
        `The grant has no id for the schema of ${ref.subject} (${ref.sha256.slice(0, 12)}) and there is no registry to ask; set TURNPIKE_REGISTRY, or issue a grant that has it: turnpike grant issue.`,
        { subject: ref.subject },
      );
    },
    async textOf(id) {
      if (fallback) return fallback.textOf(id);
      throw new TurnpikeError('SCHEMA_UNKNOWN', `Nobody can be asked for the schema with id ${id}: set TURNPIKE_REGISTRY.`);
    },
  };
}

/** Ids without a registry, for the memory transport: made from the fingerprint, the same in every process. Serdes that exchange records share one instance, since it keeps the texts. */
export function localIds(): SchemaIds {
  const texts = new Map<number, string>();
  return {
    async idOf(_ref, text) {
      let id = Number.parseInt(fingerprint(text).slice(0, 8), 16) >>> 1;
      while (texts.has(id) && texts.get(id) !== text) id = (id + 1) & 0x7fffffff;
      texts.set(id, text);
      return id;
    },
    async textOf(id) {
      const text = texts.get(id);
      if (text === undefined)
        throw new TurnpikeError(
          'SCHEMA_UNKNOWN',
          `No schema with id ${id} was written in this process; without a registry only its own events can be read. Set TURNPIKE_REGISTRY.`,
        );
      return { text, references: [] };
    },
  };
}
