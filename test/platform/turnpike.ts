import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'vitest';

const root = path.resolve(import.meta.dirname, '../..');
const bin = path.join(root, 'packages/platform/dist/cli.js');

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

type Env = Readonly<Record<string, string>>;

/** Only what a shell has: nothing of ours, and none of what vitest sets. */
const bare: Env = { PATH: `${path.dirname(process.execPath)}:${process.env.PATH}`, HOME: process.env.HOME ?? '', NO_COLOR: '1' };

/** A repository as its team has it, in a folder of its own. */
export class Repository implements Disposable {
  readonly folder = mkdtempSync(path.join(tmpdir(), 'repository-'));

  constructor(files: Readonly<Record<string, string>>) {
    this.write({ 'package.json': '{"type":"module"}', ...files });
    mkdirSync(this.path('node_modules/@turnpike'), { recursive: true });
    symlinkSync(path.join(root, 'packages/client'), this.path('node_modules/@turnpike/client'));
  }

  path(name: string): string {
    return path.join(this.folder, name);
  }

  write(files: Readonly<Record<string, string>>): void {
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(path.dirname(this.path(name)), { recursive: true });
      writeFileSync(this.path(name), text);
    }
  }

  read(name: string): string {
    return readFileSync(this.path(name), 'utf8');
  }

  /** As `ls -l` shows it: 0o600. */
  mode(name: string): string {
    return `0${(statSync(this.path(name)).mode & 0o777).toString(8)}`;
  }

  /** Runs a command to its end. */
  turnpike(args: readonly string[], env: Env = {}): Promise<Ended> {
    return this.node([bin, ...args], env);
  }

  node(args: readonly string[], env: Env = {}): Promise<Ended> {
    return this.#run(process.execPath, args, env);
  }

  /** Runs what a user would paste into a shell. */
  shell(line: string): Promise<Ended> {
    return this.#run('/bin/sh', ['-c', line], {});
  }

  async #run(program: string, args: readonly string[], env: Env): Promise<Ended> {
    try {
      const { stdout, stderr } = await promisify(execFile)(program, args, { cwd: this.folder, env: { ...bare, ...env }, timeout: 60_000 });
      return { code: 0, stdout, stderr };
    } catch (error) {
      const { code, stdout, stderr, signal } = error as Ended & { signal: string | null };
      if (signal) throw new Error(`${path.basename(program)} ${args.join(' ')} was killed (${signal}): ${stdout}${stderr}`);
      return { code, stdout, stderr };
    }
  }

  /** As in `turnpike ... | head`, whose reader has gone before a word is written. */
  async unread(args: readonly string[]): Promise<Ended> {
    // The program begins when its stdin ends.
    const wait = 'data:text/javascript,await new Promise((begin) => process.stdin.once("end", begin).resume());';
    const child = spawn(process.execPath, ['--import', wait, bin, ...args], { cwd: this.folder, env: bare, stdio: ['pipe', 'pipe', 'pipe'] });
    let stderr = '';
    child.stderr.on('data', (chunk) => (stderr += String(chunk)));
    const ended = once(child, 'close');
    child.stdout.destroy();
    await once(child.stdout, 'close');
    child.stdin.end();
    const [code] = await ended;
    return { code, stdout: '', stderr };
  }

  /** Starts one that runs until it is told to stop. */
  start(args: readonly string[], env: Env = {}): Running {
    return new Running(spawn(process.execPath, [bin, ...args], { cwd: this.folder, env: { ...bare, ...env }, stdio: ['ignore', 'pipe', 'pipe'] }));
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export class Running implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;
  stdout = '';
  stderr = '';

  constructor(child: ChildProcess) {
    this.#child = child;
    this.#exited = once(child, 'close');
    child.stdout?.on('data', (chunk) => (this.stdout += String(chunk)));
    child.stderr?.on('data', (chunk) => (this.stderr += String(chunk)));
  }

  /** Resolves when it has said so. */
  async says(what: RegExp): Promise<void> {
    await expect.poll(() => this.stdout + this.stderr, { timeout: 60_000, interval: 50 }).toMatch(what);
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async ended(): Promise<Ended & { readonly signal: NodeJS.Signals | null }> {
    await this.#exited;
    return { code: this.#child.exitCode, signal: this.#child.signalCode, stdout: this.stdout, stderr: this.stderr };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill('SIGKILL');
    await this.#exited;
  }
}

/** The command lines of all processes that name this folder. */
export async function processesOf(folder: string): Promise<readonly string[]> {
  const { stdout } = await promisify(execFile)('ps', ['-eo', 'args=']);
  return stdout.split('\n').filter((line) => line.includes(folder));
}
