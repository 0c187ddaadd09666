import { OptionReader } from '@turnpike/core';
import type { AdminPort, CompiledConsumerOptions, CompiledProducerOptions, ConsumerPort, Link, ProducerPort } from '@turnpike/core/spi';
import type { Control } from './wire/control.ts';

export interface MetadataOptions {
  /** How old the knowledge of leaders and partitions may grow, in ms (>= 1000). Default 60_000: an error refreshes it at once; this is for partitions that were added. */
  readonly metadataMaxAgeMs?: number;
}

/** @throws TurnpikeError CONFIG_INVALID. */
export function metadataMaxAgeOf(transport: string, options: MetadataOptions): number {
  const read = new OptionReader(transport, options);
  const metadataMaxAgeMs = read.number('metadataMaxAgeMs', { min: 1_000, default: 60_000 });
  read.end();
  return metadataMaxAgeMs;
}

/** What differs between links: how a port is made. Each says when it is closed, so that a link that lives long doesn't keep those. */
interface Ports {
  producer(options: CompiledProducerOptions, onClosed: () => void): Promise<ProducerPort>;
  consumer(options: CompiledConsumerOptions, onClosed: () => void): ConsumerPort;
}

/** A link that stands on a Control, which ends with it. */
export function linkOver(control: Control, make: Ports): Link {
  return new ControlledLink(control, make);
}

class ControlledLink implements Link {
  readonly admin: AdminPort;
  readonly #control: Control;
  readonly #make: Ports;
  readonly #open = new Set<AsyncDisposable>();

  constructor(control: Control, make: Ports) {
    this.#control = control;
    this.#make = make;
    this.admin = control.admin;
  }

  get clusterId(): string | undefined {
    return this.#control.clusterId;
  }

  async producer(options: CompiledProducerOptions): Promise<ProducerPort> {
    const port: ProducerPort = await this.#make.producer(options, () => this.#open.delete(port));
    this.#open.add(port);
    return port;
  }

  consumer(options: CompiledConsumerOptions): ConsumerPort {
    const port: ConsumerPort = this.#make.consumer(options, () => this.#open.delete(port));
    this.#open.add(port);
    return port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#open].map((port) => port[Symbol.asyncDispose]()));
    await this.#control[Symbol.asyncDispose]();
  }
}
