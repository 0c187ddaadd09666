import { spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { TurnpikeError } from '@turnpike/core';
import { pause, systemClock } from '@turnpike/core/spi';

/** A server process that doesn't outlive this one, however this one ends. */
export interface Child {
  readonly pid: number;
  readonly exited: Promise<void>;
  readonly running: boolean;
  signal(signal: NodeJS.Signals): void;
  /** SIGTERM, then SIGKILL after `graceMs`. */
  stop(graceMs?: number): Promise<void>;
}

// The shell holds the read end of a pipe whose write end is this process's: when this process is gone, however it went, the pipe ends and the server with it.
const WRAPPER = `
pidfile=$1; leftovers=$2; shift 2
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
echo $child > "$pidfile"
( while read -r _ <&3; do :; done; trap "" TERM; kill -CONT $child; kill -KILL $child; sleep 0.2; [ -z "$leftovers" ] || rm -rf "$leftovers" ) >/dev/null 2>&1 &
guard=$!
wait $child
kill $guard 2>/dev/null
`;

export async function startChild(options: {
  readonly folder: string;
  readonly name: string;
  readonly command: readonly string[];
  readonly ready: RegExp;
  readonly timeoutMs: number;
  /** Removed when this process dies without stopping the server. */
  readonly leftovers?: string | undefined;
}): Promise<Child> {
  const { folder, name, command, ready, timeoutMs, leftovers } = options;
  const pidFile = path.join(folder, `${name}.pid`);
  const logFile = path.join(folder, `${name}.log`);
  const log = openSync(logFile, 'w', 0o600);
  // Its own session: a Ctrl-C reaches us alone, and we stop it in order.
  const shell = spawn('sh', ['-c', WRAPPER, 'sh', pidFile, leftovers ?? '', ...command], { stdio: ['pipe', log, log], detached: true, cwd: folder });
  closeSync(log);
  let running = true;
  const exited = new Promise<void>((resolve) => {
    const end = () => {
      running = false;
      resolve();
    };
    shell.once('exit', end);
    shell.once('error', end);
  });
  shell.unref();
  (shell.stdin as unknown as { unref?: () => void }).unref?.();
  const end = performance.now() + timeoutMs;
  while (!ready.test(existsSync(logFile) ? readFileSync(logFile, 'utf8') : '')) {
    if (!running || performance.now() > end) {
      shell.kill('SIGKILL');
      shell.stdin?.destroy();
      throw new TurnpikeError('PLATFORM_UNAVAILABLE', `${name} did not start${running ? ` within ${timeoutMs / 1000} s` : ''}: ${meaningful(logFile)}`);
    }
    await pause(systemClock, 25);
  }
  const pid = Number(readFileSync(pidFile, 'utf8'));
  const child: Child = {
    pid,
    exited,
    get running() {
      return running;
    },
    signal(signal) {
      if (running) process.kill(pid, signal);
    },
    async stop(graceMs = 15_000) {
      if (!running) return;
      process.kill(pid, 'SIGCONT');
      process.kill(pid, 'SIGTERM');
      const over = new AbortController();
      await Promise.race([exited, pause(systemClock, graceMs, over.signal)]);
      over.abort();
      if (running) process.kill(pid, 'SIGKILL');
      await exited;
      shell.stdin?.destroy();
    },
  };
  return child;
}

/** The lines of a Java log that say why. */
function meaningful(logFile: string): string {
  const lines = existsSync(logFile) ? readFileSync(logFile, 'utf8').split('\n') : [];
  const errors = lines.filter((l) => /ERROR|FATAL|Exception|Caused by|Address already in use|Error:/.test(l));
  return (errors.length > 0 ? errors : lines).slice(0, 6).join(' | ').slice(0, 1200) || 'it wrote no log';
}
