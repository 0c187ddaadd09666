/** Time as an argument, so that no test sleeps. */
export interface Clock {
  /** Wall clock, ms since the epoch. */
  now(): number;
  /** Monotonic ms, for durations and deadlines; its zero means nothing. */
  monotonic(): number;
  /** Calls `f` once after `ms` (>= 0). Disposing cancels. A pending timer keeps the process alive only if `holds`: for work that somebody awaits. */
  after(ms: number, f: () => void, options?: { readonly holds?: boolean }): Disposable;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  after(ms, f, options) {
    // setTimeout takes at most 2^31-1 ms and fires at once beyond it.
    const timer = setTimeout(f, Math.min(ms, 2_147_483_647));
    if (!options?.holds) timer.unref();
    return { [Symbol.dispose]: () => clearTimeout(timer) };
  },
};

/** Resolves after `ms`, or at once when the signal aborts. Keeps the process alive. */
export function pause(clock: Clock, ms: number, signal?: AbortSignal): Promise<void> {
  if (signal?.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      timer[Symbol.dispose]();
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = clock.after(ms, done, { holds: true });
    signal?.addEventListener('abort', done);
  });
}
