import { type ErrorFacts, TurnpikeError } from '../errors.ts';
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
  /** The first record that failed in it, or its offsets. */
  #failed: TurnpikeError | undefined;
  /** Offsets under way. */
  readonly #offsets = new Set<Promise<void>>();

  constructor(transaction: TransactionPort, flush: () => Promise<void>, clock: Clock) {
    this.#transaction = transaction;
    this.#flush = flush;
    this.#clock = clock;
  }

  /** What is appended belongs to the transaction that is open now: what came later would be half in it, if it were still on its way when that ends. @throws TurnpikeError CONFIG_INVALID where none is. */
  admit(topic: string): void {
    if (this.#state !== 'open') throw this.#misuse(topic, { topic, written: 'no' });
  }

  recordFailed(error: TurnpikeError | undefined): void {
    this.#failed ??= error;
  }

  async begin(): Promise<void> {
    await this.#transaction.begin();
    this.#failed = undefined; // Not before: one that is refused leaves what is open as it is.
    this.#state = 'open';
  }

  async sendOffsets(group: string, offsets: readonly CommitOffset[]): Promise<void> {
    if (this.#state !== 'open') throw this.#misuse(group, { group });
    const sent = this.#transaction.sendOffsets(group, offsets);
    this.#offsets.add(sent);
    try {
      await sent;
    } catch (error) {
      // What was made of these records must not be committed without their offsets.
      this.#failed ??= error as TurnpikeError;
      throw error;
    } finally {
      this.#offsets.delete(sent);
    }
  }

  async commit(): Promise<void> {
    await this.#end();
    const cause = this.#failed;
    if (cause)
      throw new TurnpikeError(
        'TRANSACTION_ABORTED',
        `Something of the transaction failed (${cause.code}), so it can't be committed; abort() and begin again.`,
        {
          ...cause.facts,
          cause,
        },
      );
    await this.#transaction.commit();
    this.#state = 'none';
  }

  async abort(): Promise<void> {
    await this.#end();
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

  /** Nothing more belongs to it, and all that does has come to its end: what was still on its way when the transaction ends would be half in it. */
  async #end(): Promise<void> {
    if (this.#state === 'open') this.#state = 'ending';
    await Promise.allSettled(this.#offsets);
    await this.#flush();
  }

  #misuse(what: string, facts: ErrorFacts & { readonly written?: 'no' }): TurnpikeError {
    const text = this.#state === 'none' ? 'begin() a transaction before sending' : 'wait until the transaction has ended, and begin() the next before sending';
    return new TurnpikeError('CONFIG_INVALID', `${what}: ${text}; a producer with a transactional id sends nothing outside of one.`, facts);
  }
}
