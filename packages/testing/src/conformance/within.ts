import { AssertionError } from 'node:assert/strict';
import { pause, systemClock } from '@turnpike/core/spi';

/** Rejects when `promise` takes longer than `ms`; `what` says what didn't happen. */
export async function within<T>(ms: number, promise: Promise<T>, what: string): Promise<T> {
  const over = new AbortController();
  const late = pause(systemClock, ms, over.signal).then((): never => {
    throw new AssertionError({ message: `${what}: not within ${ms} ms` });
  });
  late.catch(() => {}); // Where the promise won.
  return Promise.race([promise, late]).finally(() => over.abort());
}

/** Lets the event loop go round once: timers, what has arrived. */
export const aTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Asks until the answer satisfies; rejects with the last answer when it doesn't within `ms`. */
export async function eventually<T>(ms: number, ask: () => T | Promise<T>, satisfies: (answer: T) => boolean, what: string): Promise<T> {
  const until = performance.now() + ms;
  for (;;) {
    const answer = await ask();
    if (satisfies(answer)) return answer;
    if (performance.now() >= until) throw new AssertionError({ message: `${what}: not within ${ms} ms; last seen: ${shown(answer)}` });
    await pause(systemClock, 20);
  }
}

function shown(value: unknown): string {
  return JSON.stringify(value, (_, v) => (typeof v === 'bigint' ? `${v}n` : v))?.slice(0, 500) ?? String(value);
}
