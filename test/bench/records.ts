// Keys, values and events, the same for every client and in every round.
import { events, type Order } from './order.ts';

const KEYS = 10_000;

export const keyTexts: readonly string[] = Array.from({ length: KEYS }, (_, i) => `order-${String((i * 7919) % 100_000).padStart(6, '0')}`);
/** As a peer takes them without further work. */
export const keys: readonly Buffer[] = keyTexts.map((text) => Buffer.from(text));

/** Text as services send it, so that it compresses as theirs does. */
const text = Buffer.from(events.map((event) => JSON.stringify(event)).join('\n'));
const VALUES = 64;

/** Values of so many bytes. */
export function valuesOf(bytes: number): readonly Buffer[] {
  return Array.from({ length: VALUES }, (_, i) => {
    const start = (i * 4_099) % (text.length - bytes);
    return Buffer.from(text.subarray(start, start + bytes));
  });
}

/** The one at `i`, again from the beginning after the last. */
export function at<T>(list: readonly T[], i: number): T {
  return list[i % list.length] as T;
}

export const orderAt = (i: number): Order => at(events, i);
