/** Runs `close` on the first of the signals; then, if nobody else listens to it, ends the process as the signal would have. */
export function onShutdown(signals: readonly NodeJS.Signals[], close: () => Promise<void>): Disposable {
  const listeners = signals.map((signal) => {
    const listener = () => {
      const alone = process.listenerCount(signal) === 0; // once() has taken ours off already.
      void close()
        .catch(() => {}) // Its caller, if any, has the error; the process ends all the same.
        .then(() => {
          if (alone) process.kill(process.pid, signal);
        });
    };
    process.once(signal, listener);
    return { signal, listener };
  });
  return {
    [Symbol.dispose]() {
      for (const { signal, listener } of listeners) process.removeListener(signal, listener);
    },
  };
}
