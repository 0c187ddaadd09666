import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { TurnpikeError } from '@turnpike/core';
import { pause, systemClock } from '@turnpike/core/spi';

/** A server process that doesn't outlive this one, however this one ends. */
export interface Child {
  readonly pid: number;
  /** Its exit code; 128 + n where signal n ended it. */
  readonly exited: Promise<number>;
  readonly running: boolean;
  signal(signal: NodeJS.Signals): void;
  /** SIGTERM, then SIGKILL after `graceMs`. */
  stop(graceMs?: number): Promise<number>;
}

// The shell holds the read end of a pipe whose write end is this process's: when this process is gone, however it went, the pipe ends and the server with it.
const WRAPPER = `
pidfile=$1; shift
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
echo $child > "$pidfile"
( while read -r _ <&3; do :; done; kill -CONT $child; kill -KILL $child ) >/dev/null 2>&1 &
guard=$!
wait $child
status=$?
kill $guard 2>/dev/null
exit $status
`;

// By the same pipe. More than once: the servers are being killed at the same time, and may still write into it.
const FOLDER_GUARD = `
while read -r _; do :; done
i=0
while [ -e "$1" ] && [ $i -lt 100 ]; do rm -rf "$1"; sleep 0.1; i=$((i + 1)); done
`;

/** Removes a folder when this process ends without having disposed of the guard: killed, crashed, or by process.exit(). */
export function guardFolder(folder: string): AsyncDisposable {
  const shell = startShell(FOLDER_GUARD, [folder], 'ignore', '/');
  const exited = new Promise<void>((resolve) => {
    shell.once('exit', () => resolve());
    shell.once('error', () => resolve());
  });
  return {
    [Symbol.asyncDispose]() {
      // It is the last thing that is waited for: nothing else may keep this process until then.
      shell.ref();
      shell.kill('SIGKILL');
      return exited;
    },
  };
}

export async function startChild(options: {
  readonly folder: string;
  readonly name: string;
  readonly command: readonly string[];
  readonly ready: RegExp;
  readonly timeoutMs: number;
  /** Ends the start, and what has been started. */
  readonly signal?: AbortSignal;
}): Promise<Child> {
  const { folder, name, command, ready, timeoutMs, signal } = options;
  const pidFile = path.join(folder, `${name}.pid`);
  const logFile = path.join(folder, `${name}.log`);
  const log = openSync(logFile, 'w', 0o600);
  const shell = startShell(WRAPPER, [pidFile, ...command], log, folder);
  closeSync(log);
  let running = true;
  const exited = new Promise<number>((resolve) => {
    const end = (code: number) => {
      running = false;
      shell.stdin?.destroy();
      resolve(code);
    };
    shell.once('exit', (code) => end(code ?? 137));
    shell.once('error', () => end(127));
  });
  const end = performance.now() + timeoutMs;
  while (!ready.test(existsSync(logFile) ? readFileSync(logFile, 'utf8') : '')) {
    const late = performance.now() > end;
    if (!running || late || signal?.aborted) {
      // The shell, its guard and the server: they are a process group.
      if (shell.pid !== undefined) send(-shell.pid, 'SIGKILL');
      await exited;
      throw new TurnpikeError('PLATFORM_UNAVAILABLE', `${name} did not start${late ? ` within ${timeoutMs / 1000} s` : ''}: ${meaningful(logFile)}`);
    }
    await pause(systemClock, 25, signal);
  }
  const pid = Number(readFileSync(pidFile, 'utf8'));
  return {
    pid,
    exited,
    get running() {
      return running;
    },
    signal(name) {
      if (running) send(pid, name);
    },
    async stop(graceMs = 15_000) {
      if (running) {
        // Stopped by SIGSTOP it would not see the other.
        send(pid, 'SIGCONT');
        send(pid, 'SIGTERM');
        const over = new AbortController();
        await Promise.race([exited, pause(systemClock, graceMs, over.signal)]);
        over.abort();
        if (running) send(pid, 'SIGKILL');
      }
      return exited;
    },
  };
}

/** In a session of its own: a Ctrl-C reaches us alone, and we stop it in order. Doesn't keep this process alive. */
function startShell(script: string, args: readonly string[], output: number | 'ignore', cwd: string): ChildProcess {
  const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/bin:/bin` };
  const shell = spawn('/bin/sh', ['-c', script, 'sh', ...args], { stdio: ['pipe', output, output], detached: true, cwd, env });
  shell.unref();
  (shell.stdin as unknown as { unref?: () => void } | null)?.unref?.();
  return shell;
}

/** A process that has just ended by itself is no error. */
function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** The lines of a Java log that say why. */
function meaningful(logFile: string): string {
  const lines = existsSync(logFile) ? readFileSync(logFile, 'utf8').split('\n') : [];
  const errors = lines.filter((l) => /ERROR|FATAL|Exception|Caused by|Address already in use|Error:/.test(l));
  return (errors.length > 0 ? errors : lines).slice(0, 6).join(' | ').slice(0, 1200) || 'it wrote no log';
}
