import type { TurnpikeError } from '@turnpike/core';
import { type Pending, type ProducerPort, systemClock } from '@turnpike/core/spi';

export interface ValueRecord {
  readonly topic: string;
  readonly partition: number;
  readonly value: Buffer;
  /** Default: now. One that is older than its topic's retention may be deleted before it is read. */
  readonly timestampMs?: number;
  readonly withinMs: number;
}

/** Sends a value without a key at the seam. Resolves with its offset, or its error; rejects where it is refused before it waits. */
export function sendValue(
  port: ProducerPort,
  { topic, partition, value: buf, timestampMs = Date.now(), withinMs }: ValueRecord,
): Promise<bigint | TurnpikeError> {
  return new Promise((resolve) => {
    const pending: Pending = {
      deadlineMs: systemClock.monotonic() + withinMs,
      attempts: 0,
      span: undefined,
      acknowledge: (batch, i) => resolve(batch.baseOffset < 0n ? -1n : batch.baseOffset + BigInt(i)),
      fail: resolve,
    };
    const record = { topic, partition, timestampMs, headers: undefined, buf, keyStart: -1, keyEnd: -1, valueStart: 0, valueEnd: buf.length };
    if (!port.append(record, pending)) throw new Error(`${topic}/${partition}: there is no room for the record`);
  });
}
