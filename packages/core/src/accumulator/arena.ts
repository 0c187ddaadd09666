const CHUNK_BYTES = 256 * 1024;

/** Hands out copies from large chunks: one allocation for many records. A chunk is freed by the collector when its last record is. */
export class Arena {
  #chunk = Buffer.alloc(0);
  #used = 0;

  copy(src: Buffer, start: number, end: number): Buffer {
    const length = end - start;
    // A large record gets memory of its own, so that it doesn't pin a chunk that is mostly waste.
    if (length > CHUNK_BYTES / 4) return Buffer.from(src.subarray(start, end));
    if (this.#used + length > this.#chunk.length) {
      this.#chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES);
      this.#used = 0;
    }
    const at = this.#used;
    src.copy(this.#chunk, at, start, end);
    this.#used += length;
    return this.#chunk.subarray(at, this.#used);
  }
}
