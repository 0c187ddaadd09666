import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { Certificate } from './certificates.ts';
import { close, listen } from './loopback.ts';

/** A registry on loopback that speaks the Confluent REST API: subjects, versions, ids, references, compatibility levels. Who reads must prove an identity (bearer or client
 *  certificate); only the writers that it was started with may write. */
export interface EmbeddedRegistry extends AsyncDisposable {
  readonly url: string;
  /** Requests answered so far. */
  readonly requests: number;
  down(): Promise<void>;
  up(): Promise<void>;
}

interface Version {
  readonly version: number;
  readonly id: number;
}

interface Reference {
  readonly name: string;
  readonly subject: string;
  readonly version: number;
}

interface Stored {
  readonly schema: string;
  readonly schemaType: string;
  readonly references: readonly Reference[];
}

const LEVELS = ['NONE', 'BACKWARD', 'BACKWARD_TRANSITIVE', 'FORWARD', 'FORWARD_TRANSITIVE', 'FULL', 'FULL_TRANSITIVE'];
const MAX_BODY_BYTES = 4 * 1024 * 1024;

class Refusal extends Error {
  readonly status: number;
  readonly code: number;
  constructor(status: number, code: number, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export async function startRegistry(options: {
  readonly certificate: Certificate;
  readonly writers: readonly string[];
  /** The subject of a bearer token; rejects one that isn't valid. */
  readonly verifyToken: (token: string) => Promise<string>;
}): Promise<EmbeddedRegistry> {
  const store = new Store();
  let requests = 0;
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    requests++;
    try {
      const principal = await principalOf(request, options.verifyToken);
      const method = request.method ?? 'GET';
      const { pathname } = new URL(request.url ?? '/', 'https://localhost');
      const parts = pathname.split('/').filter(Boolean).map(decoded);
      const lookUp = method === 'POST' && parts[0] === 'subjects' && parts.length === 2;
      if (method !== 'GET' && !lookUp && !options.writers.includes(principal)) throw new Refusal(403, 40301, `${principal} may not write`);
      const body = method === 'POST' || method === 'PUT' ? await readBody(request) : {};
      send(response, 200, store.handle(method, parts, body));
    } catch (error) {
      if (error instanceof Refusal) send(response, error.status, { error_code: error.code, message: error.message });
      else send(response, 500, { error_code: 50001, message: (error as Error).message });
    }
  };
  const server = createServer(
    { key: options.certificate.key, cert: options.certificate.cert, ca: options.certificate.ca, requestCert: true, rejectUnauthorized: false },
    (request, response) => void answer(request, response),
  );
  await listen(server, 0);
  const { port } = server.address() as AddressInfo;
  return {
    url: `https://127.0.0.1:${port}`,
    get requests() {
      return requests;
    },
    down: () => close(server),
    up: async () => {
      if (!server.listening) await listen(server, port);
    },
    [Symbol.asyncDispose]: () => close(server),
  };
}

class Store {
  readonly #schemas: Stored[] = [];
  readonly #subjects = new Map<string, Version[]>();
  readonly #levels = new Map<string, string>([['', 'BACKWARD']]);

  handle(method: string, parts: readonly string[], body: Record<string, unknown>): unknown {
    const [root, name, what, which] = parts;
    if (root === 'subjects' && name === undefined && method === 'GET') return [...this.#subjects.keys()];
    if (root === 'subjects' && name !== undefined) {
      if (method === 'POST' && what === undefined) return this.#find(name, body);
      if (method === 'POST' && what === 'versions') return { id: this.#register(name, body).id };
      if (method === 'DELETE' && what === undefined) return this.#delete(name);
      if (method === 'DELETE' && what === 'versions' && which !== undefined) return this.#deleteVersion(name, which);
      if (method === 'GET' && what === 'versions' && which === undefined) return this.#versions(name).map((v) => v.version);
      if (method === 'GET' && what === 'versions' && which !== undefined) return this.#version(name, which);
    }
    if (root === 'schemas' && name === 'ids' && what !== undefined && method === 'GET')
      return which === 'versions' ? this.#usesOf(Number(what)) : this.#byId(Number(what));
    if (root === 'schemas' && name === 'types' && method === 'GET') return ['AVRO', 'JSON', 'PROTOBUF'];
    if (root === 'config' && method === 'GET') return this.#level(name ?? '');
    if (root === 'config' && method === 'PUT') return this.#setLevel(name ?? '', body);
    if (root === 'mode' && method === 'GET') return { mode: 'READWRITE' };
    throw new Refusal(404, 404, `there is no ${method} /${parts.join('/')}`);
  }

  #register(subject: string, body: Record<string, unknown>): Version {
    const stored = storedOf(body);
    for (const { name, subject, version } of stored.references)
      if (!this.#subjects.get(subject)?.some((v) => v.version === version))
        throw new Refusal(422, 42201, `Invalid schema: no schema reference found for subject "${subject}" and version ${version} ("${name}")`);
    const versions = this.#subjects.get(subject) ?? [];
    const same = versions.find((v) => equal(this.#byId(v.id), stored));
    if (same) return same;
    let id = this.#schemas.findIndex((s) => equal(s, stored)) + 1;
    if (id === 0) id = this.#schemas.push(stored);
    const version = { version: (versions.at(-1)?.version ?? 0) + 1, id };
    this.#subjects.set(subject, [...versions, version]);
    return version;
  }

  #find(subject: string, body: Record<string, unknown>): unknown {
    const stored = storedOf(body);
    const found = this.#versions(subject).find((v) => equal(this.#byId(v.id), stored));
    if (!found) throw new Refusal(404, 40403, 'Schema not found');
    return { subject, ...found, ...shown(stored) };
  }

  #versions(subject: string): readonly Version[] {
    const versions = this.#subjects.get(subject);
    if (!versions) throw new Refusal(404, 40401, `Subject '${subject}' not found.`);
    return versions;
  }

  #version(subject: string, which: string): unknown {
    const versions = this.#versions(subject);
    if (which !== 'latest' && !/^[1-9]\d*$/.test(which)) throw new Refusal(422, 42202, `The specified version '${which}' is not a valid version id.`);
    const found = which === 'latest' ? versions.at(-1) : versions.find((v) => v.version === Number(which));
    if (!found) throw new Refusal(404, 40402, `Version ${which} not found.`);
    return { subject, ...found, ...shown(this.#byId(found.id)) };
  }

  #byId(id: number): Stored {
    const stored = this.#schemas[id - 1];
    if (!stored) throw new Refusal(404, 40403, `Schema ${id} not found`);
    return stored;
  }

  #usesOf(id: number): unknown {
    this.#byId(id);
    return [...this.#subjects].flatMap(([subject, versions]) => versions.filter((v) => v.id === id).map((v) => ({ subject, version: v.version })));
  }

  #delete(subject: string): number[] {
    const gone = this.#versions(subject).map((v) => v.version);
    this.#subjects.delete(subject);
    return gone;
  }

  #deleteVersion(subject: string, which: string): number {
    const { version } = this.#version(subject, which) as Version;
    this.#subjects.set(
      subject,
      this.#versions(subject).filter((v) => v.version !== version),
    );
    return version;
  }

  #level(subject: string): unknown {
    const level = this.#levels.get(subject);
    if (level === undefined) throw new Refusal(404, 40408, `Subject '${subject}' does not have subject-level compatibility configured`);
    return { compatibilityLevel: level };
  }

  #setLevel(subject: string, body: Record<string, unknown>): unknown {
    const level = String(body.compatibility);
    if (!LEVELS.includes(level)) throw new Refusal(422, 42203, `Invalid compatibility level. Valid values are ${LEVELS.join(', ')}`);
    this.#levels.set(subject, level);
    return { compatibility: level };
  }
}

function storedOf(body: Record<string, unknown>): Stored {
  const { schema, schemaType = 'AVRO', references = [] } = body;
  if (typeof schema !== 'string') throw new Refusal(422, 42201, 'Invalid schema: no text');
  if (!Array.isArray(references) || !references.every(isReference))
    throw new Refusal(422, 42201, 'Invalid schema: a reference has a name, a subject and a version');
  if (schemaType === 'AVRO' || schemaType === 'JSON') {
    try {
      JSON.parse(schema);
    } catch (error) {
      throw new Refusal(422, 42201, `Invalid schema: ${(error as Error).message}`);
    }
  }
  return { schema, schemaType: String(schemaType), references: references.map(({ name, subject, version }) => ({ name, subject, version })) };
}

function isReference(value: unknown): value is Reference {
  const { name, subject, version } = (value ?? {}) as Record<string, unknown>;
  return typeof name === 'string' && typeof subject === 'string' && Number.isInteger(version);
}

const equal = (a: Stored, b: Stored): boolean =>
  a.schema === b.schema && a.schemaType === b.schemaType && JSON.stringify(a.references) === JSON.stringify(b.references);
/** Confluent's registry leaves out what is the default. */
const shown = (s: Stored) => ({
  schema: s.schema,
  ...(s.schemaType === 'AVRO' ? {} : { schemaType: s.schemaType }),
  ...(s.references.length > 0 ? { references: s.references } : {}),
});

async function principalOf(request: IncomingMessage, verify: (token: string) => Promise<string>): Promise<string> {
  const bearer = /^Bearer (.+)$/i.exec(request.headers.authorization ?? '')?.[1];
  if (bearer !== undefined) {
    return verify(bearer).catch(() => {
      throw new Refusal(401, 40101, 'the bearer token is not valid');
    });
  }
  const socket = request.socket as TLSSocket;
  const name = socket.authorized ? socket.getPeerCertificate().subject?.CN : undefined;
  if (typeof name === 'string') return name;
  throw new Refusal(401, 40101, 'a bearer token or a client certificate is needed');
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new Refusal(400, 400, `${part} is not percent-encoded`);
  }
}

async function readBody(request: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request) {
    bytes += (chunk as Buffer).length;
    if (bytes > MAX_BODY_BYTES) throw new Refusal(413, 41301, 'too large');
    chunks.push(chunk as Buffer);
  }
  try {
    const body: unknown = JSON.parse(Buffer.concat(chunks).toString('utf8'));
    if (typeof body === 'object' && body !== null && !Array.isArray(body)) return body as Record<string, unknown>;
  } catch {
    // As below.
  }
  throw new Refusal(400, 400, 'the body is no JSON object');
}

function send(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/vnd.schemaregistry.v1+json' });
  response.end(JSON.stringify(body));
}
