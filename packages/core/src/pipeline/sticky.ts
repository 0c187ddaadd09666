/** Where records without a key go: one partition until it has got a batch's worth of bytes, then another, chosen at random (KIP-480, KIP-794). */
export class StickyPartition {
  readonly #random: () => number;
  readonly #switchBytes: number;
  #partition = -1;
  #bytes = 0;

  constructor(options: { random: () => number; switchBytes: number }) {
    this.#random = options.random;
    this.#switchBytes = options.switchBytes;
  }

  next(partitions: number, bytes: number): number {
    if (this.#partition < 0 || this.#partition >= partitions || this.#bytes >= this.#switchBytes) {
      this.#partition = Math.floor(this.#random() * partitions);
      this.#bytes = 0;
    }
    this.#bytes += bytes;
    return this.#partition;
  }
}
