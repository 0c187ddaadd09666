import type { Clock } from '@turnpike/core/spi';

/** A token bucket. In any window T it admits at most `rate * T + burst`, plus the excess of one take that is larger than the burst, which the next ones wait for. */
export class TokenBucket {
  readonly ratePerSecond: number;
  readonly burst: number;
  readonly #clock: Clock;
  #tokens: number;
  #filledAt: number;

  constructor(options: { ratePerSecond: number; burst: number; clock: Clock }) {
    this.ratePerSecond = options.ratePerSecond;
    this.burst = options.burst;
    this.#clock = options.clock;
    this.#tokens = options.burst;
    this.#filledAt = options.clock.monotonic();
  }

  /** ms until `amount` may be taken; 0 = now. An amount over the burst needs a full bucket, and leaves a debt. */
  waitMs(amount: number): number {
    this.#fill();
    const missing = Math.min(amount, this.burst) - this.#tokens;
    // Rounded up: a caller who comes back a hair too early would ask again and again.
    return missing <= 0 ? 0 : Math.max(1, Math.ceil((missing / this.ratePerSecond) * 1000));
  }

  take(amount: number): void {
    this.#fill();
    this.#tokens -= amount;
  }

  refund(amount: number): void {
    this.#tokens = Math.min(this.burst, this.#tokens + amount);
  }

  #fill(): void {
    const now = this.#clock.monotonic();
    this.#tokens = Math.min(this.burst, this.#tokens + ((now - this.#filledAt) / 1000) * this.ratePerSecond);
    this.#filledAt = now;
  }
}
