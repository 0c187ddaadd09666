// The native addon of @confluentinc/kafka-javascript, built for the workspace's Node: no install step fetches or builds one (pnpm-workspace.yaml).
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, cpSync, existsSync, mkdirSync, openSync, readFileSync, realpathSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import process from 'node:process';

const NAME = '@confluentinc/kafka-javascript';
const BINARY = 'confluent-kafka-javascript.node';
/** librdkafka as a shared library beside the addon, with TLS, OAUTHBEARER and all five codecs, and nothing that it could take from the machine otherwise. */
const FLAGS = ['--disable-gssapi', '--disable-curl', '--disable-lz4-ext', '--disable-debug-symbols'];
const OUTPUTS = [`Release/${BINARY}`, 'deps/librdkafka.so.1', 'deps/librdkafka++.so.1'];
const TOOLS = ['cc', 'c++', 'make', 'bash', 'python3'];
/** What librdkafka is compiled against, by the header that tells that it is there, and Debian's name of it. */
const LIBRARIES = [
  { header: 'openssl/ssl.h', debian: 'libssl-dev' },
  { header: 'zlib.h', debian: 'zlib1g-dev' },
  { header: 'zstd.h', debian: 'libzstd-dev' },
];

/** Why there is no addon, and what to do about it. */
export class AddonMissing extends Error {}

/** Resolves with whether there was something to do. @throws AddonMissing */
export async function ensureAddon({ root, node, say, cache = cacheFolder(), env = process.env, platform = process.platform }) {
  const folder = realpathSync(path.join(root, 'packages/transports/node_modules', ...NAME.split('/')));
  const key = keyOf(folder, node);
  const stamp = path.join(folder, 'build', '.turnpike-addon');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === key && existsSync(path.join(folder, 'build', OUTPUTS[0]))) return false;
  const kept = path.join(cache, key);
  if (existsSync(kept) && place(kept, folder, node)) {
    say("took Confluent's addon from the cache");
  } else {
    if (platform !== 'linux')
      throw new AddonMissing(`Confluent's addon is built here on Linux only (this is ${platform}).
Fetch Confluent's own binary: npx pnpm rebuild ${NAME}`);
    requireTools(env);
    requireLibraries({ say, env });
    const log = `${kept}.log`;
    mkdirSync(cache, { recursive: true });
    say("building Confluent's addon (1 to 3 minutes with two cores)");
    const built = build({ folder, node, log, work: `${kept}.building-${process.pid}`, env });
    rmSync(kept, { recursive: true, force: true });
    renameSync(built, kept);
    rmSync(`${kept}.building-${process.pid}`, { recursive: true, force: true });
    if (!place(kept, folder, node)) throw new AddonMissing(`Confluent's addon was built but doesn't load: see ${log}`);
  }
  writeFileSync(stamp, key);
  return true;
}

const cacheFolder = () => path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'turnpike');

/** One build for each package version, Node, machine and way of building. */
function keyOf(folder, node) {
  const { version } = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
  const asked = spawnSync(node, ['-p', '[process.versions.modules, process.platform, process.arch].join("-")'], { encoding: 'utf8' });
  const flags = createHash('sha256')
    .update(JSON.stringify([FLAGS, OUTPUTS]))
    .digest('hex')
    .slice(0, 8);
  return `confluent-${version}-abi${asked.stdout.trim()}-${flags}`;
}

/** Puts what was built where the package looks for it; false = it doesn't load here (the system's libraries have changed since). */
function place(kept, folder, node) {
  for (const output of OUTPUTS) {
    const to = path.join(folder, 'build', output);
    mkdirSync(path.dirname(to), { recursive: true });
    // A new file: a process that has the old one loaded keeps it.
    cpSync(path.join(kept, output), `${to}.new-${process.pid}`);
    renameSync(`${to}.new-${process.pid}`, to);
  }
  return spawnSync(node, ['-e', 'require("./librdkafka.js")'], { cwd: folder }).status === 0;
}

function requireTools(env) {
  const missing = TOOLS.filter((tool) => spawnSync(tool, ['--version'], { env, stdio: 'ignore' }).error);
  if (missing.length > 0)
    throw new AddonMissing(`Confluent's addon can't be built: ${missing.join(', ')} ${missing.length === 1 ? 'is' : 'are'} missing.
Install a C++ compiler, make and Python 3; on Debian and Ubuntu:
apt-get install build-essential python3`);
}

function requireLibraries({ say, env }) {
  const missing = () =>
    LIBRARIES.filter(
      ({ header }) => spawnSync('cc', ['-E', '-x', 'c', '-'], { env, input: `#include <${header}>\n`, stdio: ['pipe', 'ignore', 'ignore'] }).status !== 0,
    );
  const before = missing();
  if (before.length === 0) return;
  const packages = before.map((l) => l.debian);
  if (process.getuid?.() === 0 && !spawnSync('apt-get', ['--version'], { env, stdio: 'ignore' }).error) {
    say(`installing ${packages.join(', ')} with apt-get`);
    const quiet = { env: { ...env, DEBIAN_FRONTEND: 'noninteractive' }, stdio: 'ignore' };
    const install = () => spawnSync('apt-get', ['install', '-y', '--no-install-recommends', ...packages], quiet).status === 0;
    if (!install() && spawnSync('apt-get', ['update'], quiet).status === 0) install();
  }
  const left = missing();
  if (left.length === 0) return;
  throw new AddonMissing(`Confluent's addon can't be built: these headers are missing:
${left.map((l) => `${l.header} (Debian, Ubuntu: ${l.debian})`).join('\n')}
Install them as root, then run this again. On Debian and Ubuntu:
apt-get install ${left.map((l) => l.debian).join(' ')}`);
}

/** In a copy, so that a build that was cut short leaves nothing that looks like one. Returns the folder of the outputs. */
function build({ folder, node, log, work, env }) {
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  for (const name of ['deps', 'src', 'util', 'binding.gyp', 'package.json']) cpSync(path.join(folder, name), path.join(work, name), { recursive: true });
  cpSync(realpathSync(path.join(folder, '..', '..', 'nan')), path.join(work, 'node_modules', 'nan'), { recursive: true });
  const output = openSync(log, 'w', 0o600);
  try {
    const installed = path.join(work, 'librdkafka');
    const rdkafka = path.join(work, 'deps', 'librdkafka');
    const step = (program, args, cwd = rdkafka, more = {}) => {
      const { status, signal } = spawnSync(program, args, { cwd, stdio: ['ignore', output, output], env: { ...env, ...more } });
      if (signal === 'SIGINT' || signal === 'SIGTERM') throw new AddonMissing("The build of Confluent's addon was interrupted; the next run begins it again.");
      if (status !== 0) throw new AddonMissing(`The build of Confluent's addon failed: see ${log}`);
    };
    step('bash', ['./configure', `--prefix=${installed}`, `--libdir=${installed}/lib`, ...FLAGS]);
    step('make', ['-j2', 'libs']);
    step('make', ['install-subdirs']);
    const { gyp, headers } = gypFor(node);
    step(gyp[0], [...gyp.slice(1), 'rebuild'], work, {
      // The library is built above, with two jobs: binding.gyp's own way runs as many as there are files.
      BUILD_LIBRDKAFKA: '0',
      JOBS: '2',
      CXXFLAGS: `-I${installed}/include/librdkafka`,
      LDFLAGS: `-L${installed}/lib -Wl,-rpath,'$$ORIGIN/../deps'`,
      PATH: `${path.dirname(node)}${path.delimiter}${env.PATH ?? ''}`,
      ...(headers ? { npm_config_nodedir: headers } : {}),
    });
    const built = path.join(work, 'built');
    for (const file of OUTPUTS) {
      const from = file.startsWith('deps/') ? path.join(installed, 'lib', path.basename(file)) : path.join(work, 'build', file);
      cpSync(from, path.join(built, file), { dereference: true });
    }
    return built;
  } catch (error) {
    rmSync(work, { recursive: true, force: true });
    throw error;
  } finally {
    closeSync(output);
  }
}

/** npm brings node-gyp. Where Node brings its headers they are used; else node-gyp fetches them. */
function gypFor(node) {
  const npm = [process.env.npm_execpath, path.join(path.dirname(realpathSync(process.execPath)), '../lib/node_modules/npm/bin/npm-cli.js')];
  const gyp = npm.map((cli) => cli && path.resolve(path.dirname(cli), '../node_modules/node-gyp/bin/node-gyp.js')).find((file) => file && existsSync(file));
  const home = path.resolve(path.dirname(realpathSync(node)), '..');
  return {
    gyp: gyp ? [node, gyp] : ['npx', '--yes', 'node-gyp@12'],
    headers: existsSync(path.join(home, 'include/node/node.h')) ? home : undefined,
  };
}
