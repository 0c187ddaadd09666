import { TurnpikeError } from '../errors.ts';
import { type Clock, pause } from '../spi/clock.ts';
import type { CommitOffset, TransactionPort } from '../spi/transport.ts';

/** How long the abort of a transaction that is open at close may take, in ms. */
const ABORT_AT_CLOSE_MS = 3_000;

/** A driver's transactions behind an accumulator: all of one is handed over before it ends, and one of which a record has failed is not committed. */
export class FlushedTransaction implements TransactionPort {
  readonly #transaction: TransactionPort;
  readonly #flush: () => Promise<void>;
  readonly #clock: Clock;
  /** "ending": from the first commit() or abort() on, until one of them has succeeded. */
  #state: 'none' | 'open' | 'ending' = 'none';
  /** The first record that failed in it. */
  #failed: TurnpikeError | undefined;

  constructor(transaction: TransactionPort, flush: () => Promise<void>, clock: Clock) {
    this.#transaction = transaction;
    this.#flush = flush;
    this.#clock = clock;
  }

  /** What is appended belongs to the transaction that is open now: what came later would be half in it, if it were still on its way when that ends. @throws TurnpikeError CONFIG_INVALID where none is. */
  admit(topic: string): void {
    if (this.#state === 'open') return;
    const text = this.#state === 'none' ? 'begin() a transaction before sending' : 'wait until the transaction has ended, and begin() the next before sending';
    throw new TurnpikeError('CONFIG_INVALID', `${topic}: ${text}; a producer with a transactional id sends nothing outside of one.`, { topic, written: 'no' });
  }

  recordFailed(error: TurnpikeError | undefined): void {
    this.#failed ??= error;
  }

  async begin(): Promise<void> {
    this.#failed = undefined;
    await this.#transaction.begin();
    this.#state = 'open';
  }

  sendOffsets(group: string, offsets: readonly CommitOffset[]): Promise<void> {
    return this.#transaction.sendOffsets(group, offsets);
  }

  async commit(): Promise<void> {
    this.#end();
    await this.#flush();
    const cause = this.#failed;
    if (cause)
      throw new TurnpikeError('TRANSACTION_ABORTED', `A record of the transaction failed (${cause.code}), so it can't be committed; abort() and begin again.`, {
        ...cause.facts,
        cause,
      });
    await this.#transaction.commit();
    this.#state = 'none';
  }

  async abort(): Promise<void> {
    this.#end();
    await this.#flush();
    await this.#transaction.abort();
    this.#state = 'none';
  }

  /** What is left open holds back all who read committed records, until its timeout. A coordinator that is gone must not hold up the close: it ends it by that. */
  async abandon(): Promise<void> {
    if (this.#state === 'none') return;
    const ended = new AbortController();
    const aborted = this.#transaction.abort().catch(() => {});
    await Promise.race([aborted, pause(this.#clock, ABORT_AT_CLOSE_MS, ended.signal)]);
    ended.abort();
  }
  #end(): void {
    if (this.#state === 'open') this.#state = 'ending';
  }
}
