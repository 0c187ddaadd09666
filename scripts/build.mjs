// Builds the packages that need it (all of them with --force), each after those it depends on.
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { buildOrder, staleBuild } from './stale.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
for (const name of process.argv.includes('--force') ? buildOrder(root) : staleBuild(root)) {
  const folder = path.join(root, 'packages', name);
  const { code, output } = await tsup(folder);
  if (code !== 0) {
    console.error(`${output}\nbuild: @turnpike/${name} failed`);
    process.exit(1);
  }
  writeFileSync(path.join(folder, 'dist', '.built'), '');
}

function tsup(folder) {
  return new Promise((resolve) => {
    let output = '';
    const child = spawn(process.execPath, [path.join(root, 'node_modules', 'tsup', 'dist', 'cli-default.js'), '--config', '../../tsup.config.ts'], {
      cwd: folder,
    });
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk));
    child.on('exit', (code) => resolve({ code: code ?? 1, output }));
  });
}
