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
  example: ({ args, root }) => runNamed('example', 'example', examplesIn(path.join(root, 'examples')), args, (name) => `examples/${name}/main.ts`),
  bench: ({ args }) => [['node', 'test/bench/main.ts', ...args]],
  prove: ({ args, root }) => runNamed('prove', 'proof', proofsIn(path.join(root, 'test', 'proofs')), args, (name) => `test/proofs/${name}.ts`),
};

/** What `--transport` takes. */
const TRANSPORTS = ['wire', 'confluent', 'kafkajs'];
/** The options of the test runner whose next argument is theirs, not the name of a file. */
const WITH_VALUE = ['-t', '--testNamePattern', '--reporter', '--project', '--retry', '--bail'];

/** Whether a command runs something over Confluent's client, whose native addon is built for those alone. @throws Usage */
export function needsAddon(name, { args, root }) {
  if (name === 'setup' || name === 'quickstart') return transportIn(args) === 'confluent';
  // The proof has transports of its own, takes several, and says itself what there is not.
  if (name === 'prove' && args[0] === 'conformance')
    return !args.some((arg) => arg.startsWith('--transport')) || args.some((arg) => /^(--transport=)?confluent$/.test(arg));
  if (name !== 'test') return false;
  const named = args.filter((arg, i) => !arg.startsWith('-') && !WITH_VALUE.includes(args[i - 1] ?? ''));
  const tests = readdirSync(path.join(root, 'test'), { recursive: true }).filter((file) =>
    /(confluent|conformance|quickstart|plaintext)[^/]*\.test\.ts$/.test(file),
  );
  return named.length === 0 || named.some((arg) => tests.some((file) => path.join(root, 'test', file).includes(path.normalize(arg))));
}

function transportIn(args) {
  const at = args.findIndex((arg) => arg === '--transport' || arg.startsWith('--transport='));
  if (at < 0) return undefined;
  const value = args[at]?.startsWith('--transport=') ? args[at].slice('--transport='.length) : args[at + 1];
  if (value !== undefined && TRANSPORTS.includes(value)) return value;
  throw new Usage(`${value === undefined ? 'Say which transport' : `There is no transport ${value}`}. There are: ${TRANSPORTS.join(', ')}.`);
}

function runNamed(command, what, names, [name, ...rest], fileOf) {
  if (names.includes(name)) return [['node', fileOf(name), ...rest]];
  throw new Usage(
    `${name === undefined ? `Say which ${what}: npm run ${command} -- NAME` : `There is no ${what} ${name}`}. There are: ${names.join(', ') || 'none yet'}.`,
  );
}

function proofsIn(folder) {
  if (!existsSync(folder)) return [];
  const files = readdirSync(folder).filter((file) => file.endsWith('.ts'));
  return files.map((file) => path.basename(file, '.ts')).sort();
}

/** Those that run by themselves; the quickstart has a command of its own. */
function examplesIn(folder) {
  return readdirSync(folder)
    .filter((name) => existsSync(path.join(folder, name, 'main.ts')))
    .sort();
}
