/** Where records without a key go: one partition until it has got a batch's worth of bytes, then another, chosen at random (KIP-480, KIP-794); away at once from one that has no leader. */
export class StickyPartition {
  readonly #random: () => number;
  readonly #switchBytes: number;
  #partition = -1;
  #bytes = 0;

  constructor(options: { random: () => number; switchBytes: number }) {
    this.#random = options.random;
    this.#switchBytes = options.switchBytes;
  }

  next(partitions: number, bytes: number, isLed: (partition: number) => boolean): number {
    if (this.#partition < 0 || this.#partition >= partitions || this.#bytes >= this.#switchBytes || !isLed(this.#partition)) {
      this.#partition = this.#choose(partitions, isLed);
      this.#bytes = 0;
    }
    this.#bytes += bytes;
    return this.#partition;
  }

  #choose(partitions: number, isLed: (partition: number) => boolean): number {
    const any = Math.floor(this.#random() * partitions);
    if (isLed(any)) return any;
    const led = Array.from({ length: partitions }, (_, p) => p).filter(isLed);
    return led[Math.floor(this.#random() * led.length)] ?? any;
  }
}
