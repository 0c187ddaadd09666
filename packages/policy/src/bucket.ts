export interface BucketShape {
  readonly ratePerSecond: number;
  readonly burst: number;
}

/** A token bucket. `now` is the monotonic clock in ms, read by the caller at each drain (once for all its buckets): a jump of the wall clock gives nothing away, and a stalled event loop
 *  no more than one burst.
 *
 *  In any window T it admits at most `rate * T + burst`. A single take larger than the burst waits for a full bucket and leaves a debt that the next ones wait for; then the bound is
 *  `rate * T + that take`. */
export class TokenBucket {
  #shape: BucketShape;
  #tokens: number;
  #filledAt: number;

  constructor(shape: BucketShape, now: number) {
    this.#shape = shape;
    this.#tokens = shape.burst;
    this.#filledAt = now;
  }

  get burst(): number {
    return this.#shape.burst;
  }

  /** From now on by this rate and burst. The level stays, a debt too: else each new grant would be worth another burst. */
  reshape(shape: BucketShape, now: number): void {
    this.#fill(now);
    this.#shape = shape;
    this.#tokens = Math.min(shape.burst, this.#tokens);
  }

  /** ms until `amount` may be taken; 0 = now, Infinity = never at a rate of 0. */
  waitMs(amount: number, now: number): number {
    // At a rate of 0 there is no full bucket to wait for and no debt that would ever be paid.
    if (this.#shape.ratePerSecond === 0) return Math.max(1, amount) <= this.#tokens ? 0 : Number.POSITIVE_INFINITY;
    return this.drainMs(Math.min(amount, this.#shape.burst), now);
  }

  /** ms until all of `amount` would have been admitted, were it taken in many small steps. */
  drainMs(amount: number, now: number): number {
    this.#fill(now);
    const missing = amount - this.#tokens;
    // Rounded up: a caller who comes back a hair too early would ask again and again.
    return missing <= 0 ? 0 : Math.max(1, Math.ceil((missing / this.#shape.ratePerSecond) * 1000));
  }

  take(amount: number, now: number): void {
    this.#fill(now);
    this.#tokens -= amount;
  }

  refund(amount: number): void {
    this.#tokens = Math.min(this.#shape.burst, this.#tokens + amount);
  }

  #fill(now: number): void {
    this.#tokens = Math.min(this.#shape.burst, this.#tokens + ((now - this.#filledAt) / 1000) * this.#shape.ratePerSecond);
    this.#filledAt = now;
  }
}
