import { TurnpikeError } from '@turnpike/core';
import { type Clock, type DrainGate, pause } from '@turnpike/core/spi';
import { sizeOf, type TopicMessages } from './records.ts';
import type { Tally } from './tally.ts';

/** Where sends wait for their quota before the library has them. A topic is first in, first out: behind a send that waits, all later ones of its topics wait. */
export class Queue {
  readonly #init: { readonly cluster: string; readonly gates: DrainGate; readonly clock: Clock; readonly quotaTimeoutMs: number };
  /** By topic: settles when the last one that waits has gone on. */
  readonly #tails = new Map<string, Promise<void>>();

  constructor(init: { readonly cluster: string; readonly gates: DrainGate; readonly clock: Clock; readonly quotaTimeoutMs: number }) {
    this.#init = init;
  }

  /** undefined = go on; else wait, and call what comes when the library has the records. @throws TurnpikeError QUOTA_EXCEEDED, in refuse mode at once, else after the time-out. */
  enter(batches: readonly TopicMessages[], tally: Tally): Promise<() => void> | undefined {
    const limited = batches.filter(({ topic, messages }) => messages.length > 0 && this.#init.gates.burst(topic) !== undefined).map(measured);
    if (limited.length === 0) return undefined;
    this.#refuse(limited, tally);
    const before = limited.flatMap(({ topic }) => this.#tails.get(topic) ?? []);
    const charged: Measured[] = [];
    if (before.length === 0 && this.#charge(limited, charged) === 0) return undefined;
    const gone = Promise.withResolvers<void>();
    for (const { topic } of limited) this.#tails.set(topic, gone.promise);
    const release = () => {
      gone.resolve();
      for (const { topic } of limited) if (this.#tails.get(topic) === gone.promise) this.#tails.delete(topic);
    };
    return this.#wait(limited, charged, { before, tally }).then(
      () => release,
      (error: unknown) => {
        release();
        throw error;
      },
    );
  }

  /** For a call that can't wait: charged where there is room, counted where there isn't. @throws TurnpikeError QUOTA_EXCEEDED in refuse mode. */
  passNow(batch: TopicMessages, tally: Tally): void {
    if (this.#init.gates.burst(batch.topic) === undefined) return;
    const limited = [measured(batch)];
    this.#refuse(limited, tally);
    if (this.#charge(limited, []) > 0) tally.delayed('produce', batch.topic, this.#init.cluster, { waitedMs: 0, refused: 0 });
  }

  #refuse(limited: readonly Measured[], tally: Tally): void {
    for (const { topic, records, bytes } of limited) {
      try {
        this.#init.gates.refuse(topic, records, bytes);
      } catch (error) {
        tally.delayed('produce', topic, this.#init.cluster, { waitedMs: 0, refused: 1 });
        throw error;
      }
    }
  }

  /** Charges what isn't charged yet, in order; the ms until the next one may be. */
  #charge(limited: readonly Measured[], charged: Measured[]): number {
    for (const part of limited.slice(charged.length)) {
      const waitMs = this.#init.gates.admit(part.topic, part.records, part.bytes);
      if (waitMs > 0) return waitMs;
      charged.push(part);
    }
    return 0;
  }

  async #wait(
    limited: readonly Measured[],
    charged: Measured[],
    { before, tally }: { readonly before: readonly Promise<void>[]; readonly tally: Tally },
  ): Promise<void> {
    const { clock, cluster, gates, quotaTimeoutMs } = this.#init;
    const began = clock.monotonic();
    await Promise.all(before);
    for (let waitMs = this.#charge(limited, charged); waitMs > 0; waitMs = this.#charge(limited, charged)) {
      const leftMs = began + quotaTimeoutMs - clock.monotonic();
      const next = limited[charged.length]?.topic ?? '';
      if (leftMs <= 0) {
        for (const { topic, records, bytes } of charged) gates.refund(topic, records, bytes);
        tally.delayed('produce', next, cluster, { waitedMs: clock.monotonic() - began, refused: 1 });
        throw new TurnpikeError(
          'QUOTA_EXCEEDED',
          `${next}: waited ${quotaTimeoutMs} ms for its quota on ${cluster}; send less, or raise its quota under produces in turnpike.yaml and have a new grant issued (turnpike grant issue).`,
          { topic: next, cluster, retryAfterMs: waitMs, retriable: true, written: 'no' },
        );
      }
      await pause(clock, Math.min(waitMs, leftMs));
    }
    for (const { topic } of limited) tally.delayed('produce', topic, cluster, { waitedMs: clock.monotonic() - began, refused: 0 });
  }
}

interface Measured {
  readonly topic: string;
  readonly records: number;
  readonly bytes: number;
}

const measured = ({ topic, messages }: TopicMessages): Measured => ({
  topic,
  records: messages.length,
  bytes: messages.reduce((sum, m) => sum + sizeOf(m), 0),
});
