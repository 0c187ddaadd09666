import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const sources = fileURLToPath(new URL('./sources.mjs', import.meta.url));

/** A Node process of its own that runs the given module text; the workspace's names stand for their sources. */
export interface Program extends AsyncDisposable {
  readonly process: ChildProcess;
  /** The next line that begins so, without that beginning. */
  line(beginning: string): Promise<string>;
  /** How it ended, with what it wrote. */
  readonly ended: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null; readonly output: string }>;
}

export function startProgram(text: string, env: Readonly<Record<string, string>> = {}): Program {
  const child = spawn(process.execPath, ['--import', sources, '--input-type=module', '-e', text], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  const lines: string[] = [];
  const waiting = new Set<() => void>();
  const add = (line: string) => {
    lines.push(line);
    for (const look of waiting) look();
  };
  createInterface({ input: child.stdout }).on('line', add);
  createInterface({ input: child.stderr }).on('line', add);
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null; output: string }>((resolve) => {
    child.once('close', (code, signal) => resolve({ code, signal, output: lines.join('\n') }));
  });
  return {
    process: child,
    ended,
    line: (beginning) =>
      new Promise((resolve, reject) => {
        const look = () => {
          const found = lines.find((line) => line.startsWith(beginning));
          if (found === undefined) return;
          waiting.delete(look);
          resolve(found.slice(beginning.length));
        };
        waiting.add(look);
        look();
        void ended.then(({ output }) => reject(new Error(`it ended without the line ${beginning}: ${output}`)));
      }),
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

/** The commands of all processes in which the text occurs, by pid. */
export function processesWith(text: string): ReadonlyMap<number, string> {
  const found = new Map<number, string>();
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    const command = unlessGone(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' '));
    if (command?.includes(text)) found.set(Number(pid), command);
  }
  return found;
}

/** A process, or a file of it, may end while it is looked at. */
export function unlessGone<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch {
    return undefined;
  }
}
