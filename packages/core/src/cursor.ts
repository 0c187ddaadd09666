/** Reads what records are made of: bytes, and zigzag varints as Protocol Buffers have them. @throws RangeError past the end: a length that lies. */
export class Cursor {
  readonly buf: Buffer;
  pos: number;

  constructor(buf: Buffer, pos: number) {
    this.buf = buf;
    this.pos = pos;
  }

  byte(): number {
    const byte = this.buf[this.pos++];
    // Without this a varint would be read for ever.
    if (byte === undefined) throw new RangeError('a record reaches past the end of its batch');
    return byte;
  }

  /** Of at most 32 bits. */
  varint(): number {
    let byte = this.byte();
    let z = byte & 0x7f;
    for (let shift = 7; byte > 0x7f; shift += 7) {
      byte = this.byte();
      z |= (byte & 0x7f) << shift;
    }
    return (z >>> 1) ^ -(z & 1);
  }

  /** Of at most 64 bits, for timestamps: as a number. */
  varlong(): number {
    const start = this.pos;
    let byte = this.byte();
    let z = byte & 0x7f;
    for (let shift = 7; byte > 0x7f; shift += 7) {
      // Nearly all deltas are small: four bytes are 28 bits.
      if (shift > 21) return this.#long(start);
      byte = this.byte();
      z |= (byte & 0x7f) << shift;
    }
    return (z >>> 1) ^ -(z & 1);
  }

  /** Passes over bytes with their length in front. Their length; -1 = null. */
  pass(): number {
    const length = this.varint();
    if (length > 0) {
      this.pos += length;
      if (this.pos > this.buf.length) throw new RangeError('a record reaches past the end of its batch');
    }
    return length;
  }

  bytes(): Buffer | null {
    const length = this.pass();
    return length < 0 ? null : this.buf.subarray(this.pos - length, this.pos);
  }

  #long(start: number): number {
    this.pos = start;
    let z = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = this.byte();
      z |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return Number((z >> 1n) ^ -(z & 1n));
    }
  }
}
