import { TurnpikeError } from '../errors.ts';

interface Waiter {
  readonly epoch: number;
  resolve(): void;
}

/** Who waits for what was appended before flush(). Each call begins an epoch; a batch belongs to that of its first record. */
export class Flushes {
  /** Epoch -> its batches that have not settled. */
  readonly #outstanding = new Map<number, number>();
  /** Of the batches that begin now. */
  epoch = 0;
  #waiters: Waiter[] = [];

  /** A batch of that epoch begins. */
  opened(epoch: number): void {
    this.#outstanding.set(epoch, (this.#outstanding.get(epoch) ?? 0) + 1);
  }

  closed(epoch: number): void {
    const left = (this.#outstanding.get(epoch) ?? 1) - 1;
    if (left === 0) this.#outstanding.delete(epoch);
    else this.#outstanding.set(epoch, left);
  }

  /** Resolves when all batches that are there now have settled. Rejects with ABORTED when the signal does. */
  wait(drain: () => void, signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted) return Promise.reject(aborted(signal));
    const epoch = this.epoch++;
    drain();
    if (!this.#outstandingUpTo(epoch)) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        this.#waiters = this.#waiters.filter((w) => w !== waiter);
        reject(aborted(signal));
      };
      const waiter = {
        epoch,
        resolve: () => {
          signal?.removeEventListener('abort', onAbort);
          resolve();
        },
      };
      signal?.addEventListener('abort', onAbort);
      this.#waiters.push(waiter);
    });
  }

  /** Tells those whose batches have settled. */
  resolve(): void {
    if (this.#waiters.length === 0) return;
    const done = this.#waiters.filter((w) => !this.#outstandingUpTo(w.epoch));
    if (done.length === 0) return;
    this.#waiters = this.#waiters.filter((w) => !done.includes(w));
    for (const { resolve } of done) resolve();
  }

  #outstandingUpTo(epoch: number): boolean {
    for (const e of this.#outstanding.keys()) if (e <= epoch) return true;
    return false;
  }
}

const aborted = (signal: AbortSignal | undefined) =>
  new TurnpikeError('ABORTED', 'flush() was aborted; the records are still under way.', { cause: signal?.reason });
