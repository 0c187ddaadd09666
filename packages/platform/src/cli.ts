#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { Exit, exitCodeOf } from './commands/exit.ts';

// Each command's code is loaded when it runs: `turnpike --help` starts no Kafka client.
const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string };
const program = new Command('turnpike')
  .description('The approved road to Kafka: manifests, generated types, grants, and what enforces them.')
  .version(version)
  .exitOverride()
  .configureHelp({ showGlobalOptions: true })
  .addHelpText('after', '\nExit codes: 0 clean, 1 error, 2 usage, 3 changes or stale, 4 blocked or incompatible.');
const manifestOption = ['-f, --file <path>', 'the manifest, or a folder of them', 'turnpike.yaml'] as const;

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
  .requiredOption('-e, --env <name>', 'the environment, as in the manifest', process.env.TURNPIKE_ENV)
  .option(...manifestOption)
  .action(async (options: { file: string; env: string }) => (await import('./commands/apply.ts')).apply(options));
program
  .command('dev')
  .description('start a local platform with everything that the manifests say, until Ctrl-C; or run a command in it')
  .option('-f, --file <path...>', 'manifests, or folders of them', ['turnpike.yaml'])
  .option('--nodes <n>', 'brokers: 1 or 3', '1')
  .option('--folder <path>', 'where grants and variables go', '.turnpike/local')
  .option('-s, --service <name>', 'whose variables the command gets')
  .argument('[command...]', 'a command to run with the variables of the service; the platform goes when it ends')
  .action(async (command: string[], options: { file: string[]; nodes: string; folder: string; service?: string }) =>
    (await import('./commands/dev.ts')).dev(command, options),
  );

const grant = program.command('grant').description('signed grants: what a principal may do in one environment');
grant
  .command('keygen')
  .description('make a key pair that signs grants')
  .requiredOption('-o, --out <file>', 'the private key (JWK, mode 0600); never commit it')
  .option('--public <file>', 'the public keys, which manifests pin', 'turnpike.root-keys.json')
  .option('--alg <name>', 'ES256 or EdDSA', 'ES256')
  .action(async (options: { out: string; public: string; alg: string }) => (await import('./commands/grant.ts')).keygen(options));
grant
  .command('issue')
  .description('sign the grants of the services in a manifest')
  .requiredOption('-e, --env <name>', 'the environment, as in the manifest', process.env.TURNPIKE_ENV)
  .option(...manifestOption)
  .option('-s, --service <name>', 'only this one')
  .option('-k, --key <file>', 'the private key that keygen made; not needed for the environment local')
  .option('-o, --out <folder>', 'where the grants go', '.')
  .option('--issuer <name>', 'who issues them', 'turnpike')
  .option('--days <n>', 'how long they are valid', '30')
  .option('--ids', 'look up the ids of the schemas in the registry (TURNPIKE_REGISTRY) and put them in')
  .action(async (options: import('./commands/grant.ts').IssueOptions) => (await import('./commands/grant.ts')).issue(options));
grant
  .command('show')
  .description('print what a grant allows, and whether its signature holds')
  .argument('<file>', 'the grant')
  .option('--root-keys <file>', 'the public keys that may have signed it', 'turnpike.root-keys.json')
  .option('--json', 'the claims as JSON')
  .action(async (file: string, options: { rootKeys: string; json?: boolean }) => (await import('./commands/grant.ts')).show(file, options));

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? Exit.clean : Exit.usage;
  else {
    console.error((error as Error).message ?? String(error));
    process.exitCode = exitCodeOf(error);
  }
}
