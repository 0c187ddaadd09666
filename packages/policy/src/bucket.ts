import type { Clock } from '@turnpike/core/spi';

export interface BucketShape {
  readonly ratePerSecond: number;
  readonly burst: number;
}

/** A token bucket on the monotonic clock, read at each call: a jump of the wall clock gives nothing away, and a stalled event loop no more than one burst.
 *
 *  In any window T it admits at most `rate * T + burst`. A single take larger than the burst waits for a full bucket and leaves a debt that the next ones wait for; then the bound is
 *  `rate * T + that take`. */
export class TokenBucket {
  readonly #clock: Clock;
  #shape: BucketShape;
  #tokens: number;
  #filledAt: number;

  constructor(shape: BucketShape, clock: Clock) {
    this.#shape = shape;
    this.#clock = clock;
    this.#tokens = shape.burst;
    this.#filledAt = clock.monotonic();
  }

  get burst(): number {
    return this.#shape.burst;
  }

  /** From now on by this rate and burst. The level stays, a debt too: else each new grant would be worth another burst. */
  reshape(shape: BucketShape): void {
    this.#fill();
    this.#shape = shape;
    this.#tokens = Math.min(shape.burst, this.#tokens);
  }

  /** ms until `amount` may be taken; 0 = now, Infinity = never at a rate of 0. */
  waitMs(amount: number): number {
    // At a rate of 0 there is no full bucket to wait for and no debt that would ever be paid.
    if (this.#shape.ratePerSecond === 0) return Math.max(1, amount) <= this.#tokens ? 0 : Number.POSITIVE_INFINITY;
    return this.#untilMs(Math.min(amount, this.#shape.burst));
  }

  /** ms until all of `amount` would have been admitted, were it taken in many small steps. */
  drainMs(amount: number): number {
    return this.#untilMs(amount);
  }

  take(amount: number): void {
    this.#fill();
    this.#tokens -= amount;
  }

  refund(amount: number): void {
    this.#tokens = Math.min(this.#shape.burst, this.#tokens + amount);
  }

  #untilMs(level: number): number {
    this.#fill();
    const missing = level - this.#tokens;
    // Rounded up: a caller who comes back a hair too early would ask again and again.
    return missing <= 0 ? 0 : Math.max(1, Math.ceil((missing / this.#shape.ratePerSecond) * 1000));
  }

  #fill(): void {
    const now = this.#clock.monotonic();
    this.#tokens = Math.min(this.#shape.burst, this.#tokens + ((now - this.#filledAt) / 1000) * this.#shape.ratePerSecond);
    this.#filledAt = now;
  }
}
