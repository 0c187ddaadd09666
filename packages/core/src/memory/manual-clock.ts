import type { Clock } from '../spi/clock.ts';

/** A clock that stands still until it is told to move: time as a test's argument. */
export class ManualClock implements Clock {
  #wallMs: number;
  #monotonicMs = 0;
  #timers: { at: number; f: () => void }[] = [];

  constructor(startMs = Date.UTC(2026, 0, 1)) {
    this.#wallMs = startMs;
  }

  now(): number {
    return this.#wallMs;
  }

  monotonic(): number {
    return this.#monotonicMs;
  }

  after(ms: number, f: () => void): Disposable {
    const timer = { at: this.#monotonicMs + ms, f };
    this.#timers.push(timer);
    return {
      [Symbol.dispose]: () => {
        this.#timers = this.#timers.filter((t) => t !== timer);
      },
    };
  }

  /** How many timers are pending. */
  get pending(): number {
    return this.#timers.length;
  }

  /** Moves both clocks on; fires what falls due, in order, letting promises settle after each. */
  async advance(ms: number): Promise<void> {
    const end = this.#monotonicMs + ms;
    for (;;) {
      await settle();
      const due = this.#timers.filter((t) => t.at <= end).sort((a, b) => a.at - b.at)[0];
      if (!due) break;
      this.#move(due.at);
      this.#timers = this.#timers.filter((t) => t !== due);
      due.f();
    }
    this.#move(end);
    await settle();
  }

  /** The wall clock jumps, the monotonic one doesn't: NTP, a suspend. */
  jumpWall(ms: number): void {
    this.#wallMs += ms;
  }

  #move(to: number): void {
    this.#wallMs += to - this.#monotonicMs;
    this.#monotonicMs = to;
  }
}

/** One turn of the event loop: promises that can settle have. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve));
