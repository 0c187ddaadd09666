import type { Clock } from '../spi/clock.ts';

/** What is handed out in one turn of the event loop: records and ms. Enough that a turn's own cost (some us) is nothing per record, and little beside a heartbeat's interval. */
const TURN = { records: 1_024, ms: 10 };
/** The clock is looked at each so many records. */
const LOOK_EVERY = 16;

/** So much per turn of the event loop, then timers, sockets and heartbeats have theirs. A promise wouldn't let them: microtasks all come first. */
export class Turn {
  readonly #clock: Clock;
  readonly #next: () => void;
  #open = false;
  #left = 0;
  #look = 0;
  #startedAtMs = 0;

  /** @param next - called in the turn after one in which something was handed out. */
  constructor(clock: Clock, next: () => void) {
    this.#clock = clock;
    this.#next = next;
  }

  /** Nothing more in this one. */
  over(): boolean {
    if (!this.#open) this.#begin();
    return this.#left <= 0;
  }

  spend(records: number): void {
    this.#left -= records;
    this.#look -= records;
    if (this.#look > 0) return;
    this.#look = LOOK_EVERY;
    if (this.#clock.monotonic() - this.#startedAtMs >= TURN.ms) this.#left = 0;
  }

  #begin(): void {
    this.#open = true;
    this.#left = TURN.records;
    this.#look = LOOK_EVERY;
    this.#startedAtMs = this.#clock.monotonic();
    setImmediate(() => {
      this.#open = false;
      this.#next();
    });
  }
}
