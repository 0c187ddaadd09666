import { type ConsumerOptions, OptionReader, type ProducerOptions, type Stage, TurnpikeError } from '@turnpike/core';
import { type Clock, type ClusterDescriptor, type Identity, type Logger, systemClock, type Telemetry, type Transport } from '@turnpike/core/spi';
import type { OpenTelemetryOptions } from '@turnpike/telemetry';
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
  /** Default: OpenTelemetry's global providers; "off" = none. */
  readonly telemetry?: 'off' | OpenTelemetryOptions | Telemetry;
  /** Default: warnings and errors, a JSON line each, on stderr. */
  readonly logger?: Logger;
  /** What the brokers see in their logs and quotas. Default: the service's name. */
  readonly clientId?: string;
  /** How long reaching and proving may take, in ms (> 0). Default 10_000. */
  readonly connectTimeoutMs?: number;
  /** Signals on which the connection drains and closes by itself; if nobody else listens to the signal, the process then ends by it. Default ["SIGTERM"]; [] = none. */
  readonly shutdownSignals?: readonly NodeJS.Signals[];
  /** Default: process.env, read once, here. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly clock?: Clock;
}

/** Options and environment, read once. */
export interface Settings {
  readonly environment: string | undefined;
  readonly identity: Identity | IdentitySettings | undefined;
  readonly transport: Transport | undefined;
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
    identity: (read.any('identity') as Identity | undefined) ?? identitySettings(fromEnv),
    transport: read.any('transport') as Transport | undefined,
    grant: read.string('grant') ?? fromEnv('TURNPIKE_GRANT'),
    clusters: (read.any('clusters') as Settings['clusters']) ?? fromEnv('TURNPIKE_CLUSTERS'),
    registry: read.string('registry') ?? fromEnv('TURNPIKE_REGISTRY'),
    producer: (read.any('producer') ?? {}) as ProducerOptions,
    consumer: (read.any('consumer') ?? {}) as ConsumerOptions,
    stages: (read.any('stages') ?? []) as readonly Stage[],
    onQuota: read.oneOf<'wait' | 'refuse'>('onQuota', ['wait', 'refuse'], 'wait'),
    telemetry: (read.any('telemetry') ?? {}) as Settings['telemetry'],
    logger: (read.any('logger') as Logger | undefined) ?? stderrLogger(),
    clientId: read.string('clientId'),
    connectTimeoutMs: read.number('connectTimeoutMs', { min: 1, default: 10_000 }),
    shutdownSignals: (read.any('shutdownSignals') ?? ['SIGTERM']) as readonly NodeJS.Signals[],
    clock: (read.any('clock') as Clock | undefined) ?? systemClock,
  };
  read.end();
  return Object.freeze(settings);
}

function identitySettings(env: (name: string) => string | undefined): IdentitySettings | undefined {
  const need = (name: string, because: string): string => {
    const value = env(name);
    if (value === undefined) throw new TurnpikeError('CONFIG_INVALID', `${because} is set but ${name} is not; set it too (docs/configuration.md).`);
    return value;
  };
  if (env('TURNPIKE_TOKEN_URL')) {
    const because = 'TURNPIKE_TOKEN_URL';
    const clientSecretFile = env('TURNPIKE_CLIENT_SECRET_FILE');
    const privateKeyFile = env('TURNPIKE_CLIENT_KEY_FILE');
    if ((clientSecretFile === undefined) === (privateKeyFile === undefined))
      throw new TurnpikeError(
        'CONFIG_INVALID',
        'TURNPIKE_TOKEN_URL needs exactly one of TURNPIKE_CLIENT_SECRET_FILE and TURNPIKE_CLIENT_KEY_FILE (docs/configuration.md).',
      );
    if (env('TURNPIKE_TLS_CERT'))
      throw new TurnpikeError(
        'CONFIG_INVALID',
        'TURNPIKE_TOKEN_URL and TURNPIKE_TLS_CERT are both set; a service has one identity: unset the one that is not meant.',
      );
    return {
      kind: 'oauth',
      tokenUrl: need('TURNPIKE_TOKEN_URL', because),
      clientId: need('TURNPIKE_CLIENT_ID', because),
      ...given({ clientSecretFile, privateKeyFile, scope: env('TURNPIKE_SCOPE'), audience: env('TURNPIKE_AUDIENCE'), caFile: env('TURNPIKE_TLS_CA') }),
    };
  }
  if (env('TURNPIKE_TLS_CERT')) {
    const because = 'TURNPIKE_TLS_CERT';
    return { kind: 'mtls', certFile: need('TURNPIKE_TLS_CERT', because), keyFile: need('TURNPIKE_TLS_KEY', because), caFile: need('TURNPIKE_TLS_CA', because) };
  }
  return undefined;
}

/** The entries that are there, for options that tell absent from undefined. */
function given<T extends Record<string, string | undefined>>(entries: T): { [K in keyof T]?: string } {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined)) as { [K in keyof T]?: string };
}
