import type { ConnectionOptions as TlsOptions } from 'node:tls';
import { type API, apiVersionsV3, Connection, type ConnectionOptions, SASLMechanisms } from '@platformatic/kafka';
import { TurnpikeError } from '@turnpike/core';
import type { Identity, LinkContext } from '@turnpike/core/spi';
import { translate, type Where } from './errors.ts';

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** A broker answers a connection's requests in order, so what may wait long at the broker (a fetch, a join) has a connection of its own. */
export type Purpose = 'produce' | 'fetch' | 'group' | 'offsets' | 'metadata' | 'admin';

type SendArguments<R> = Parameters<typeof Connection.prototype.send<R>>;

const SASL_HANDSHAKE = 17;
const SASL_AUTHENTICATE = 36;
/** How long a TCP connection, TLS and authentication may take together, in ms. */
const OPEN_TIMEOUT_MS = 4_500;
/** How long what was written may take to leave at close, in ms: a broker that takes nothing in must not hold it up. */
const CLOSE_MS = 1_000;
/** A broker refuses to re-authenticate a connection twice within a second (KIP-368), in ms, with a margin for clocks that don't run alike. */
const REAUTHENTICATION_INTERVAL_MS = 1_050;

interface OfferedApi {
  readonly apiKey: number;
  readonly minVersion: number;
  readonly maxVersion: number;
}

/** A library connection that holds requests back while it re-authenticates: between handshake and proof the broker takes any other request for an
 *  attack and closes (KIP-368). It also remembers why the socket ended, which the library tells only its event listeners. */
class WireConnection extends Connection {
  /** Why the socket failed. */
  failure: unknown;
  /** What the broker speaks, once the connection is open. */
  offered: readonly OfferedApi[] = [];
  #held: (() => void)[] | undefined;
  /** When the broker had last taken up a new proof, on the monotonic clock in ms. */
  #reauthenticatedAt = Number.NEGATIVE_INFINITY;
  #delay: NodeJS.Timeout | undefined;

  constructor(clientId: string, options: ConnectionOptions) {
    super(clientId, options);
    this.on('error', (error) => {
      this.failure ??= error;
      this.#release();
    });
    this.on('connect', () => this.#release());
    this.on('sasl:handshake', () => {
      if (this.status === 'reauthenticating') this.#reauthenticatedAt = performance.now();
    });
    this.on('close', () => {
      clearTimeout(this.#delay);
      this.#release();
      // The library's timer for the next proof outlives a connection that the broker has ended, and keeps the process alive.
      void this.close().catch(() => {});
    });
  }

  /** A session is as short as what is left of the token that opened it. Where the next one would come too soon, requests wait for it: the broker takes a proof
   *  even after the session's end, and nothing else. */
  override reauthenticate(): void {
    this.#held ??= [];
    const waitMs = this.#reauthenticatedAt + REAUTHENTICATION_INTERVAL_MS - performance.now();
    if (waitMs > 0) {
      this.#delay = setTimeout(() => this.reauthenticate(), waitMs);
      return;
    }
    super.reauthenticate();
  }

  override send<R>(...args: SendArguments<R>): void {
    const [apiKey] = args;
    if (this.#held && apiKey !== SASL_HANDSHAKE && apiKey !== SASL_AUTHENTICATE) this.#held.push(() => super.send(...args));
    else super.send(...args);
  }

  #release(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const send of held) send();
  }
}

/** The connections of one port: at most one to each broker and purpose, opened when first needed and again after a failure. */
export class Connections implements AsyncDisposable {
  readonly #context: LinkContext;
  /** How long a request of this purpose may take, in ms. */
  readonly #timeoutMs: (purpose: Purpose) => number;
  readonly #open = new Map<string, Promise<WireConnection>>();
  /** Those that are opening too. */
  readonly #live = new Set<WireConnection>();
  #closed = false;

  constructor(context: LinkContext, timeoutMs: (purpose: Purpose) => number) {
    this.#context = context;
    this.#timeoutMs = timeoutMs;
  }

  /** Sends one request. Rejects with our error; `where.written` marks what has reached the socket. */
  async call<Args extends unknown[], R>(address: Address, purpose: Purpose, api: API<Args, R>, args: Args, where: Where): Promise<R> {
    const connection = await this.get(address, purpose, where);
    return this.request(connection, api, args, where);
  }

  /** Whether the broker has this version of an API that not every broker has. */
  async speaks(address: Address, purpose: Purpose, { key, version }: { readonly key: number; readonly version: number }, where: Where): Promise<boolean> {
    const { offered } = (await this.get(address, purpose, where)) as WireConnection;
    return offered.some((o) => o.apiKey === key && o.minVersion <= version && version <= o.maxVersion);
  }

  /** On a connection that get() gave. */
  async request<Args extends unknown[], R>(connection: Connection, api: API<Args, R>, args: Args, where: Where): Promise<R> {
    try {
      return await api.async(connection, ...args);
    } catch (error) {
      const { failure } = connection as WireConnection;
      // The broker's answer says more than the socket's end; the socket's error says more than "connection closed".
      const cause = (error as { response?: unknown }).response === undefined && failure !== undefined ? failure : error;
      throw withResponse(translate(cause, { ...this.#facts(connection), ...where }), error);
    }
  }

  get(address: Address, purpose: Purpose, where: Where): Promise<Connection> {
    if (this.#closed) return Promise.reject(new TurnpikeError('CLOSED', `The connection is closed; connect() again to ${where.doing}.`, { written: 'no' }));
    const key = `${address.host}:${address.port} ${purpose}`;
    const existing = this.#open.get(key);
    if (existing)
      return existing.then((connection) => {
        if (isUsable(connection)) return connection;
        // It is closing: nothing that is sent on it would leave.
        if (this.#open.get(key) === existing) this.#open.delete(key);
        return this.get(address, purpose, where);
      });
    const opening = this.#connect(address, purpose, where);
    this.#open.set(key, opening);
    const forget = () => {
      if (this.#open.get(key) === opening) this.#open.delete(key);
    };
    opening.then((connection) => {
      connection.on('close', forget);
      connection.on('error', forget);
      if (!isUsable(connection)) forget();
    }, forget);
    return opening;
  }

  /** Ends a connection at once, with what is still in it. */
  discard(connection: Connection): void {
    connection.socket?.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#open.clear();
    await Promise.all([...this.#live].map(closeWithin));
  }

  async #connect(address: Address, purpose: Purpose, where: Where): Promise<WireConnection> {
    const { clientId, identity } = this.#context;
    const connection = new WireConnection(clientId, {
      connectTimeout: OPEN_TIMEOUT_MS,
      requestTimeout: this.#timeoutMs(purpose),
      maxInflights: 5,
      ...tlsOf(identity, address.host),
      ...(identity.kind === 'oauth' ? { sasl: { mechanism: SASLMechanisms.OAUTHBEARER, authenticate: oauthBearer(identity) } } : {}),
    });
    this.#live.add(connection);
    connection.on('close', () => this.#live.delete(connection));
    const facts = { ...where, broker: `${address.host}:${address.port}`, principal: identity.principal };
    try {
      await connection.connect(address.host, address.port);
      // With TLS 1.3 a refused client certificate shows only in the first answer.
      const { apiKeys } = await answerWithin(OPEN_TIMEOUT_MS, connection, apiVersionsV3.api.async(connection, 'turnpike', '0'));
      checkVersions(apiKeys, facts.broker);
      connection.offered = apiKeys;
    } catch (error) {
      await settleSocket(connection);
      void connection.close().catch(() => {});
      connection.socket?.destroy();
      this.#live.delete(connection);
      throw translate(connection.failure ?? error, facts);
    }
    if (this.#closed) await closeWithin(connection);
    return connection;
  }

  #facts(connection: Connection): { broker: string; principal: string } {
    return { broker: `${connection.host}:${connection.port}`, principal: this.#context.identity.principal };
  }
}

const isUsable = (connection: Connection): boolean => connection.status === 'connected' || connection.status === 'reauthenticating';

/** The first answer: a broker that takes connections and then says nothing is as good as not there. */
async function answerWithin<T>(ms: number, connection: Connection, answer: Promise<T>): Promise<T> {
  const timer = setTimeout(() => connection.socket?.destroy(), ms);
  return answer.finally(() => clearTimeout(timer));
}

/** What was written before may still leave; then the socket ends, whatever the other side does. */
async function closeWithin(connection: Connection): Promise<void> {
  const { socket } = connection;
  if (!isUsable(connection)) {
    socket?.destroy();
    return;
  }
  const late = Promise.withResolvers<void>();
  const timer = setTimeout(late.resolve, CLOSE_MS);
  await Promise.race([connection.close().catch(() => {}), late.promise]);
  clearTimeout(timer);
  socket?.destroy();
}

/** An answer that is partly an error is thrown by the library; its good parts are kept within reach. */
function withResponse(error: TurnpikeError, original: unknown): TurnpikeError {
  const response = (original as { response?: unknown }).response;
  return response === undefined ? error : Object.assign(error, { response });
}

/** A TLS alert may arrive after the request's failure: the socket's own error is waited for, briefly, since it names the cause. */
async function settleSocket(connection: WireConnection): Promise<void> {
  if (connection.failure !== undefined || !connection.socket || connection.socket.destroyed) return;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, 250);
    for (const event of ['error', 'close'] as const)
      connection.once(event, () => {
        clearTimeout(timer);
        resolve();
      });
  });
}

function tlsOf(identity: Identity, host: string): { readonly tls?: TlsOptions } {
  const tls = tlsOptions(identity, host);
  return tls ? { tls } : {};
}

/** This machine's own addresses, as they are written; no name but one leads here for certain. */
const LOOPBACK = /^(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|::1|localhost)$/;

/** undefined = plaintext: for an identity that has nothing to prove, and to this machine only. Elsewhere never: what is written could be read on the way. */
export function tlsOptions(identity: Identity, host: string): TlsOptions | undefined {
  const tls = identity.tls();
  if (!tls && identity.kind === 'none' && LOOPBACK.test(host)) return undefined;
  if (!tls)
    throw new TurnpikeError(
      'IDENTITY_INVALID',
      `${identity.principal} has no TLS material; beyond this machine the wire transport speaks TLS only. Use mtlsIdentity() or oauthIdentity().`,
    );
  const serverName = /^[\d.]+$|:/.test(host) ? {} : { servername: host };
  return { ...tls, ...serverName, minVersion: 'TLSv1.2' };
}

type Authenticate = NonNullable<NonNullable<ConnectionOptions['sasl']>['authenticate']>;

/** RFC 7628: a refused token is answered with a JSON text; one more message gets the broker's own reason. */
function oauthBearer(identity: Identity): Authenticate {
  return (_mechanism, connection, saslAuthenticate, _username, _password, _token, callback) => {
    identity.token().then(
      ({ value }) =>
        saslAuthenticate(connection, Buffer.from(`n,,\x01auth=Bearer ${value}\x01\x01`), (error, response) => {
          if (error || !response || response.authBytes.length === 0) callback(error, response as never);
          else saslAuthenticate(connection, Buffer.from([1]), (refusal) => callback(refusal ?? new Error('the token was refused'), undefined as never));
        }),
      (error: Error) => callback(error, undefined as never),
    );
  };
}

/** API key -> the version that this transport speaks. Together: Apache Kafka 3.3 and newer. */
const SPOKEN: readonly (readonly [key: number, version: number, name: string])[] = [
  [0, 9, 'Produce'],
  [1, 12, 'Fetch'],
  [2, 7, 'ListOffsets'],
  [3, 12, 'Metadata'],
  [8, 8, 'OffsetCommit'],
  [9, 8, 'OffsetFetch'],
  [10, 4, 'FindCoordinator'],
  [11, 9, 'JoinGroup'],
  [22, 4, 'InitProducerId'],
];

function checkVersions(offered: readonly OfferedApi[], broker: string): void {
  for (const [key, version, name] of SPOKEN) {
    const range = offered.find((o) => o.apiKey === key);
    if (range && range.minVersion <= version && version <= range.maxVersion) continue;
    const has = range ? `versions ${range.minVersion} to ${range.maxVersion}` : 'none';
    throw new TurnpikeError(
      'BROKER_REJECTED',
      `${broker} doesn't speak ${name} version ${version} (it has ${has}); the wire transport needs Apache Kafka 3.3 or newer.`,
      { broker },
    );
  }
}
