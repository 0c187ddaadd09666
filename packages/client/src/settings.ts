import {
  type ConsumerOptions,
  compileConsumerOptions,
  compileProducerOptions,
  OptionReader,
  type ProducerOptions,
  type Stage,
  TurnpikeError,
} from '@turnpike/core';
import {
  type Clock,
  type ClusterDescriptor,
  type Identity,
  type Logger,
  requireCapabilities,
  systemClock,
  type Telemetry,
  type Transport,
} from '@turnpike/core/spi';
import type { OpenTelemetryOptions } from '@turnpike/telemetry';
import { wireTransport } from '@turnpike/transports/wire';
import { stderrLogger } from './logger.ts';

/** What connect() takes. Each default comes from an environment variable that the platform injects; docs/configuration.md lists them. */
export interface ConnectOptions {
  /** The environment whose grant applies, as in turnpike.yaml. Default: TURNPIKE_ENV; where neither is set, the contract's only environment. */
  readonly environment?: string;
  /** Default: from TURNPIKE_TOKEN_URL (OAuth) or TURNPIKE_TLS_CERT (mTLS). The caller closes an identity that it made. */
  readonly identity?: Identity;
  /** Default: `wireTransport()`. */
  readonly transport?: Transport;
  /** The grant's file. Default: TURNPIKE_GRANT. With the memory transport and neither, everything declared is granted. */
  readonly grant?: string;
  /** The clusters' descriptors, or their file. Default: TURNPIKE_CLUSTERS. */
  readonly clusters?: string | readonly ClusterDescriptor[];
  /** The registry's URL. Default: TURNPIKE_REGISTRY; else the ids that stand in the grant; with the memory transport, ids of its own. */
  readonly registry?: string;
  /** For every producer. */
  readonly producer?: ProducerOptions;
  /** For every consumer; `consumer(topics, { ... })` overrides. */
  readonly consumer?: ConsumerOptions;
  /** The application's own layers, run on each event before policy and encoding. */
  readonly stages?: readonly Stage[];
  /** Over quota: "wait" within the delivery timeout (default), or "refuse" at send() with `retryAfterMs`. */
  readonly onQuota?: 'wait' | 'refuse';
  /** Default: OpenTelemetry's global providers (register the SDK before connect()); "off" = none. */
  readonly telemetry?: 'off' | OpenTelemetryOptions | Telemetry;
  /** Default: warnings and errors, a JSON line each, on stderr. */
  readonly logger?: Logger;
  /** What the brokers see in their logs and quotas. Default: the service's name. */
  readonly clientId?: string;
  /** How long each step may take: the issuer's answer, reaching a cluster and proving the identity there; in ms (> 0). Default 10_000. */
  readonly connectTimeoutMs?: number;
  /** Signals on which the connection drains and closes by itself; if nobody else listens to the signal, the process then ends by it. Default ["SIGTERM", "SIGINT"]:
   *  a member that is killed leaves its group waiting for `sessionTimeoutMs`. [] = none. */
  readonly shutdownSignals?: readonly NodeJS.Signals[];
  /** Default: process.env, read once, here. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly clock?: Clock;
}

/** Options and environment, read once. */
export interface Settings {
  readonly environment: string | undefined;
  readonly identity: Identity | IdentitySettings | undefined;
  readonly transport: Transport;
  readonly grant: string | undefined;
  readonly clusters: string | readonly ClusterDescriptor[] | undefined;
  readonly registry: string | undefined;
  readonly producer: ProducerOptions;
  readonly consumer: ConsumerOptions;
  readonly stages: readonly Stage[];
  readonly onQuota: 'wait' | 'refuse';
  readonly telemetry: 'off' | OpenTelemetryOptions | Telemetry;
  readonly logger: Logger;
  readonly clientId: string | undefined;
  readonly connectTimeoutMs: number;
  readonly shutdownSignals: readonly NodeJS.Signals[];
  readonly clock: Clock;
}

export type IdentitySettings =
  | { readonly kind: 'mtls'; readonly caFile: string; readonly certFile: string; readonly keyFile: string }
  | {
      readonly kind: 'oauth';
      readonly tokenUrl: string;
      readonly clientId: string;
      readonly clientSecretFile?: string;
      readonly privateKeyFile?: string;
      readonly scope?: string;
      readonly audience?: string;
      readonly caFile?: string;
    };

/** @throws TurnpikeError CONFIG_INVALID. */
export function readSettings(options: ConnectOptions): Settings {
  const read = new OptionReader('connect', options);
  const env = (read.any('env') ?? process.env) as Readonly<Record<string, string | undefined>>;
  const fromEnv = (name: string) => env[name] || undefined; // An empty variable is one that isn't set.
  const settings: Settings = {
    environment: read.string('environment') ?? fromEnv('TURNPIKE_ENV'),
    identity:
      shaped<Identity>(read, 'identity', anObjectWith('kind', 'principal'), 'what mtlsIdentity() or oauthIdentity() makes') ?? identitySettings(fromEnv),
    transport:
      shaped<Transport>(read, 'transport', anObjectWith('name', 'capabilities', 'connect'), 'what wireTransport() or memoryTransport() makes') ??
      wireTransport(),
    grant: read.string('grant') ?? fromEnv('TURNPIKE_GRANT'),
    clusters:
      shaped(read, 'clusters', (v) => typeof v === 'string' || Array.isArray(v), 'the path of a file, or a list of descriptors') ??
      fromEnv('TURNPIKE_CLUSTERS'),
    registry: registryUrl(read.string('registry'), 'connect.registry') ?? registryUrl(fromEnv('TURNPIKE_REGISTRY'), 'TURNPIKE_REGISTRY'),
    producer: (read.any('producer') ?? {}) as ProducerOptions,
    consumer: (read.any('consumer') ?? {}) as ConsumerOptions,
    stages: shaped<readonly Stage[]>(read, 'stages', aListOf('function'), 'a list of functions') ?? [],
    onQuota: read.oneOf<'wait' | 'refuse'>('onQuota', ['wait', 'refuse'], 'wait'),
    telemetry:
      shaped<Settings['telemetry']>(read, 'telemetry', (v) => v === 'off' || anObjectWith()(v), '"off", options of openTelemetry(), or a Telemetry') ?? {},
    logger: shaped<Logger>(read, 'logger', anObjectWith('debug', 'info', 'warn', 'error'), 'an object with debug, info, warn and error') ?? stderrLogger(),
    clientId: read.string('clientId'),
    connectTimeoutMs: read.number('connectTimeoutMs', { min: 1, default: 10_000 }),
    shutdownSignals: shaped<readonly NodeJS.Signals[]>(read, 'shutdownSignals', aListOf('string'), 'a list of signals, such as ["SIGTERM"]') ?? [
      'SIGTERM',
      'SIGINT',
    ],
    clock: (read.any('clock') as Clock | undefined) ?? systemClock,
  };
  read.end();
  // Refused here, before anything is reached, though they are compiled again where a grant or a call adds to them.
  const producer = compileProducerOptions(settings.producer);
  requireCapabilities(settings.transport, { producer, consumer: compileConsumerOptions('any', settings.consumer) });
  return Object.freeze(settings);
}

/** An option that is code or a list, as a caller without types may get it wrong. */
function shaped<T>(read: OptionReader, name: string, is: (value: unknown) => boolean, wanted: string): T | undefined {
  const value = read.any(name);
  if (value === undefined || is(value)) return value as T | undefined;
  throw new TurnpikeError('CONFIG_INVALID', `connect.${name} is ${value === null ? 'null' : `of type ${typeof value}`}; it must be ${wanted}.`);
}

const anObjectWith =
  (...members: readonly string[]) =>
  (value: unknown): boolean =>
    typeof value === 'object' && value !== null && members.every((m) => m in value);

const aListOf =
  (type: 'function' | 'string') =>
  (value: unknown): boolean =>
    Array.isArray(value) && value.every((v) => typeof v === type);

function registryUrl(text: string | undefined, from: string): string | undefined {
  const protocol = text === undefined ? undefined : URL.parse(text)?.protocol;
  if (text === undefined || protocol === 'https:' || protocol === 'http:') return text;
  // Before an "@" may stand a password, after a "?" a key.
  throw new TurnpikeError(
    'CONFIG_INVALID',
    `${from} is ${/[@?]/.test(text) ? 'no http(s) URL' : JSON.stringify(text)}; it must be the registry's URL, such as https://registry:8081.`,
  );
}

function identitySettings(env: (name: string) => string | undefined): IdentitySettings | undefined {
  const [tokenUrl, certFile] = [env('TURNPIKE_TOKEN_URL'), env('TURNPIKE_TLS_CERT')];
  if (tokenUrl !== undefined && certFile !== undefined)
    throw new TurnpikeError(
      'CONFIG_INVALID',
      'TURNPIKE_TOKEN_URL and TURNPIKE_TLS_CERT are both set; a service has one identity: unset the one that is not meant.',
    );
  const need = (name: string, because: string): string => {
    const value = env(name);
    if (value === undefined) throw new TurnpikeError('CONFIG_INVALID', `${because} is set but ${name} is not; set it too (docs/configuration.md).`);
    return value;
  };
  if (tokenUrl !== undefined) {
    const clientId = need('TURNPIKE_CLIENT_ID', 'TURNPIKE_TOKEN_URL');
    const [clientSecretFile, privateKeyFile] = [env('TURNPIKE_CLIENT_SECRET_FILE'), env('TURNPIKE_CLIENT_KEY_FILE')];
    if ((clientSecretFile === undefined) === (privateKeyFile === undefined))
      throw new TurnpikeError(
        'CONFIG_INVALID',
        `TURNPIKE_TOKEN_URL needs exactly one of TURNPIKE_CLIENT_SECRET_FILE and TURNPIKE_CLIENT_KEY_FILE; ${clientSecretFile === undefined ? 'neither is' : 'both are'} set (docs/configuration.md).`,
      );
    const optional = { clientSecretFile, privateKeyFile, scope: env('TURNPIKE_SCOPE'), audience: env('TURNPIKE_AUDIENCE'), caFile: env('TURNPIKE_TLS_CA') };
    return { kind: 'oauth', tokenUrl, clientId, ...given(optional) };
  }
  if (certFile !== undefined)
    return { kind: 'mtls', certFile, keyFile: need('TURNPIKE_TLS_KEY', 'TURNPIKE_TLS_CERT'), caFile: need('TURNPIKE_TLS_CA', 'TURNPIKE_TLS_CERT') };
  // The rest of an identity whose first half was forgotten or misspelt; TURNPIKE_TLS_CA alone is none.
  if (env('TURNPIKE_TLS_KEY') !== undefined) need('TURNPIKE_TLS_CERT', 'TURNPIKE_TLS_KEY');
  for (const name of ['TURNPIKE_CLIENT_ID', 'TURNPIKE_CLIENT_SECRET_FILE', 'TURNPIKE_CLIENT_KEY_FILE'])
    if (env(name) !== undefined) need('TURNPIKE_TOKEN_URL', name);
  return undefined;
}

/** The entries that are there, for options that tell absent from undefined. */
function given<T extends Record<string, string | undefined>>(entries: T): { [K in keyof T]?: string } {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined)) as { [K in keyof T]?: string };
}
