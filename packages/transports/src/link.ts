import { OptionReader, TurnpikeError } from '@turnpike/core';
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
  /** Aborted when the link closes: one that is still opening then need not. */
  producer(options: CompiledProducerOptions, onClosed: () => void, closing: AbortSignal): Promise<ProducerPort>;
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
  readonly #closing = new AbortController();

  constructor(control: Control, make: Ports) {
    this.#control = control;
    this.#make = make;
    this.admin = control.admin;
  }

  get clusterId(): string | undefined {
    return this.#control.clusterId;
  }

  async producer(options: CompiledProducerOptions): Promise<ProducerPort> {
    const { signal } = this.#closing;
    const closed = (cause?: unknown): TurnpikeError =>
      new TurnpikeError('CLOSED', 'The connection was closed while the producer opened; connect() again.', { cause, written: 'no' });
    const opening = this.#make.producer(options, () => this.#open.delete(port), signal);
    const port: ProducerPort = await opening.catch((cause: unknown) => {
      throw signal.aborted ? closed(cause) : cause;
    });
    this.#open.add(port);
    if (!signal.aborted) return port;
    await port[Symbol.asyncDispose]();
    throw closed();
  }

  consumer(options: CompiledConsumerOptions): ConsumerPort {
    const port: ConsumerPort = this.#make.consumer(options, () => this.#open.delete(port));
    this.#open.add(port);
    return port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await Promise.allSettled([...this.#open].map((port) => port[Symbol.asyncDispose]()));
    await this.#control[Symbol.asyncDispose]();
  }
}
