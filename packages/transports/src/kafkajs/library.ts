import { connect as plainConnect, type Socket } from 'node:net';
import { connect } from 'node:tls';
import { TurnpikeError } from '@turnpike/core';
import type { LinkContext } from '@turnpike/core/spi';
import type * as Library from 'kafkajs';
import { tlsOptions } from '../wire/connections.ts';
import { type AnswerHooks, Answers } from './answers.ts';
import { fillCodecs } from './codecs.ts';
import { type LibraryRequest, readRequest } from './request.ts';

/** What we use of it. */
export type LibraryModule = Pick<typeof Library, 'Kafka' | 'KafkaJSError' | 'logLevel' | 'CompressionCodecs' | 'CompressionTypes'>;

/** How long TCP and TLS may take together, in ms; the proof of an OAUTHBEARER identity has as long again. */
const OPEN_TIMEOUT_MS = 4_500;
/** How long before a session's end kafkajs proves the identity again, in ms. Short, since a session lasts no longer than what is left of its token; it is looked at with each request, and a
 *  broker takes the proof after the end too. */
const REAUTHENTICATION_THRESHOLD_MS = 500;
/** A broker refuses to re-authenticate a connection twice within a second (KIP-368), in ms, with a margin for clocks that don't run alike. */
const REAUTHENTICATION_INTERVAL_MS = 1_050;
/** What a log line may say beside its text: never a payload, which may be a token or a record. */
const LOGGED = ['broker', 'error', 'groupId', 'topic', 'partition', 'retryCount'] as const;

/** kafkajs itself: an optional peer, so it is looked for when it is needed. @throws TurnpikeError CONFIG_INVALID. */
export async function loadLibrary(): Promise<LibraryModule> {
  try {
    const { default: library } = await import('kafkajs');
    fillCodecs(library);
    return library;
  } catch (cause) {
    if ((cause as { code?: string }).code !== 'ERR_MODULE_NOT_FOUND') throw cause;
    throw new TurnpikeError('CONFIG_INVALID', 'kafkajsTransport() needs kafkajs, which is not installed here; run: npm install kafkajs', { cause });
  }
}

/** What becomes of a request on its way to the socket: undefined = it goes; a promise = it goes when that is fulfilled. */
export type Intercept = (request: LibraryRequest) => Promise<void> | undefined;

export interface LibraryClientParts {
  readonly library: LibraryModule;
  readonly context: LinkContext;
  /** host:port of brokers to begin with. */
  readonly addresses: () => readonly string[];
  readonly requestTimeoutMs: number;
  readonly intercept?: Intercept;
  readonly answers?: Omit<AnswerHooks, 'onThrottled'>;
  /** The id of the broker at an address. */
  readonly brokerAt: (host: string, port: number) => number | undefined;
}

/** One kafkajs client, on sockets of ours: they take up renewed certificates, end when they are told to, and show each request before it goes, which is the only way to have partitions drained
 *  before kafkajs gives them up. */
export class LibraryClient implements Disposable {
  readonly kafka: Library.Kafka;
  readonly #parts: LibraryClientParts;
  readonly #sockets = new Set<Socket>();
  #closed = false;

  constructor(parts: LibraryClientParts) {
    const { library, context, addresses, requestTimeoutMs } = parts;
    const { identity, clientId, logger } = context;
    this.#parts = parts;
    this.kafka = new library.Kafka({
      brokers: async () => [...addresses()],
      clientId,
      ssl: true,
      ...(identity.kind === 'oauth'
        ? { sasl: { mechanism: 'oauthbearer' as const, oauthBearerProvider: async () => ({ value: (await identity.token()).value }) } }
        : {}),
      connectionTimeout: OPEN_TIMEOUT_MS,
      authenticationTimeout: OPEN_TIMEOUT_MS,
      reauthenticationThreshold: REAUTHENTICATION_THRESHOLD_MS,
      requestTimeout: requestTimeoutMs,
      // For what kafkajs asks by the way (metadata, coordinators); what matters is tried again by us, within deadlines of ours.
      retry: { retries: 2, initialRetryTime: 100, maxRetryTime: 500 },
      logLevel: library.logLevel.WARN,
      logCreator:
        () =>
        ({ namespace, log }) => {
          const facts: Record<string, unknown> = { namespace, message: log.message };
          for (const name of LOGGED) if (['string', 'number'].includes(typeof log[name])) facts[name] = log[name];
          logger.debug('kafkajs.log', facts);
        },
      socketFactory: ({ host, port, onConnect }) => this.#socket(host, port, onConnect),
    });
  }

  /** Ends the sockets at once, with what is still in them; kafkajs gets no new ones. */
  [Symbol.dispose](): void {
    this.#closed = true;
    // With an error, for kafkajs takes no notice of a socket that ends without one, and would watch its requests for ever.
    for (const socket of this.#sockets) socket.destroy(new Error('the client is closed'));
  }

  #socket(host: string, port: number, onConnect: () => void): Socket {
    const { context, intercept, answers: hooks, brokerAt } = this.#parts;
    if (this.#closed) throw new TurnpikeError('CLOSED', 'The client is closed.');
    const tls = tlsOptions(context.identity, host);
    const socket = tls ? connect({ host, port, ...tls }, onConnect) : plainConnect({ host, port }, onConnect);
    socket.setKeepAlive(true, 60_000);
    socket.setMaxListeners(0); // kafkajs may write much before it is open; each write listens for that.
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    const answers = new Answers({ ...hooks, onThrottled: (ms) => context.events.throttled(brokerAt(host, port) ?? -1, ms) });
    const emit = socket.emit.bind(socket);
    const receive = (event: string | symbol, ...args: unknown[]): boolean => {
      const [data] = args;
      if (event !== 'data' || !Buffer.isBuffer(data)) return emit(event, ...args);
      for (const answer of answers.received(data)) emit('data', answer);
      return true;
    };
    socket.emit = receive as typeof socket.emit;
    let provenAt = Number.NEGATIVE_INFINITY;
    const send = socket.write.bind(socket);
    const write = (frame: Buffer): boolean => {
      const request = readRequest(frame);
      const waitMs = request.api === 'saslHandshake' ? provenAt + REAUTHENTICATION_INTERVAL_MS - context.clock.monotonic() : 0;
      if (request.api === 'saslHandshake') provenAt = context.clock.monotonic() + Math.max(waitMs, 0);
      if (waitMs > 0) {
        context.clock.after(waitMs, () => {
          if (!socket.destroyed) send(frame);
        });
        return true;
      }
      answers.asked(request);
      const what = intercept?.(request);
      if (what === undefined) return send(frame);
      void what.then(() => {
        if (!socket.destroyed) send(frame);
      });
      return true;
    };
    // kafkajs writes each request whole, in one call.
    socket.write = write as typeof socket.write;
    return socket;
  }
}
