#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { Exit, exitCodeOf, messageOf, type OutputOption } from './commands/exit.ts';

// Each command's code is loaded when it runs: `turnpike --help` starts no Kafka client.
const { version, engines } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string; engines: { node: string } };
const [, ...least] = /(\d+)\.(\d+)/.exec(engines.node)?.map(Number) ?? [];
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < (least[0] ?? 0) || (major === least[0] && minor < (least[1] ?? 0))) {
  console.error(`turnpike needs Node ${least.join('.')} or newer; this is ${process.version}. Install one from nodejs.org.`);
  process.exit(Exit.error);
}
// Whoever read the output has seen enough: `turnpike ... | head`.
for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(128 + constants.signals.SIGPIPE);
    throw error;
  });
const program = new Command('turnpike')
  .description('The approved road to Kafka: manifests, generated types, grants, and what enforces them.')
  .version(version)
  .exitOverride()
  .enablePositionalOptions()
  .showHelpAfterError('(turnpike --help, or turnpike COMMAND --help, says what there is)')
  .addHelpText('after', '\nExit codes: 0 clean, 1 error, 2 usage, 3 changes or stale, 4 blocked or\nincompatible.');
const manifestOption = ['-f, --file <path>', 'the manifest, or a folder of them', 'turnpike.yaml'] as const;
const environmentOption = () => new Option('-e, --env <name>', 'the environment, as in the manifest').env('TURNPIKE_ENV').makeOptionMandatory();

program
  .command('validate')
  .description('check a manifest: syntax, schemas, names, consent of owners')
  .option(...manifestOption)
  .action(async (options: { file: string }) => (await import('./commands/validate.ts')).validate(options));
program
  .command('generate')
  .description('write the types and the contract of services, and turnpike.lock')
  .option(...manifestOption)
  .option('--check', 'write nothing; exit 3 if what is there is stale')
  .action(async (options: { file: string; check?: boolean }) => (await import('./commands/generate.ts')).generate(options));
program
  .command('apply')
  .description('create topics, ACLs, quotas and subjects as the manifest says; removes nothing')
  .addOption(environmentOption())
  .option(...manifestOption)
  .addHelpText(
    'after',
    '\nRuns as whom TURNPIKE_TLS_CERT, _KEY and _CA (or TURNPIKE_TOKEN_URL, ...) say;\nreaches the clusters of TURNPIKE_CLUSTERS, else those of kind: Cluster in the\nmanifest, and the registry TURNPIKE_REGISTRY.',
  )
  .action(async (options: { file: string; env: string }) => (await import('./commands/apply.ts')).apply(options));
program
  .command('clusters')
  .description('write the addresses of the clusters, as TURNPIKE_CLUSTERS wants them')
  .addOption(environmentOption())
  .option(...manifestOption)
  .option('-o, --out <file>', 'where they go; else they are printed')
  .action(async (options: { file: string; env: string; out?: string }) => (await import('./commands/clusters.ts')).clusters(options));
program
  .command('dev')
  .description('start a local platform with all that the manifest says, until Ctrl-C; or run a command in it')
  .addOption(
    new Option('-f, --file <path>', 'the manifest, or a folder of them; may be given again')
      .argParser((file: string, all: string[]) => [...all, file])
      .default([], '"turnpike.yaml"'),
  )
  .addOption(new Option('--nodes <n>', 'brokers').choices(['1', '3']).default('1'))
  .option('--folder <path>', 'where grants and variables go', '.turnpike/local')
  .option('-s, --service <name>', 'whose variables the command gets; not needed where there is one')
  .argument('[command...]', 'a command to run as the service; the platform goes when it ends')
  .passThroughOptions()
  .addHelpText('after', '\nExample: turnpike dev -- node src/main.ts')
  .action(async (command: string[], options: { file: string[]; nodes: '1' | '3'; folder: string; service?: string }) =>
    (await import('./commands/dev.ts')).dev(command, options),
  );

const grant = program.command('grant').description('signed grants: what a principal may do in one environment');
grant
  .command('keygen')
  .description('make a key pair that signs grants')
  .requiredOption('-o, --out <file>', 'the private key (JWK, mode 0600); never commit it')
  .option('--public <file>', 'the public keys, which manifests pin', 'turnpike.root-keys.json')
  .addOption(new Option('--alg <name>', 'how they sign').choices(['ES256', 'EdDSA']).default('ES256'))
  .action(async (options: { out: string; public: string; alg: 'ES256' | 'EdDSA' }) => (await import('./commands/grant.ts')).keygen(options));
grant
  .command('issue')
  .description('sign the grants of the services in a manifest')
  .addOption(environmentOption())
  .option(...manifestOption)
  .option('-s, --service <name>', 'only this one')
  .option('-k, --key <file>', 'the private key that keygen made; not needed for the environment local')
  .option('-o, --out <folder>', 'where the grants go', '.')
  .option('--issuer <name>', 'who issues them', 'turnpike')
  .option('--days <n>', 'how long they are valid', days, 30)
  .option('--ids', 'look up the ids of the schemas in the registry (TURNPIKE_REGISTRY) and put them in')
  .action(async (options: import('./commands/grant.ts').IssueOptions) => (await import('./commands/grant.ts')).issue(options));
grant
  .command('show')
  .description('print what a grant allows, and whether its signature holds')
  .argument('<file>', 'the grant')
  .option('--root-keys <file>', 'the public keys that may have signed it', 'turnpike.root-keys.json')
  .option('--json', 'the claims as JSON')
  .action(async (file: string, options: { rootKeys: string; json?: boolean }) => (await import('./commands/grant.ts')).show(file, options));

function days(text: string): number {
  const n = Number(text);
  if (!Number.isInteger(n) || n < 1 || n > 3650) throw new InvalidArgumentError('It must be a whole number from 1 to 3650.');
  return n;
}

let outputs: readonly OutputOption[] = [];
program.hook('preAction', (_, command) => {
  const values = command.opts() as Readonly<Record<string, unknown>>;
  outputs = ['out', 'public', 'folder'].flatMap((name) => (typeof values[name] === 'string' ? { name: `--${name}`, value: values[name] } : []));
});

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? Exit.clean : Exit.usage;
  else {
    console.error(messageOf(error, outputs));
    process.exitCode = exitCodeOf(error);
  }
}
