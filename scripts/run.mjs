// `npm run COMMAND`: sets the workspace up if it isn't, then runs the command under the workspace's own Node.
// Plain JavaScript for Node 20: on a fresh machine it is the first thing that runs.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { commands } from './commands.mjs';
import { setup } from './setup.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const bin = path.join(root, 'node_modules', '.bin');

/** Runs one step and resolves with its exit code; Ctrl-C reaches the child, which ends by itself. */
function run([program, ...args], env) {
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd: root, stdio: 'inherit', env });
    const forward = (signal) => child.kill(signal);
    for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, forward);
    child.on('error', (error) => {
      console.error(`${program}: ${error.message}`);
      resolve(127);
    });
    child.on('exit', (code, signal) => resolve(signal ? 128 : (code ?? 1)));
  });
}

const [name, ...args] = process.argv.slice(2);
const command = name === 'setup' ? () => [] : commands[name];
if (!command) {
  console.error(`There is no command ${name ?? ''}. There are: setup, ${Object.keys(commands).join(', ')}.`);
  process.exit(2);
}

const node = await setup({ root, say: (line) => console.log(`setup: ${line}`), quiet: name !== 'setup' });
// The workspace's Node comes first for everything that the steps start.
const env = { ...process.env, PATH: `${bin}${path.delimiter}${process.env.PATH ?? ''}` };
for (const step of command({ node, args, root })) {
  const [program, ...rest] = step;
  const local = path.join(bin, program);
  const code = await run([program === 'node' ? node : existsSync(local) ? local : program, ...rest], env);
  if (code !== 0) process.exit(code);
}
