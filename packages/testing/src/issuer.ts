import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { calculateJwkThumbprint, createLocalJWKSet, exportJWK, exportPKCS8, generateKeyPair, type JWK, jwtVerify } from 'jose';
import Provider, { type AdapterPayload, errors } from 'oidc-provider';
import type { Certificate } from './certificates.ts';
import { close, listen } from './loopback.ts';

export type ClientMethod = 'client_secret_basic' | 'client_secret_post' | 'private_key_jwt';

/** How a client of the issuer proves itself. */
export interface IssuerClient {
  readonly clientId: string;
  readonly secret?: string;
  /** PKCS#8 PEM for private_key_jwt, ES256. */
  readonly privateKeyPem?: string;
}

/** A real OpenID provider on loopback: client_credentials by client_secret_basic, client_secret_post or private_key_jwt; JWT access tokens for the brokers and the registry. */
export interface Issuer extends AsyncDisposable {
  readonly url: string;
  readonly tokenUrl: string;
  readonly jwksUrl: string;
  readonly audience: string;
  readonly scope: string;
  readonly tokensIssued: number;
  readonly tokensRefused: number;
  /** A client by that id; again = a new secret or key. */
  addClient(clientId: string, method?: ClientMethod): Promise<IssuerClient>;
  /** The subject of a token that it has issued. Rejects for any other. */
  verify(token: string): Promise<string>;
  /** Closes its port: connections are refused. */
  down(): Promise<void>;
  /** Opens the same port again. */
  up(): Promise<void>;
}

const AUDIENCE = 'kafka';
const SCOPE = 'kafka';
const RESOURCE = 'urn:turnpike:kafka';

export async function startIssuer(options: { readonly certificate: Certificate; readonly tokenTtlSeconds: number }): Promise<Issuer> {
  const { certificate, tokenTtlSeconds } = options;
  const clients = new Map<string, AdapterPayload>();
  const signing = await signingKey('RS256');
  const counts = { issued: 0, refused: 0 };
  let handler: ((request: IncomingMessage, response: ServerResponse) => unknown) | undefined;
  const server = createServer({ key: certificate.key, cert: certificate.cert }, (request, response) => void handler?.(request, response));
  await listen(server, 0);
  const { port } = server.address() as AddressInfo;
  const url = `https://127.0.0.1:${port}`;
  const provider = quietly(
    () =>
      new Provider(url, {
        adapter: memoryAdapter(clients),
        jwks: { keys: [signing as never] },
        cookies: { keys: [crypto.randomUUID()] },
        clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt'],
        scopes: [SCOPE],
        ttl: { ClientCredentials: tokenTtlSeconds },
        features: {
          devInteractions: { enabled: false },
          clientCredentials: { enabled: true },
          resourceIndicators: {
            enabled: true,
            defaultResource: () => RESOURCE,
            useGrantedResource: () => true,
            getResourceServerInfo(_context, resource) {
              if (resource !== RESOURCE) throw new errors.InvalidTarget();
              return { scope: SCOPE, audience: AUDIENCE, accessTokenFormat: 'jwt', accessTokenTTL: tokenTtlSeconds, jwt: { sign: { alg: 'RS256' } } };
            },
          },
        },
      }),
  );
  provider.on('grant.success', () => void counts.issued++);
  provider.on('grant.error', () => void counts.refused++);
  handler = provider.callback();
  const keys = createLocalJWKSet({ keys: [publicPart(signing)] });

  return {
    url,
    tokenUrl: `${url}/token`,
    jwksUrl: `${url}/jwks`,
    audience: AUDIENCE,
    scope: SCOPE,
    get tokensIssued() {
      return counts.issued;
    },
    get tokensRefused() {
      return counts.refused;
    },
    async addClient(clientId, method = 'client_secret_basic') {
      const common = { client_id: clientId, redirect_uris: [], response_types: [], grant_types: ['client_credentials'], token_endpoint_auth_method: method };
      if (method !== 'private_key_jwt') {
        const secret = crypto.randomUUID();
        clients.set(clientId, { ...common, client_secret: secret });
        return { clientId, secret };
      }
      const { privateKey, publicKey } = await generateKeyPair('ES256', { extractable: true });
      const jwk = { ...(await exportJWK(publicKey)), kid: clientId, use: 'sig', alg: 'ES256' };
      clients.set(clientId, { ...common, token_endpoint_auth_signing_alg: 'ES256', jwks: { keys: [jwk as never] } });
      return { clientId, privateKeyPem: await exportPKCS8(privateKey) };
    },
    async verify(token) {
      const { payload } = await jwtVerify(token, keys, { issuer: url, audience: AUDIENCE });
      return String(payload.sub);
    },
    async down() {
      await close(server);
    },
    async up() {
      if (!server.listening) await listen(server, port);
    },
    async [Symbol.asyncDispose]() {
      await close(server);
    },
  };
}

async function signingKey(alg: string): Promise<JWK> {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  const jwk = await exportJWK(privateKey);
  return { ...jwk, kid: await calculateJwkThumbprint(jwk), alg, use: 'sig' };
}

function publicPart({ d: _d, p: _p, q: _q, dp: _dp, dq: _dq, qi: _qi, ...rest }: JWK): JWK {
  return rest;
}

/** oidc-provider's storage port, in memory; clients come from the given map, so that they can be added while it runs. */
function memoryAdapter(clients: ReadonlyMap<string, AdapterPayload>) {
  const stored = new Map<string, AdapterPayload>();
  return class {
    readonly #model: string;
    constructor(model: string) {
      this.#model = model;
    }
    async upsert(id: string, payload: AdapterPayload) {
      stored.set(`${this.#model}:${id}`, payload);
    }
    async find(id: string) {
      return this.#model === 'Client' ? clients.get(id) : stored.get(`${this.#model}:${id}`);
    }
    async findByUserCode() {
      return undefined;
    }
    async findByUid() {
      return undefined;
    }
    async consume() {}
    async destroy(id: string) {
      stored.delete(`${this.#model}:${id}`);
    }
    async revokeByGrantId() {}
  };
}

/** oidc-provider warns on the console of what doesn't matter on loopback. */
function quietly<T>(make: () => T): T {
  const { warn, info } = console;
  console.warn = console.info = () => {};
  try {
    return make();
  } finally {
    console.warn = warn;
    console.info = info;
  }
}
