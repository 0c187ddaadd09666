import type { OutboundRecord } from '../spi/transport.ts';

/** The buffer that codecs write into, and the record that is made of it. Shared by a client's producers: encoding is synchronous, so only one uses it at a time. */
export class Scratch {
  buf = Buffer.allocUnsafeSlow(64 * 1024);
  /** Of the one send() under way. */
  readonly record: OutboundRecord = emptyRecord();
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

export const emptyRecord = (): OutboundRecord => ({
  topic: '',
  partition: -1,
  timestampMs: 0,
  headers: undefined,
  buf: NOTHING,
  keyStart: -1,
  keyEnd: -1,
  valueStart: -1,
  valueEnd: -1,
});

const NOTHING = Buffer.alloc(0);
