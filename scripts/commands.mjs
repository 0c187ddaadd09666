// What each `npm run COMMAND` does, as steps that run one after another until one fails.
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';

const typescript = (version) => ['node', `node_modules/${version}/bin/tsc`, '-p', 'tsconfig.json'];
const check = () => [['biome', 'check', '--error-on-warnings', '.'], typescript('typescript'), typescript('typescript7'), ['knip', '--no-config-hints']];

/** What a command is asked for that there isn't: exit code 2, before anything is installed or built. */
export class Usage extends Error {}

export const commands = {
  test: ({ args }) => [...(args.length > 0 ? [] : check()), ['vitest', 'run', ...args]],
  check,
  typecheck: () => [typescript('typescript'), typescript('typescript7')],
  format: () => [['biome', 'check', '--write', '.']],
  build: () => [['node', 'scripts/build.mjs', '--force']],
  quickstart: ({ args }) => [['node', 'examples/flights/quickstart.ts', ...args]],
  prove: ({ args: [name, ...rest], root }) => {
    const proofs = proofsIn(path.join(root, 'test', 'proofs'));
    if (proofs.includes(name)) return [['node', `test/proofs/${name}.ts`, ...rest]];
    throw new Usage(
      `${name === undefined ? 'Say which proof: npm run prove -- NAME' : `There is no proof ${name}`}. There are: ${proofs.join(', ') || 'none yet'}.`,
    );
  },
};

function proofsIn(folder) {
  if (!existsSync(folder)) return [];
  const files = readdirSync(folder).filter((file) => file.endsWith('.ts'));
  return files.map((file) => path.basename(file, '.ts')).sort();
}
