import { constants } from 'node:os';

/** Runs `close` on the first of the signals; then, if nobody else listens to it, ends the process as the signal would have. A signal that comes again meanwhile changes nothing: a
 *  process manager often sends it to the process and to its group. Dispose of it when closed. */
export function onShutdown(signals: readonly NodeJS.Signals[], close: () => Promise<void>): Disposable {
  const dispose = () => {
    for (const signal of signals) process.removeListener(signal, listener);
  };
  const listener = (signal: NodeJS.Signals) => {
    // A wrapper of once(): it is gone from the list when it has been called, and what it does may take longer than we do.
    const somebodyOnce = process.rawListeners(signal).some((l) => 'listener' in l);
    void close()
      .catch(() => {}) // Logged by close(), and its caller, if any, has it too; the process ends all the same.
      .then(() => {
        dispose();
        // Another connection that is still closing listens still: the last one ends the process.
        if (!somebodyOnce && process.listenerCount(signal) === 0) end(signal);
      });
  };
  // First in line, so that a listener of somebody's once() is still there to be seen.
  for (const signal of signals) process.prependListener(signal, listener);
  return { [Symbol.dispose]: dispose };
}

function end(signal: NodeJS.Signals): void {
  // The first process of a container would not die of it: the kernel shields process 1 from signals that it has no handler for.
  if (process.pid === 1) process.exit(128 + constants.signals[signal]);
  process.kill(process.pid, signal);
}
