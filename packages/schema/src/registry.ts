import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type Clock, type HttpPort, type HttpResponse, type Logger, pause, silentLogger, systemClock } from '@turnpike/core/spi';

/** Confluent's API names a referenced schema by what the text calls it, its subject and version. */
export interface RegistryReference {
  readonly name: string;
  readonly subject: string;
  readonly version: number;
}

export interface RegisteredSchema {
  readonly id: number;
  readonly text: string;
  readonly format: SchemaFormat;
  readonly references: readonly RegistryReference[];
}

export interface SubjectVersion extends RegisteredSchema {
  readonly subject: string;
  readonly version: number;
}

export type SchemaFormat = 'avro' | 'json' | 'protobuf';
export type CompatibilityLevel = 'NONE' | 'BACKWARD' | 'BACKWARD_TRANSITIVE' | 'FORWARD' | 'FORWARD_TRANSITIVE' | 'FULL' | 'FULL_TRANSITIVE';

export interface SchemaSource {
  /** Default "avro". */
  readonly format?: SchemaFormat;
  /** Default none. */
  readonly references?: readonly RegistryReference[];
}

/** A registry that speaks Confluent's REST API (Confluent, Apicurio's ccompat, ours). Every method rejects with SCHEMA_UNAVAILABLE (retriable) when there is no answer after retries,
 *  AUTHENTICATION_FAILED or AUTHORIZATION_FAILED on 401 and 403. */
export interface RegistryClient {
  /** The id of a text that is registered under the subject. SCHEMA_UNKNOWN if it isn't. */
  lookupId(subject: string, text: string, source?: SchemaSource): Promise<number>;
  /** Cached for ever: an id never changes its meaning. SCHEMA_UNKNOWN. */
  schemaById(id: number): Promise<RegisteredSchema>;
  /** Only for CI (`turnpike apply`): a service never registers. The id, also when it was there already. SCHEMA_INCOMPATIBLE, SCHEMA_INVALID. */
  register(subject: string, text: string, source?: SchemaSource): Promise<number>;
  setCompatibility(subject: string, level: CompatibilityLevel): Promise<void>;
  /** The subject's own level; undefined = the registry's default holds. */
  compatibility(subject: string): Promise<CompatibilityLevel | undefined>;
  subjects(): Promise<readonly string[]>;
  /** undefined = there is no such subject. */
  latest(subject: string): Promise<SubjectVersion | undefined>;
  /** Cached for ever. SCHEMA_UNKNOWN. */
  version(subject: string, version: number): Promise<SubjectVersion>;
}

export interface RegistryInit {
  /** With its path, as `https://registry:8081` or `.../apis/ccompat/v7`. */
  readonly url: string;
  readonly http: HttpPort;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** How often a request is sent in all when the registry gives no answer, 429 or 5xx (1 to 10). Default 4: with back-off under 2 s in all, so that a start-up sees a restart through. */
  readonly attempts?: number;
  /** 0 to 1, for the jitter. Default Math.random. */
  readonly random?: () => number;
}

const mediaType = 'application/vnd.schemaregistry.v1+json';
const firstBackoffMs = 100;
const maxBackoffMs = 2_000;

export function registryClient(init: RegistryInit): RegistryClient {
  const { clock = systemClock, logger = silentLogger, attempts = 4, random = Math.random, http } = init;
  if (!/^https?:\/\/[^/]/.test(init.url))
    throw new TurnpikeError('CONFIG_INVALID', `The registry's address ${JSON.stringify(init.url)} must begin with https:// or http:// (TURNPIKE_REGISTRY).`);
  const base = init.url.replace(/\/+$/, '');
  const byId = cached<number, RegisteredSchema>();
  const byVersion = cached<string, SubjectVersion>();

  /** Sends until there is an answer below 500 other than 429. */
  const exchange = async (method: 'GET' | 'POST' | 'PUT', path: string, body?: unknown): Promise<HttpResponse> => {
    const request = {
      url: base + path,
      method,
      headers: { accept: `${mediaType}, application/json`, ...(body === undefined ? {} : { 'content-type': mediaType }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    };
    for (let attempt = 1; ; attempt++) {
      let cause: unknown;
      try {
        const response = await http.request(request);
        if (response.status < 500 && response.status !== 429) return response;
        cause = new Error(`HTTP ${response.status}: ${errorOf(response).message}`);
      } catch (error) {
        const known = asTurnpikeError(error, 'SCHEMA_UNAVAILABLE', 'no answer', { retriable: true });
        // A missing certificate or token doesn't come back by asking again.
        if (!known.retriable && known.code !== 'SCHEMA_UNAVAILABLE' && known.code !== 'PLATFORM_UNAVAILABLE') throw known;
        cause = error;
      }
      if (attempt >= attempts) {
        throw new TurnpikeError(
          'SCHEMA_UNAVAILABLE',
          `The schema registry at ${base} gave no usable answer to ${method} ${path} in ${attempts} attempts; check that it is up and reachable from here.`,
          {
            cause,
            retriable: true,
          },
        );
      }
      const backoffMs = Math.min(maxBackoffMs, firstBackoffMs * 2 ** (attempt - 1)) * (0.5 + random() / 2);
      logger.debug('registry.retry', { method, path, attempt, backoffMs: Math.round(backoffMs) });
      await pause(clock, backoffMs);
    }
  };

  const call = async (method: 'GET' | 'POST' | 'PUT', path: string, body?: unknown): Promise<{ status: number; json: unknown; message: string }> => {
    const response = await exchange(method, path, body);
    if (response.status === 401 || response.status === 403) {
      throw new TurnpikeError(
        response.status === 401 ? 'AUTHENTICATION_FAILED' : 'AUTHORIZATION_FAILED',
        `The schema registry at ${base} refused ${method} ${path} (HTTP ${response.status}). ${response.status === 401 ? 'Check the identity of this process.' : 'Services may read; only CI may register: run turnpike apply there.'}`,
      );
    }
    if (response.status >= 400) return { status: response.status, json: undefined, message: errorOf(response).message };
    return { status: response.status, json: parsed(response, base), message: '' };
  };

  const unexpected = (what: string, status: number, message: string) =>
    new TurnpikeError(
      'SCHEMA_UNAVAILABLE',
      `The schema registry at ${base} answered ${what} with HTTP ${status}: ${message}. Check that the address is a Confluent-compatible API.`,
    );

  const sourceBody = (text: string, { format = 'avro', references = [] }: SchemaSource = {}) => ({
    schema: text,
    ...(format === 'avro' ? {} : { schemaType: format.toUpperCase() }),
    ...(references.length === 0 ? {} : { references }),
  });

  const subjectVersion = async (subject: string, version: number | 'latest'): Promise<SubjectVersion | undefined> => {
    const { status, json, message } = await call('GET', `/subjects/${encodeURIComponent(subject)}/versions/${version}`);
    if (status === 404) return undefined;
    if (status >= 400) throw unexpected(`for ${subject} version ${version}`, status, message);
    const fields = objectOf(json, base);
    return { ...registered(fields, numberOf(fields.id, base)), subject, version: numberOf(fields.version, base) };
  };

  return {
    async lookupId(subject, text, source) {
      const { status, json, message } = await call('POST', `/subjects/${encodeURIComponent(subject)}`, sourceBody(text, source));
      if (status === 404) {
        throw new TurnpikeError(
          'SCHEMA_UNKNOWN',
          `The schema of ${subject} as locked is not registered at ${base} (${message}). A service never registers: have CI run turnpike apply for this environment, then start again.`,
          { subject },
        );
      }
      if (status === 422)
        throw new TurnpikeError('SCHEMA_INVALID', `The schema registry at ${base} can't read the schema of ${subject}: ${message}.`, { subject });
      if (status >= 400) throw unexpected(`for ${subject}`, status, message);
      return numberOf(objectOf(json, base).id, base);
    },
    schemaById: (id) =>
      byId(id, async () => {
        const { status, json, message } = await call('GET', `/schemas/ids/${id}`);
        if (status === 404)
          throw new TurnpikeError(
            'SCHEMA_UNKNOWN',
            `The schema registry at ${base} has no schema with id ${id}; the record was written with another registry, or it is not the registry of this environment.`,
          );
        if (status >= 400) throw unexpected(`for the schema with id ${id}`, status, message);
        return registered(objectOf(json, base), id);
      }),
    async register(subject, text, source) {
      const { status, json, message } = await call('POST', `/subjects/${encodeURIComponent(subject)}/versions`, sourceBody(text, source));
      if (status === 409)
        throw new TurnpikeError(
          'SCHEMA_INCOMPATIBLE',
          `${subject}: the new schema breaks its compatibility level: ${message}. Change the schema, or the level in turnpike.yaml.`,
          { subject },
        );
      if (status === 422) throw new TurnpikeError('SCHEMA_INVALID', `${subject}: the registry refuses the schema: ${message}.`, { subject });
      if (status >= 400) throw unexpected(`to registering ${subject}`, status, message);
      return numberOf(objectOf(json, base).id, base);
    },
    async setCompatibility(subject, level) {
      const { status, message } = await call('PUT', `/config/${encodeURIComponent(subject)}`, { compatibility: level });
      if (status >= 400) throw unexpected(`to setting the compatibility of ${subject} to ${level}`, status, message);
    },
    async compatibility(subject) {
      const { status, json, message } = await call('GET', `/config/${encodeURIComponent(subject)}`);
      if (status === 404) return undefined;
      if (status >= 400) throw unexpected(`for the compatibility of ${subject}`, status, message);
      return objectOf(json, base).compatibilityLevel as CompatibilityLevel;
    },
    async subjects() {
      const { status, json, message } = await call('GET', '/subjects');
      if (status >= 400 || !Array.isArray(json)) throw unexpected('for its subjects', status, message);
      return json.map(String);
    },
    latest: (subject) => subjectVersion(subject, 'latest'),
    version: (subject, version) =>
      byVersion(`${subject}\0${version}`, async () => {
        const found = await subjectVersion(subject, version);
        if (!found) throw new TurnpikeError('SCHEMA_UNKNOWN', `The schema registry at ${base} has no version ${version} of ${subject}.`, { subject });
        return found;
      }),
  };
}

/** One request for all who ask at the same time; a failure is forgotten. */
function cached<K, V>(): (key: K, load: () => Promise<V>) => Promise<V> {
  const values = new Map<K, Promise<V>>();
  return (key, load) => {
    const known = values.get(key);
    if (known) return known;
    const asked = load();
    values.set(key, asked);
    asked.catch(() => values.delete(key));
    return asked;
  };
}

function registered(fields: Readonly<Record<string, unknown>>, id: number): RegisteredSchema {
  const references = Array.isArray(fields.references) ? (fields.references as RegistryReference[]) : [];
  const type = String(fields.schemaType ?? 'AVRO').toLowerCase();
  return {
    id,
    text: String(fields.schema),
    format: type === 'json' || type === 'protobuf' ? type : 'avro',
    references: references.map(({ name, subject, version }) => ({ name, subject, version })),
  };
}

function errorOf(response: HttpResponse): { message: string } {
  try {
    const body = JSON.parse(response.body) as { message?: unknown };
    if (typeof body.message === 'string') return { message: body.message.slice(0, 500) };
  } catch {
    // Not JSON: a proxy's page.
  }
  return { message: `HTTP ${response.status}` };
}

function parsed(response: HttpResponse, base: string): unknown {
  try {
    return JSON.parse(response.body);
  } catch (cause) {
    throw new TurnpikeError('SCHEMA_UNAVAILABLE', `The schema registry at ${base} answered with something other than JSON; check its address.`, { cause });
  }
}

function objectOf(json: unknown, base: string): Readonly<Record<string, unknown>> {
  if (typeof json === 'object' && json !== null && !Array.isArray(json)) return json as Readonly<Record<string, unknown>>;
  throw new TurnpikeError(
    'SCHEMA_UNAVAILABLE',
    `The schema registry at ${base} answered in an unknown form; check that the address is a Confluent-compatible API.`,
  );
}

function numberOf(value: unknown, base: string): number {
  if (Number.isInteger(value)) return value as number;
  throw new TurnpikeError(
    'SCHEMA_UNAVAILABLE',
    `The schema registry at ${base} answered without a number where one belongs; check that the address is a Confluent-compatible API.`,
  );
}
