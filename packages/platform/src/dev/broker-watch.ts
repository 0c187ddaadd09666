import { TurnpikeError } from '@turnpike/core';

export interface WatchedBroker {
  readonly id: number;
  readonly running: boolean;
}

const EVERY_MS = 250;

/** Tells when so many brokers have ended by themselves that the cluster is gone: a quorum is more than half. Of three, one may be killed on purpose. */
export class BrokerWatch implements Disposable {
  onLost: (lost: TurnpikeError) => void = () => {};
  readonly #brokers: readonly WatchedBroker[];
  readonly #timer: NodeJS.Timeout;
  #lost: TurnpikeError | undefined;

  constructor(brokers: readonly WatchedBroker[]) {
    this.#brokers = brokers;
    this.#timer = setInterval(() => this.#look(), EVERY_MS);
    this.#timer.unref();
  }

  get lost(): TurnpikeError | undefined {
    return this.#lost;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const ended = this.#brokers.filter((b) => !b.running).map((b) => b.id);
    if (ended.length * 2 < this.#brokers.length || ended.length === 0) return;
    clearInterval(this.#timer);
    const which = this.#brokers.length === 1 ? 'The broker' : `Brokers ${ended.join(' and ')} of ${this.#brokers.length}`;
    this.#lost = new TurnpikeError(
      'PLATFORM_UNAVAILABLE',
      `${which} ended unasked: killed, or out of memory. The local platform stops; start turnpike dev again.`,
    );
    this.onLost(this.#lost);
  }
}
