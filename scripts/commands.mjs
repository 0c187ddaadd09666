// What each `npm run COMMAND` does, as steps that run one after another until one fails.
import { readdirSync } from 'node:fs';
import path from 'node:path';

const typescript = (version) => ['node', `node_modules/${version}/bin/tsc`, '-p', 'tsconfig.json'];
const check = () => [['biome', 'check', '--error-on-warnings', '.'], typescript('typescript'), typescript('typescript7'), ['knip']];

export const commands = {
  test: ({ args }) => [...(args.length > 0 ? [] : check()), ['vitest', 'run', ...args]],
  check,
  typecheck: () => [typescript('typescript'), typescript('typescript7')],
  format: () => [['biome', 'check', '--write', '.']],
  build: () => [['node', 'scripts/build.mjs', '--force']],
  quickstart: ({ args }) => [['node', 'examples/flights/quickstart.ts', ...args]],
  prove: ({ args: [name, ...rest], root }) => {
    const proofs = readdirSync(path.join(root, 'test', 'proofs'))
      .filter((f) => f.endsWith('.ts'))
      .map((f) => f.slice(0, -3));
    if (!proofs.includes(name)) {
      console.error(`There is no proof ${name ?? ''}. There are: ${proofs.join(', ') || 'none yet'}.`);
      process.exit(2);
    }
    return [['node', `test/proofs/${name}.ts`, ...rest]];
  },
};
