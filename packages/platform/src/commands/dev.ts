import { spawn } from 'node:child_process';
import path from 'node:path';
import { TurnpikeError } from '@turnpike/core';
import type { LocalService } from '../dev/local.ts';
import { loadManifest } from '../manifest/load.ts';

interface DevOptions {
  readonly file: readonly string[];
  readonly nodes: string;
  readonly folder: string;
  readonly service?: string;
}

export async function dev(command: readonly string[], { file, nodes, folder, service }: DevOptions): Promise<void> {
  if (nodes !== '1' && nodes !== '3') throw new TurnpikeError('CONFIG_INVALID', `--nodes is ${nodes}; it must be 1 or 3.`);
  const manifests = file.map((f) => loadManifest(f));
  const { startPlatform } = await testing();
  const { prepareLocal } = await import('../dev/local.ts');
  await using platform = await startPlatform({ nodes: nodes === '3' ? 3 : 1, onProgress: (line) => console.log(line) });
  const services = await prepareLocal({ platform, manifests, folder: path.resolve(folder), onProgress: (line) => console.log(`+ ${line}`) });
  for (const s of services) console.log(`service     ${s.name} as ${s.principal}: node --env-file=${path.relative(process.cwd(), s.envFile)} your-service.ts`);
  if (command.length === 0) await untilInterrupted();
  else process.exitCode = await run(command, chosen(services, service));
}

function chosen(services: readonly LocalService[], name: string | undefined): LocalService {
  const found = name === undefined && services.length === 1 ? services[0] : services.find((s) => s.name === name);
  if (!found) throw new TurnpikeError('CONFIG_INVALID', `Say whose variables the command gets: --service ${services.map((s) => s.name).join(' | ')}.`);
  return found;
}

function run([program = '', ...args]: readonly string[], { env }: LocalService): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: 'inherit', env: { ...process.env, ...env } });
    child.on('error', (cause) => reject(new TurnpikeError('CONFIG_INVALID', `${program} can't be started: ${cause.message}.`, { cause })));
    child.on('exit', (code, signal) => resolve(code ?? (signal ? 1 : 0)));
  });
}

function untilInterrupted(): Promise<void> {
  console.log('ready       Ctrl-C stops it');
  return new Promise((resolve) => {
    const hold = setInterval(() => {}, 3_600_000);
    for (const signal of ['SIGINT', 'SIGTERM'] as const)
      process.once(signal, () => {
        clearInterval(hold);
        resolve();
      });
  });
}

/** Only dev needs it: a service that just generates code need not install a platform. */
async function testing(): Promise<typeof import('@turnpike/testing')> {
  try {
    return await import('@turnpike/testing');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw cause;
    throw new TurnpikeError('PLATFORM_UNAVAILABLE', 'turnpike dev needs @turnpike/testing: npm install --save-dev @turnpike/testing', { cause });
  }
}
