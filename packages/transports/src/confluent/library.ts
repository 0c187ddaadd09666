import type { KafkaConsumer, LibrdKafkaError, Message, Producer } from '@confluentinc/kafka-javascript';
import { TurnpikeError } from '@turnpike/core';
import { type LinkContext, pause } from '@turnpike/core/spi';
import { tlsOptions } from '../wire/connections.ts';
import type { Control } from '../wire/control.ts';
import { libraryError } from './errors.ts';

export type Config = Record<string, unknown>;

export interface DeliveryReport {
  /** Negative where the broker doesn't say. */
  readonly offset: number;
  readonly timestamp?: number;
  readonly opaque: unknown;
}

export interface Partition {
  readonly topic: string;
  readonly partition: number;
}

export interface PartitionOffset extends Partition {
  readonly offset: number;
  readonly leaderEpoch?: number;
  readonly metadata?: string;
}

export type Done = (error?: LibrdKafkaError | null) => void;

/** What its types leave out. */
interface Native {
  setOAuthBearerToken(value: string, expiresAtMs: number, principal: string, extensions: null): void;
}

export interface RawProducer extends Omit<Producer, 'on' | 'getClient' | 'sendOffsetsToTransaction'> {
  on(event: string, listener: (...args: never[]) => void): unknown;
  getClient(): Native;
  sendOffsetsToTransaction(offsets: readonly PartitionOffset[], consumer: RawConsumer, timeoutMs: number, done: Done): void;
}

export interface RawConsumer extends Omit<KafkaConsumer, 'on' | 'getClient' | 'consume' | 'commit'> {
  on(event: string, listener: (...args: never[]) => void): unknown;
  getClient(): Native;
  consume(count: number, done: (error: LibrdKafkaError | null, messages: Message[]) => void): void;
  commit(offsets: readonly PartitionOffset[]): unknown;
  incrementalAssign(partitions: readonly PartitionOffset[] | readonly Partition[]): unknown;
  incrementalUnassign(partitions: readonly Partition[]): unknown;
  assignmentLost(): boolean;
  rebalanceProtocol(): 'NONE' | 'EAGER' | 'COOPERATIVE';
}

export interface Library {
  readonly Producer: new (config: Config, topicConfig: Config) => RawProducer;
  readonly KafkaConsumer: new (config: Config, topicConfig: Config) => RawConsumer;
}

const PACKAGE = '@confluentinc/kafka-javascript';
/** How long a client may take to end, in ms: its threads give up what waits at a broker that is gone. */
const CLOSE_MS = 3_000;
const TOKEN_RETRY_MS = 500;
/** How long until the cluster is asked whether it refuses a client that can't connect, in ms. */
const REFUSAL_MS = 1_000;

/** An optional peer: there only where a service has chosen it. @throws TurnpikeError CONFIG_INVALID. */
export async function loadLibrary(load: () => Promise<unknown> = () => import('@confluentinc/kafka-javascript')): Promise<Library> {
  try {
    const loaded = (await load()) as { readonly default?: unknown };
    return (loaded.default ?? loaded) as Library;
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND';
    const remedy = missing
      ? `needs Confluent's client: npm install ${PACKAGE}`
      : `can't load the native addon of ${PACKAGE} for Node ${process.versions.node} on ${process.platform} ${process.arch}. Let its install script run (npm rebuild ${PACKAGE} fetches or builds it); in Turnpike's own workspace: npm run setup -- --transport confluent`;
    throw new TurnpikeError('CONFIG_INVALID', `The confluent transport ${remedy}.`, { cause });
  }
}

/** How this identity reaches the cluster. Its certificate is the one of the moment; its tokens are always asked for. */
export function connectionConfig(context: LinkContext, metadataMaxAgeMs: number, closing: AbortSignal): Config {
  const { cluster, clientId, connectTimeoutMs, identity } = context;
  const tls = identity.tls();
  const oauth = identity.kind === 'oauth';
  const plain = cluster.bootstrap.every(
    (address) => tlsOptions(identity, address.slice(0, address.lastIndexOf(':')).replace(/^\[(.*)\]$/, '$1')) === undefined,
  );
  return {
    'bootstrap.servers': cluster.bootstrap.join(','),
    'client.id': clientId,
    'security.protocol': oauth ? 'sasl_ssl' : plain ? 'plaintext' : 'ssl',
    'ssl.endpoint.identification.algorithm': 'https',
    ...(tls?.ca ? { 'ssl.ca.pem': tls.ca } : {}),
    ...(tls?.cert ? { 'ssl.certificate.pem': tls.cert } : {}),
    ...(tls?.key ? { 'ssl.key.pem': tls.key } : {}),
    ...(oauth ? { 'sasl.mechanisms': 'OAUTHBEARER', oauthbearer_token_refresh_cb: () => token(context, closing) } : {}),
    'socket.connection.setup.timeout.ms': Math.max(connectTimeoutMs, 1_000),
    'reconnect.backoff.ms': 50,
    'reconnect.backoff.max.ms': 1_000,
    'topic.metadata.refresh.interval.ms': Math.min(metadataMaxAgeMs, 3_600_000),
    'metadata.max.age.ms': Math.min(metadataMaxAgeMs * 3, 86_400_000),
    'topic.metadata.propagation.max.ms': 1_500,
    'allow.auto.create.topics': false,
    'enable.metrics.push': false,
  };
}

/** Asked for again until there is one: told of a failure, the library would wait for 10 s before it asks. */
async function token({ identity, clock, logger }: LinkContext, closing: AbortSignal): Promise<{ tokenValue: string; lifetime: number; principal: string }> {
  for (;;) {
    try {
      const { value, expiresAtMs } = await identity.token();
      return { tokenValue: value, lifetime: Math.floor(expiresAtMs), principal: identity.principal };
    } catch (error) {
      if (closing.aborted) throw error;
      logger.warn('confluent.token_unavailable', { message: (error as Error).message });
      await pause(clock, TOKEN_RETRY_MS, closing);
    }
  }
}

interface Events {
  /** Something went wrong somewhere in it; what, it doesn't say in numbers. */
  trouble(): void;
}

/** Its events, into ours. Its log goes to debug: what matters of it comes as an error of ours. */
export function listen(client: RawProducer | RawConsumer, { logger, events }: LinkContext, { trouble }: Events): void {
  client.on('event.log', ({ fac, message }: { fac: string; message: string }) => logger.debug('confluent.log', { fac, message }));
  client.on('event.error', trouble);
  client.on('error', trouble);
  client.on('event.throttle', ({ brokerId, throttleTime }: { brokerId: number; throttleTime: number }) => events.throttled(brokerId, throttleTime));
}

/** Starts it and waits until it has reached a broker. Where its identity is refused the library tries on and says nothing; the cluster tells. */
export async function open(client: RawProducer | RawConsumer, context: LinkContext, control: Control): Promise<void> {
  const { clock, cluster, connectTimeoutMs } = context;
  const connecting = new Promise<LibrdKafkaError | null | undefined>((resolve) => {
    // Without topics: what is asked of the cluster, a Control beside it knows already.
    client.connect({ allTopics: false, timeout: Math.max(connectTimeoutMs, 1_000) } as Parameters<RawConsumer['connect']>[0], resolve);
  });
  const over = new AbortController();
  const refused = (async () => {
    for (;;) {
      await pause(clock, REFUSAL_MS, over.signal);
      if (over.signal.aborted) return undefined;
      const refusal = await control.refusal();
      if (refusal && !refusal.retriable) return refusal;
    }
  })();
  const first = await Promise.race([connecting.then((error) => ({ error })), refused.then((refusal) => ({ refusal }))]).finally(() => over.abort());
  if ('refusal' in first && first.refusal) {
    void connecting.then((error) => (error ? undefined : close(client, context)));
    throw first.refusal;
  }
  const error = await connecting;
  if (error) throw (await control.refusal()) ?? libraryError(error, { doing: `connect to ${cluster.name}`, cluster: cluster.name });
}

/** Gives it each new token when there is one: asked at 80 % of a token's life, an identity may not have the next one yet. */
export function keepToken(client: RawProducer | RawConsumer, { identity, logger }: LinkContext): Disposable {
  if (identity.kind !== 'oauth') return { [Symbol.dispose]: () => {} };
  return identity.onChange(async () => {
    try {
      const { value, expiresAtMs } = await identity.token();
      if (client.isConnected()) client.getClient().setOAuthBearerToken(value, Math.floor(expiresAtMs), identity.principal, null);
    } catch (error) {
      logger.debug('confluent.token_not_taken', { message: (error as Error).message });
    }
  });
}

/** Ends it in bounded time: a client whose broker is gone may take longer to let go, and does so by itself. */
export async function close(client: RawProducer | RawConsumer, { clock }: LinkContext): Promise<void> {
  if (!client.isConnected()) return;
  const late = new AbortController();
  const ended = new Promise<void>((resolve) => {
    if ('flush' in client) client.disconnect(0, () => resolve());
    else client.disconnect(() => resolve());
  });
  await Promise.race([ended, pause(clock, CLOSE_MS, late.signal)]);
  late.abort();
}

/** A call of its that takes a callback. Rejects with an error of the library's. */
export function call(start: (done: Done) => void): Promise<void> {
  return new Promise((resolve, reject) => start((error) => (error ? reject(error) : resolve())));
}
