import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';

/** A condition that real I/O brings about; the deadline is for a machine under load. */
const eventually = <T>(f: () => T) => expect.poll(f, { timeout: 5_000 });

/** A process of its own, which says "ready" and then waits; what it wrote and how it ended. */
async function signalled(
  code: string,
  signals: readonly NodeJS.Signals[],
): Promise<{ readonly said: string[]; readonly code: number | null; readonly signal: string | null }> {
  const shutdown = new URL('./shutdown.ts', import.meta.url).href;
  const program = `
    import { setTimeout as pause } from 'node:timers/promises';
    import { writeSync } from 'node:fs';
    const { onShutdown } = await import(${JSON.stringify(shutdown)});
    const say = (text: string) => writeSync(1, text + '\\n');
    setInterval(() => {}, 60_000); // Something that keeps the process, as a server does.
    ${code}
    say('ready');`;
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', '--input-type=module-typescript', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    let output = '';
    child.stdout.on('data', (chunk) => {
      output += String(chunk);
    });
    await expect.poll(() => output, { timeout: 5_000 }).toContain('ready');
    const exited = once(child, 'exit');
    for (const [i, signal] of signals.entries()) {
      child.kill(signal);
      await eventually(() => output.split('\n').filter((l) => l === 'closing').length).toBeGreaterThanOrEqual(Math.min(i + 1, 1));
    }
    const [exitCode, exitSignal] = (await exited) as [number | null, string | null];
    return { said: output.trim().split('\n').slice(1), code: exitCode, signal: exitSignal };
  } finally {
    child.kill('SIGKILL');
  }
}

const closing = (name = '', ms = 50) => `async () => { say('closing'); await pause(${ms}); say('closed${name}'); }`;

describe('a shutdown signal', () => {
  it('closes first and then ends the process as it would have', async () => {
    expect(await signalled(`onShutdown(['SIGTERM'], ${closing()});`, ['SIGTERM'])).toEqual({ said: ['closing', 'closed'], code: null, signal: 'SIGTERM' });
  });

  it('ends it also when closing fails', async () => {
    expect(await signalled(`onShutdown(['SIGINT'], async () => { say('closing'); throw new Error('x'); });`, ['SIGINT'])).toMatchObject({ signal: 'SIGINT' });
  });

  it('that comes twice, as from a process manager and its group, cuts nothing short', async () => {
    const once = `let closed: Promise<void> | undefined; const close = ${closing('', 300)}; onShutdown(['SIGTERM'], () => (closed ??= close()));`;
    expect(await signalled(once, ['SIGTERM', 'SIGTERM'])).toEqual({ said: ['closing', 'closed'], code: null, signal: 'SIGTERM' });
  });

  it('ends the process only when the last of several connections has closed', async () => {
    const both = `onShutdown(['SIGTERM'], ${closing(' slow', 300)}); onShutdown(['SIGTERM'], ${closing(' quick', 10)});`;
    expect(await signalled(both, ['SIGTERM'])).toEqual({ said: ['closing', 'closing', 'closed quick', 'closed slow'], code: null, signal: 'SIGTERM' });
  });

  it.each(['on', 'once'])('leaves the end to the application that listens with %s(), though it registered first and takes longer', async (register) => {
    const app = `process.${register}('SIGTERM', async () => { await pause(300); say('application done'); process.exit(7); });`;
    expect(await signalled(`${app} onShutdown(['SIGTERM'], ${closing()});`, ['SIGTERM'])).toEqual({
      said: ['closing', 'closed', 'application done'],
      code: 7,
      signal: null,
    });
  });

  it('is the system’s again once the connection is closed', async () => {
    const over = `const shutdown = onShutdown(['SIGTERM'], ${closing()}); shutdown[Symbol.dispose](); say('closing');`;
    expect(await signalled(over, ['SIGTERM'])).toEqual({ said: ['ready'], code: null, signal: 'SIGTERM' });
  });
});
