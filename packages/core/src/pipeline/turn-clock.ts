import type { Clock } from '../spi/clock.ts';

/** So many records have the same time at the most: a turn that goes on for long must not stand still. */
const MOST_USES = 64;

/** A clock that is read once for what one turn of the event loop sends: reading both clocks for each record would be a tenth of what a record costs. */
export class TurnClock {
  readonly #clock: Clock;
  #uses = MOST_USES;
  #now = 0;
  #monotonic = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Wall clock, ms since the epoch, whole. Asked first for each record; monotonic() is of the same moment. */
  now(): number {
    if (this.#uses >= MOST_USES) this.#read();
    this.#uses++;
    return this.#now;
  }

  monotonic(): number {
    return this.#monotonic;
  }

  #read(): void {
    // The turn's end: what comes in the next one reads the clock again.
    queueMicrotask(this.#forget);
    this.#uses = 0;
    this.#now = Math.floor(this.#clock.now());
    this.#monotonic = this.#clock.monotonic();
  }

  readonly #forget = (): void => {
    this.#uses = MOST_USES;
  };
}
