import { isTurnpikeError, TurnpikeError } from '@turnpike/core';
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

/** A registry that speaks Confluent's REST API (Confluent, Apicurio's ccompat, ours). Every method rejects with SCHEMA_UNAVAILABLE (always retriable) when there is no answer after retries,
 *  or one that is no registry's; with AUTHENTICATION_FAILED or AUTHORIZATION_FAILED on 401 and 403. */
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
  /** With its path, as `https://registry:8081` or `.../apis/ccompat/v7`; without user, password or query. */
  readonly url: string;
  readonly http: HttpPort;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** How often a request is sent in all when the registry gives no answer, 429 or 5xx (1 to 10). Default 4: three pauses of 100, 200 and 400 ms at most, so that a start-up sees a hiccup through. */
  readonly attempts?: number;
  /** 0 to 1, for the jitter. Default Math.random. */
  readonly random?: () => number;
}

const mediaType = 'application/vnd.schemaregistry.v1+json';
const firstBackoffMs = 100;
const maxBackoffMs = 2_000;

export function registryClient(init: RegistryInit): RegistryClient {
  const { clock = systemClock, logger = silentLogger, attempts = 4, random = Math.random, http } = init;
  if (!Number.isInteger(attempts) || attempts < 1 || attempts > 10)
    throw new TurnpikeError('CONFIG_INVALID', `registryClient.attempts is ${attempts}; it must be a whole number from 1 to 10; the default is 4.`);
  const base = baseOf(init.url);
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
        cause = new Error(`HTTP ${response.status}: ${refusalOf(response).message}`);
      } catch (error) {
        // A missing certificate or a refused client doesn't come back by asking again.
        if (isTurnpikeError(error) && !error.retriable) throw error;
        cause = error;
      }
      if (attempt >= attempts) {
        throw new TurnpikeError(
          'SCHEMA_UNAVAILABLE',
          `The schema registry at ${base} gave no usable answer to ${method} ${path} in ${attempts} attempts (${textOf(cause)}). Check that it is up and reachable from here, and its address (TURNPIKE_REGISTRY).`,
          { cause, retriable: true },
        );
      }
      const backoffMs = Math.min(maxBackoffMs, firstBackoffMs * 2 ** (attempt - 1)) * (0.5 + random() / 2);
      logger.debug('registry.retry', { method, path, attempt, backoffMs: Math.round(backoffMs) });
      await pause(clock, backoffMs);
    }
  };

  const call = async (method: 'GET' | 'POST' | 'PUT', path: string, body?: unknown): Promise<Answer> => {
    const response = await exchange(method, path, body);
    const { status } = response;
    if (status === 401 || status === 403) {
      throw new TurnpikeError(
        status === 401 ? 'AUTHENTICATION_FAILED' : 'AUTHORIZATION_FAILED',
        `The schema registry at ${base} refused ${method} ${path} (HTTP ${status}). ${status === 401 ? 'Check the identity of this process.' : forbidden(method, path)}`,
      );
    }
    return status >= 400 ? { status, json: undefined, ...refusalOf(response) } : { status, json: parsed(response, base), message: '', absent: false };
  };

  const unexpected = (what: string, { status, message }: Answer) =>
    unavailable(`The schema registry at ${base} answered ${what} with HTTP ${status}: ${message}. Check that the address is a Confluent-compatible API.`);

  const sourceBody = (text: string, { format = 'avro', references = [] }: SchemaSource = {}) => ({
    schema: text,
    ...(format === 'avro' ? {} : { schemaType: format.toUpperCase() }),
    ...(references.length === 0 ? {} : { references }),
  });

  const subjectVersion = async (subject: string, version: number | 'latest'): Promise<SubjectVersion | undefined> => {
    const answer = await call('GET', `/subjects/${encodeURIComponent(subject)}/versions/${version}`);
    if (answer.absent) return undefined;
    if (answer.status >= 400) throw unexpected(`for ${subject} version ${version}`, answer);
    const fields = objectOf(answer.json, base);
    return { ...registered(fields, idOf(fields.id, base), base), subject, version: idOf(fields.version, base) };
  };

  return {
    async lookupId(subject, text, source) {
      const answer = await call('POST', `/subjects/${encodeURIComponent(subject)}`, sourceBody(text, source));
      const { status, message } = answer;
      if (answer.absent) {
        throw new TurnpikeError(
          'SCHEMA_UNKNOWN',
          `The schema of ${subject} as locked is not registered at ${base} (${message}). A service never registers: have CI run turnpike apply for this environment, then start again.`,
          { subject },
        );
      }
      if (status === 422)
        throw new TurnpikeError('SCHEMA_INVALID', `The schema registry at ${base} can't read the schema of ${subject}: ${message}.`, { subject });
      if (status >= 400) throw unexpected(`for ${subject}`, answer);
      return idOf(objectOf(answer.json, base).id, base);
    },
    schemaById: (id) =>
      byId(id, async () => {
        const answer = await call('GET', `/schemas/ids/${id}`);
        if (answer.absent)
          throw new TurnpikeError(
            'SCHEMA_UNKNOWN',
            `The schema registry at ${base} has no schema with id ${id}; the record was written with another registry, or it is not the registry of this environment.`,
          );
        if (answer.status >= 400) throw unexpected(`for the schema with id ${id}`, answer);
        return registered(objectOf(answer.json, base), id, base);
      }),
    async register(subject, text, source) {
      const answer = await call('POST', `/subjects/${encodeURIComponent(subject)}/versions`, sourceBody(text, source));
      const { status, message } = answer;
      if (status === 409)
        throw new TurnpikeError(
          'SCHEMA_INCOMPATIBLE',
          `${subject}: the new schema breaks its compatibility level: ${message}. Change the schema, or the level in turnpike.yaml.`,
          { subject },
        );
      if (status === 422) throw new TurnpikeError('SCHEMA_INVALID', `${subject}: the registry refuses the schema: ${message}.`, { subject });
      if (status >= 400) throw unexpected(`to registering ${subject}`, answer);
      return idOf(objectOf(answer.json, base).id, base);
    },
    async setCompatibility(subject, level) {
      const answer = await call('PUT', `/config/${encodeURIComponent(subject)}`, { compatibility: level });
      if (answer.status >= 400) throw unexpected(`to setting the compatibility of ${subject} to ${level}`, answer);
    },
    async compatibility(subject) {
      const answer = await call('GET', `/config/${encodeURIComponent(subject)}`);
      if (answer.absent) return undefined;
      if (answer.status >= 400) throw unexpected(`for the compatibility of ${subject}`, answer);
      const level = objectOf(answer.json, base).compatibilityLevel;
      if (typeof level !== 'string') throw unknownForm(base);
      return level as CompatibilityLevel;
    },
    async subjects() {
      const answer = await call('GET', '/subjects');
      if (answer.status >= 400) throw unexpected('for its subjects', answer);
      if (!Array.isArray(answer.json)) throw unknownForm(base);
      return answer.json.map(String);
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

interface Answer {
  readonly status: number;
  readonly json: unknown;
  readonly message: string;
  /** The registry itself says that it has no such subject, version, schema or setting. */
  readonly absent: boolean;
}

/** The address without its last slashes. Never prints a password that stands in it. */
function baseOf(text: string): string {
  const url = URL.parse(text);
  const wrong = (what: string) =>
    new TurnpikeError(
      'CONFIG_INVALID',
      `The registry's address ${JSON.stringify(text.replace(/\/\/.*@/, '//***@').replace(/\?.*/, '?...'))} ${what} (TURNPIKE_REGISTRY).`,
    );
  if (!url || !/^https?:\/\/[^/]/.test(text)) throw wrong('must begin with https:// or http:// and name a host');
  if (url.username !== '' || url.password !== '') throw wrong("must not hold a user or password; this process's identity is its proof");
  if (url.search !== '' || url.hash !== '' || /[?#]/.test(text)) throw wrong('must end with its path, without a query or #');
  return text.replace(/\/+$/, '');
}

/** What went wrong, without its code and without a full stop. */
const textOf = (cause: unknown): string => (cause instanceof Error ? cause.message.replace(/^\[\w+\] /, '').replace(/\.$/, '') : String(cause));

const forbidden = (method: string, path: string): string =>
  method === 'PUT' || path.endsWith('/versions')
    ? 'Services may read; only CI may register: run turnpike apply there.'
    : 'This identity may not read there: have it let in, or correct the address (TURNPIKE_REGISTRY).';

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

function registered(fields: Readonly<Record<string, unknown>>, id: number, base: string): RegisteredSchema {
  if (typeof fields.schema !== 'string') throw unknownForm(base);
  const type = String(fields.schemaType ?? 'AVRO').toLowerCase();
  const references = Array.isArray(fields.references) ? fields.references : [];
  return {
    id,
    text: fields.schema,
    format: type === 'json' || type === 'protobuf' ? type : 'avro',
    references: references.map((reference: unknown) => {
      const { name, subject, version } = objectOf(reference, base);
      if (typeof name !== 'string' || typeof subject !== 'string') throw unknownForm(base);
      return { name, subject, version: idOf(version, base) };
    }),
  };
}

/** What a 4xx says. Only with the registry's own code (40401, 40402, 40403, 40408, ...) does 404 mean that it lacks the thing; any other server has a 404 for a wrong path. */
function refusalOf(response: HttpResponse): Pick<Answer, 'message' | 'absent'> {
  try {
    const body = JSON.parse(response.body) as { message?: unknown; error_code?: unknown };
    const absent = response.status === 404 && Number(body.error_code) >= 40_400;
    if (typeof body.message === 'string') return { message: body.message.slice(0, 500), absent };
    return { message: `HTTP ${response.status}`, absent };
  } catch {
    // Not JSON: a proxy's page.
    return { message: `HTTP ${response.status}`, absent: false };
  }
}

/** Always retriable, and so never a reason to give up a record: the next answer may be a registry's again. */
function unavailable(message: string, cause?: unknown): TurnpikeError {
  return new TurnpikeError('SCHEMA_UNAVAILABLE', message, { retriable: true, ...(cause === undefined ? {} : { cause }) });
}

function unknownForm(base: string): TurnpikeError {
  return unavailable(`The schema registry at ${base} answered in an unknown form; check that the address is a Confluent-compatible API.`);
}

function parsed(response: HttpResponse, base: string): unknown {
  try {
    return JSON.parse(response.body);
  } catch (cause) {
    throw unavailable(`The schema registry at ${base} answered with something other than JSON; check its address.`, cause);
  }
}

function objectOf(json: unknown, base: string): Readonly<Record<string, unknown>> {
  if (typeof json === 'object' && json !== null && !Array.isArray(json)) return json as Readonly<Record<string, unknown>>;
  throw unknownForm(base);
}

/** An id or a version: what the wire format's int32 holds. */
function idOf(value: unknown, base: string): number {
  if (Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 0x7fffffff) return value as number;
  throw unknownForm(base);
}
