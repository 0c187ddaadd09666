import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import path from 'node:path';
import { TurnpikeError } from '@turnpike/core';
import type { LocalService } from '../dev/local.ts';
import { loadManifest } from '../manifest/load.ts';
import { Exit } from './exit.ts';

interface DevOptions {
  readonly file: readonly string[];
  readonly nodes: '1' | '3';
  readonly folder: string;
  readonly service?: string;
}

export async function dev(command: readonly string[], { file, nodes, folder, service }: DevOptions): Promise<void> {
  const manifests = (file.length > 0 ? file : ['turnpike.yaml']).map((f) => loadManifest(f));
  const chosen =
    command.length === 0
      ? undefined
      : nameOf(
          manifests.flatMap((m) => m.services.filter((s) => s.runtime === 'sdk').map((s) => s.name)),
          service,
        );
  const { startPlatform } = await testing();
  const { prepareLocal } = await import('../dev/local.ts');
  // What the command prints is its own: it may be piped.
  const say = command.length === 0 ? (line: string) => console.log(line) : (line: string) => console.error(line);
  const stopping = new Stopping();
  await using platform = await startPlatform({ nodes: nodes === '3' ? 3 : 1, directory: stopping.directory, closeOnSignal: false, onProgress: say });
  const services = await prepareLocal({ platform, manifests, folder: path.resolve(folder), onProgress: (line) => say(`+ ${line}`) });
  for (const line of described(services, folder, platform.directory)) say(line);
  const found = services.find((s) => s.name === chosen);
  if (!found) await stopping.untilAsked(() => say('ready       Ctrl-C stops it'));
  else process.exitCode = await run(command, found, stopping);
}

function nameOf(names: readonly string[], asked: string | undefined): string {
  const name = asked ?? (names.length === 1 ? names[0] : undefined);
  if (name !== undefined && names.includes(name)) return name;
  throw new TurnpikeError('CONFIG_INVALID', `Say whose variables the command gets: --service ${names.join(' | ') || '(the manifest has no service)'}.`);
}

/** In 80 columns, names and paths permitting. */
function described(services: readonly LocalService[], folder: string, directory: string): readonly string[] {
  return [
    ...services.flatMap(({ name, principal, identity, envFile }) => [
      `service     ${name}${principal === name ? '' : ` as ${principal}`} (${identity === 'mtls' ? 'mTLS' : 'OAuth'}); run it with`,
      `            node --env-file=${path.relative(process.cwd(), envFile)} your-service.ts`,
    ]),
    `grants      ${path.relative(process.cwd(), path.resolve(folder)) || '.'}: grants, variables, addresses`,
    `logs, keys  ${directory}`,
  ];
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
    child.on('error', (cause) => reject(new TurnpikeError('CONFIG_INVALID', `${program} can't be started: ${cause.message}.`, { cause })));
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
