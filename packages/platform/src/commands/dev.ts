import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants as fileModes, mkdtempSync, rmSync, statSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import path from 'node:path';
import { TurnpikeError } from '@turnpike/core';
import { BrokerWatch } from '../dev/broker-watch.ts';
import { ADMIN_ENV_FILE, LocalFiles } from '../dev/files.ts';
import type { LocalService } from '../dev/local.ts';
import { loadManifest } from '../manifest/load.ts';
import { Exit } from './exit.ts';

interface DevOptions {
  readonly file: readonly string[];
  readonly nodes: '1' | '3';
  readonly folder: string;
  readonly service?: string;
}

export async function dev(command: readonly string[], options: DevOptions): Promise<void> {
  const { nodes, folder } = options;
  const files = options.file.length > 0 ? options.file : ['turnpike.yaml'];
  const manifests = files.map((f) => loadManifest(f));
  const chosen = chosenName(
    manifests.flatMap((m) => m.services.filter((s) => s.runtime === 'sdk').map((s) => s.name)),
    { ...options, command },
  );
  requireProgram(command);
  const { startPlatform } = await testing();
  const { prepareLocal } = await import('../dev/local.ts');
  // What the command prints is its own: it may be piped.
  const say = command.length === 0 ? (line: string) => console.log(line) : (line: string) => console.error(line);
  const stopping = new Stopping();
  const local = LocalFiles.claim(folder, stopping.directory);
  process.once('exit', () => local.release());
  await using platform = await startPlatform({ nodes: nodes === '3' ? 3 : 1, directory: stopping.directory, closeOnSignal: false, onProgress: say });
  const services = await prepareLocal({
    platform,
    manifests,
    folder: path.resolve(folder),
    onProgress: (line) => say(`+ ${line}`),
    onWritten: (file, text) => local.wrote(file, text),
  });
  for (const line of [...describeServices(services), ...describeAdmin(folder, files), ...describePlaces(folder, platform.directory)]) say(line);
  using brokers = new BrokerWatch(platform.nodes);
  brokers.onLost = (lost) => {
    console.error(lost.message);
    stopping.ask();
  };
  const found = services.find((s) => s.name === chosen);
  if (!found) await stopping.untilAsked(() => say('ready       Ctrl-C stops it'));
  else process.exitCode = await run(command, found, stopping);
  if (brokers.lost) process.exitCode = Exit.error;
}

/** Whose variables the command gets; undefined without a command. */
function chosenName(names: readonly string[], { command, service }: { readonly command: readonly string[]; readonly service?: string }): string | undefined {
  if (service !== undefined && !names.includes(service))
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `There is no service ${service} that uses the SDK; --service takes ${names.join(' | ') || 'none: the manifest has no service'}.`,
    );
  if (command.length === 0) return undefined;
  const name = service ?? (names.length === 1 ? names[0] : undefined);
  if (name !== undefined) return name;
  throw new TurnpikeError('CONFIG_INVALID', `Say whose variables the command gets: --service ${names.join(' | ') || '(the manifest has no service)'}.`);
}

const NOT_FOUND = 'Is it spelt right, and on the PATH?';

/** Before a platform is started for it. */
function requireProgram([program]: readonly string[]): void {
  if (program === undefined || process.platform === 'win32') return;
  const places = program.includes('/') ? [''] : (process.env.PATH ?? '').split(path.delimiter);
  if (places.some((place) => isExecutable(path.join(place, program)))) return;
  throw new TurnpikeError('CONFIG_INVALID', `${program} can't be started: there is no such program. ${NOT_FOUND}`);
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, fileModes.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}

/** In 80 columns, names and paths permitting. */
function describeServices(services: readonly LocalService[]): readonly string[] {
  return services.flatMap(({ name, principal, identity, envFile }) => [
    `service     ${name}${principal === name ? '' : ` as ${principal}`} (${identity === 'mtls' ? 'mTLS' : 'OAuth'}); run it with`,
    `            node --env-file=${path.relative(process.cwd(), envFile)} your-service.ts`,
  ]);
}

/** A command that works as it stands: this very program, however it was installed. */
function describeAdmin(folder: string, files: readonly string[]): readonly string[] {
  const at = path.relative(process.cwd(), path.join(path.resolve(folder), ADMIN_ENV_FILE));
  const [first = ''] = files;
  const program = path.relative(process.cwd(), process.argv[1] ?? 'turnpike');
  return [
    'admin       may do all; applies a change of the manifest with',
    ...continued(['node', `--env-file=${at}`, program, 'apply', '--env local', ...(first === 'turnpike.yaml' ? [] : [`-f ${first}`])]),
  ];
}

const INDENT = ' '.repeat(12);

/** A command for a shell, continued by backslashes where a line would be wider than 80 columns. */
function continued(words: readonly string[]): readonly string[] {
  const lines: string[] = [];
  let line = INDENT;
  for (const word of words) {
    // Two more columns for the backslash.
    if (line !== INDENT && line.length + word.length + 3 > 80) {
      lines.push(`${line} \\`);
      line = INDENT;
    }
    line += line === INDENT ? word : ` ${word}`;
  }
  return [...lines, line];
}

function describePlaces(folder: string, directory: string): readonly string[] {
  return [`grants      ${path.relative(process.cwd(), path.resolve(folder)) || '.'}: grants, variables, addresses`, `logs, keys  ${directory}`];
}

/** A signal ends the command first, while there still is a cluster to flush to, then the platform. Before there is one, it ends this process at once. */
class Stopping {
  /** Gone with this process, also when that ends before the platform is up. */
  readonly directory = mkdtempSync(path.join(tmpdir(), 'turnpike-'));
  #onSignal: (signal: NodeJS.Signals) => void = (signal) => process.exit(codeOf(signal));

  constructor() {
    process.once('exit', () => rmSync(this.directory, { recursive: true, force: true, maxRetries: 3 }));
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => this.#onSignal(signal));
  }

  /** As a signal does. */
  ask(): void {
    this.#onSignal('SIGTERM');
  }

  /** Resolves at the first signal; a later one changes nothing. */
  async untilAsked(ready: () => void): Promise<void> {
    const hold = setInterval(() => {}, 3_600_000);
    await new Promise<void>((resolve) => {
      this.#onSignal = () => resolve();
      ready();
    });
    clearInterval(hold);
  }

  /** The terminal has sent Ctrl-C to the command itself; other signals reach only us. The second one kills it. */
  passTo(child: ChildProcess): void {
    let asked = false;
    this.#onSignal = (signal) => {
      if (asked) child.kill('SIGKILL');
      else if (signal !== 'SIGINT' || !process.stdin.isTTY) child.kill(signal);
      asked = true;
    };
  }

  /** From now on the platform goes in its own time. */
  ignore(): void {
    this.#onSignal = () => {};
  }
}

function run([program = '', ...args]: readonly string[], service: LocalService, stopping: Stopping): Promise<number> {
  // What was set for another environment has no say here.
  const others = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('TURNPIKE_')));
  return new Promise<number>((resolve, reject) => {
    const child = spawn(program, args, { stdio: 'inherit', env: { ...others, ...service.env } });
    stopping.passTo(child);
    child.on('error', (cause: NodeJS.ErrnoException) => {
      const remedy = cause.code === 'ENOENT' ? NOT_FOUND : 'Can it be run from a shell?';
      reject(new TurnpikeError('CONFIG_INVALID', `${program} can't be started: ${cause.message}. ${remedy}`, { cause }));
    });
    child.on('exit', (code, signal) => resolve(code ?? (signal ? codeOf(signal) : Exit.clean)));
  }).finally(() => stopping.ignore());
}

/** As a shell has it. */
const codeOf = (signal: NodeJS.Signals): number => 128 + constants.signals[signal];

/** Only dev needs it: a service that just generates code need not install a platform. */
async function testing(): Promise<typeof import('@turnpike/testing')> {
  try {
    return await import('@turnpike/testing');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw cause;
    throw new TurnpikeError('PLATFORM_UNAVAILABLE', 'turnpike dev needs @turnpike/testing: npm install --save-dev @turnpike/testing', { cause });
  }
}
