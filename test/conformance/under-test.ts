import { connect } from '@turnpike/client';
import { defineService } from '@turnpike/client/generated';
import { MemoryCluster, memoryTransport } from '@turnpike/core/memory';
import type { Transport } from '@turnpike/core/spi';
import { type ConnectAsks, type Platform, type PlatformOptions, startPlatform, type TransportUnderTest } from '@turnpike/testing';
import { confluentTransport } from '@turnpike/transports/confluent';
import { kafkajsTransport } from '@turnpike/transports/kafkajs';
import { wireTransport } from '@turnpike/transports/wire';

export const TRANSPORTS = ['memory', 'wire', 'confluent', 'kafkajs'] as const;
export type TransportName = (typeof TRANSPORTS)[number];

/** Platforms that the suites of several transports share: one for each set of options. */
export class Platforms implements AsyncDisposable {
  readonly #started = new Map<string, Promise<Platform>>();

  readonly get = (options: PlatformOptions = {}): Promise<Platform> => {
    const key = JSON.stringify(options);
    const known = this.#started.get(key) ?? startPlatform(options);
    this.#started.set(key, known);
    return known;
  };

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = await Promise.allSettled([...this.#started.values()].map(async (p) => (await p)[Symbol.asyncDispose]()));
    for (const { reason } of closed.filter((c) => c.status === 'rejected')) throw reason;
  }
}

/** A service that has nothing but options: they are refused before anything of it is looked at. */
const service = defineService({
  name: 'conformance',
  team: 'test',
  environments: { dev: { principals: ['conformance'] } },
  rootKeys: [],
  produces: {},
  consumes: {},
});

const connectWith = (transport: Transport, options: ConnectAsks): Promise<unknown> =>
  connect(service, { ...options, transport, env: { TURNPIKE_ENV: 'dev' }, telemetry: 'off', shutdownSignals: [] });

export function underTest(name: TransportName, platforms: Platforms): TransportUnderTest {
  if (name === 'memory') {
    const cluster = new MemoryCluster({ authorizer: { superUsers: ['platform-admin'] } });
    return { name, transport: () => memoryTransport({ cluster }), connect: connectWith, cluster };
  }
  return { name, transport: () => open(name), connect: connectWith, platform: platforms.get };
}

function open(name: Exclude<TransportName, 'memory'>): Transport {
  const options = { metadataMaxAgeMs: 1_000 };
  if (name === 'confluent') return confluentTransport(options);
  return name === 'kafkajs' ? kafkajsTransport(options) : wireTransport(options);
}
