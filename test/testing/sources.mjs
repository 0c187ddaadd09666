// `node --import ./sources.mjs FILE.ts`: the workspace's names stand for their sources, as in the tests themselves, so that a process of its own needs no build.
import { readFileSync } from 'node:fs';
import { registerHooks } from 'node:module';

const root = new URL('../../', import.meta.url);
const { compilerOptions } = JSON.parse(readFileSync(new URL('tsconfig.json', root), 'utf8'));

registerHooks({
  resolve(specifier, context, next) {
    const file = compilerOptions.paths[specifier]?.[0];
    return file === undefined ? next(specifier, context) : next(new URL(file, root).href, context);
  },
});
