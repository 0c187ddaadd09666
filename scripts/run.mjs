// `npm run COMMAND`: sets the workspace up if it isn't, then runs the command under the workspace's own Node.
// Plain JavaScript for Node 20: on a fresh machine it is the first thing that runs.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { commands, needsAddon, Usage } from './commands.mjs';
import { setup } from './setup.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const bin = path.join(root, 'node_modules', '.bin');

let child;
// The child ends by itself and says how. At a terminal Ctrl-C has reached it already: a second one would cut its clean-up short.
process.on('SIGINT', () => {
  if (!process.stdin.isTTY) child?.kill('SIGINT');
});
process.on('SIGTERM', () => child?.kill('SIGTERM'));

/** Runs one step and resolves with its exit code. */
function run([program, ...args], env) {
  return new Promise((resolve) => {
    child = spawn(program, args, { cwd: root, stdio: 'inherit', env });
    child.on('error', (error) => {
      console.error(`${program}: ${error.message}`);
      resolve(127);
    });
    child.on('exit', (code, signal) => resolve(signal ? 128 + constants.signals[signal] : (code ?? 1)));
  });
}

const [name = '', ...args] = process.argv.slice(2);
let steps = [];
let addon = false;
try {
  if (name !== 'setup' && !Object.hasOwn(commands, name))
    throw new Usage(`There is no command ${name}. There are: setup, ${Object.keys(commands).join(', ')}.`);
  if (name !== 'setup') steps = commands[name]({ args, root });
  addon = needsAddon(name, { args, root });
} catch (error) {
  if (!(error instanceof Usage)) throw error;
  console.error(error.message);
  process.exit(2);
}

const node = await setup({ root, say: (line) => console.log(`setup: ${line}`), quiet: name !== 'setup', addon });
// The workspace's Node comes first for everything that the steps start.
const env = { ...process.env, PATH: `${bin}${path.delimiter}${process.env.PATH ?? ''}` };
for (const [program, ...rest] of steps) {
  const local = path.join(bin, program);
  const started = Date.now();
  const code = await run([program === 'node' ? node : existsSync(local) ? local : program, ...rest], env);
  if (steps.length > 1)
    console.log(`${name}: ${title(program, rest)} ${code === 0 ? 'took' : `ended with ${code} after`} ${((Date.now() - started) / 1000).toFixed(1)} s`);
  if (code !== 0) process.exit(code);
}

/** `biome`, or `typescript7` of `node node_modules/typescript7/bin/tsc`. */
function title(program, [file = '']) {
  return program === 'node' ? (file.split('/')[1] ?? file) : program;
}
