/** The buffer that codecs write into. Shared by a client's producers: encoding is synchronous, so only one uses it at a time. */
export class Scratch {
  buf = Buffer.allocUnsafeSlow(64 * 1024);
  #taken = false;

  /** A getter of an event, or a codec, may call send() itself: that inner call gets a buffer of its own. */
  take(): Scratch {
    if (this.#taken) return new Scratch();
    this.#taken = true;
    return this;
  }

  release(): void {
    this.#taken = false;
  }

  /** Makes room for `atLeast` bytes; what was written up to `used` stays. */
  grow(used: number, atLeast: number): void {
    const next = Buffer.allocUnsafeSlow(Math.max(atLeast, this.buf.length * 2));
    this.buf.copy(next, 0, 0, used);
    this.buf = next;
  }
}
