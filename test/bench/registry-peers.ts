// The peers' own registry packages. Together they weigh more than the rest of the workspace (one brings the SDKs of three clouds), so they are no dependency: installed when a test needs them, into the user's cache folder.
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { homedir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

/** Of a client -> what it serializes with. */
const PACKAGES: Readonly<Record<string, { readonly name: string; readonly version: string }>> = {
  kafkajs: { name: '@kafkajs/confluent-schema-registry', version: '4.1.0' },
  confluent: { name: '@confluentinc/schemaregistry', version: '1.10.1' },
};

const folderOf = (client: string): string => path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'turnpike', 'bench', `registry-${client}`);

/** Nothing of the package runs at install. What can't be had is said where it is needed: its client is left out. */
export async function prepareRegistryPeer(client: string, say: (line: string) => void): Promise<void> {
  const wanted = PACKAGES[client];
  if (wanted === undefined) return;
  const folder = folderOf(client);
  if (existsSync(path.join(folder, 'node_modules', wanted.name))) return;
  say(`bench: installing ${wanted.name} ${wanted.version}, once, into the user's cache`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, 'package.json'), JSON.stringify({ private: true, dependencies: { [wanted.name]: wanted.version } }));
  try {
    await promisify(execFile)('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], { cwd: folder });
  } catch (error) {
    const said = (error as { stderr?: string }).stderr?.trim().split('\n')[0];
    say(`bench: ${wanted.name} could not be installed: ${said || (error as Error).message}`);
  }
}

/** Where the client's own packages are looked for. */
export const requireRegistryPeer = (client: string) => createRequire(path.join(folderOf(client), 'package.json'));
