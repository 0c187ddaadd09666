import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { build } from '../support/build.ts';
import { processesOf, Repository } from './turnpike.ts';

const schema = '{"type":"record","name":"Departed","namespace":"acme","fields":[{"name":"id","type":"string"}]}';
/** As it is in production: three replicas, of which two must have a record. */
const owner = `apiVersion: turnpike.dev/v1alpha1
kind: Topic
metadata: { name: flights.departed, team: airside }
spec:
  cluster: airside
  partitions: 3
  replicationFactor: 3
  configs: { min.insync.replicas: 2 }
  value: { file: departed.avsc }
  access: [{ service: monitor, operations: [produce, consume] }]
`;
/** Of another team, which imports the topic. It proves itself with a secret. */
const monitor = `apiVersion: turnpike.dev/v1alpha1
kind: Service
metadata: { name: monitor, team: ops }
spec:
  identity: oauth
  imports: [airside/turnpike.yaml]
  produces: [{ topic: flights.departed, quota: { bytes: 5MiB/s } }]
  consumes: [{ topic: flights.departed, group: monitor.g }]
`;
const service = `import { readFileSync } from 'node:fs';
import { connect } from '@turnpike/client';
import { monitor } from './generated/monitor.ts';

const kafka = await connect(monitor, { telemetry: 'off', shutdownSignals: [] });
await kafka.producer('flights.departed').send({ id: 'a' });
for await (const event of kafka.consumer(['flights.departed'])) {
  console.log(JSON.stringify([kafka.environment, kafka.principal, event.value]));
  break;
}
if (process.argv.includes('--wait')) {
  console.log('waiting');
  await new Promise((resolve) => {
    const hold = setInterval(() => {}, 1e6);
    for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => resolve(clearInterval(hold)));
  });
  console.log(JSON.stringify(await kafka.producer('flights.departed').send({ id: 'last' }), (_, v) => (typeof v === 'bigint' ? String(v) : v)));
}
await kafka.close();
(await import('node:fs')).writeFileSync('secret', readFileSync(process.env.TURNPIKE_CLIENT_SECRET_FILE));
process.exitCode = Number(process.argv.at(-1)) || 0;
`;

async function repository(): Promise<Repository> {
  const here = new Repository({
    'airside/turnpike.yaml': owner,
    'airside/departed.avsc': schema,
    'turnpike.yaml': monitor,
    'service.ts': service,
  });
  expect(await here.turnpike(['generate'])).toMatchObject({ code: 0 });
  return here;
}

/** The folder with the platform's keys and logs, as dev says. */
const directoryOf = (said: string): string => /^logs, keys {2}(\S+)$/m.exec(said)?.[1] ?? '';

async function expectGone(directory: string): Promise<void> {
  expect(directory).toMatch(/turnpike-\w+$/);
  await expect.poll(() => processesOf(directory), { timeout: 20_000 }).toEqual([]);
  await expect.poll(() => existsSync(directory), { timeout: 20_000 }).toBe(false);
}

beforeAll(build);

describe('turnpike dev', () => {
  it("runs a command as the service, on one broker though the topics are another team's and ask for three; passes its exit code on; leaves nothing", async () => {
    using here = await repository();
    // Of a shell that was meant for another environment.
    const stray = { TURNPIKE_TLS_CERT: '/elsewhere/cert.pem', TURNPIKE_ENV: 'prod' };
    const { code, stdout, stderr } = await here.turnpike(['dev', '--', 'node', 'service.ts', '7'], stray);
    expect([code, stdout]).toEqual([7, '["local","monitor",{"id":"a"}]\n']);
    const secret = here.read('secret').trim();
    expect(secret.length).toBeGreaterThan(15);
    expect(stdout + stderr).not.toContain(secret);
    await expectGone(directoryOf(stderr));
  });

  it('without a command says in 80 columns what is where, and holds until Ctrl-C; a service then runs from its env file', async () => {
    using here = await repository();
    await using dev = here.start(['dev']);
    await dev.says(/^ready {7}Ctrl-C stops it$/m);
    for (const line of [
      /^issuer {6}https:\/\/127\.0\.0\.1:\d+$/,
      /^registry {4}https:\/\/127\.0\.0\.1:\d+$/,
      /^kafka {7}127\.0\.0\.1:\d+ \(mTLS\), 127\.0\.0\.1:\d+ \(OAuth\)$/,
      /^\+ topic flights\.departed: created with 3 partitions$/,
      /^\+ acl User:monitor may write topic flights\.departed$/,
      /^service {5}monitor \(OAuth\); run it with$/,
      /^ {12}node --env-file=\.turnpike\/local\/monitor\.env your-service\.ts$/,
    ])
      expect(dev.stdout.split('\n')).toContainEqual(expect.stringMatching(line));
    // A path alone on its line may be wider: how long the one to the program is depends on where this repository lies.
    expect(dev.stdout.split('\n').filter((line) => line.length > 80 && /\S\s+\S/.test(line.replace(/ \\$/, '')))).toEqual([]);
    expect([here.mode('.turnpike/local'), here.mode('.turnpike/local/monitor.env')]).toEqual(['0700', '0600']);
    expect(here.read('.turnpike/local/.gitignore')).toBe('*\n');

    const ran = await here.node(['--env-file=.turnpike/local/monitor.env', 'service.ts']);
    expect(ran).toEqual({ code: 0, stdout: '["local","monitor",{"id":"a"}]\n', stderr: '' });

    // The command that is printed for the admin, as it stands.
    expect(here.mode('.turnpike/local/platform-admin.env')).toBe('0600');
    const printed = /^admin {7}.*\n((?:.*\\\n)*.*)\n/m.exec(dev.stdout)?.[1] ?? '';
    const words = printed.trim().replaceAll(/ \\\n +/g, ' ');
    expect(words).toMatch(/^node --env-file=\.turnpike\/local\/platform-admin\.env \S+ apply --env local$/);
    expect(await here.shell(printed)).toEqual({ code: 0, stdout: 'local is as turnpike.yaml says\n', stderr: '' });
    // Also what asks for more than the one broker can: nobody could write if two of its one replica had to be in sync.
    here.write({ 'airside/turnpike.yaml': owner.replace('partitions: 3', 'partitions: 4') });
    expect(await here.shell(`${printed} -f airside/turnpike.yaml`)).toEqual({
      code: 0,
      stdout: '+ topic flights.departed: 3 -> 4 partitions; keys go to other partitions from now on\n1 change applied to local\n',
      stderr: '',
    });

    dev.signal('SIGINT');
    expect(await dev.ended()).toMatchObject({ code: 0, stderr: '' });
    await expectGone(directoryOf(dev.stdout));
    expect(readdirSync(here.path('.turnpike/local'))).toEqual(['.gitignore']);
  });

  it('passes SIGTERM on, and keeps the brokers until the service has sent its last event', async () => {
    using here = await repository();
    await using dev = here.start(['dev', 'node', 'service.ts', '--wait', '5']);
    await dev.says(/^waiting$/m);
    dev.signal('SIGTERM');
    const { code, stdout } = await dev.ended();
    expect(stdout.split('\n')).toContainEqual(expect.stringMatching(/^\{"topic":"flights\.departed",.*"offset":"\d+"/));
    expect(code).toBe(5);
    await expectGone(directoryOf(dev.stderr));
  });

  it('stopped while it starts goes at once, and leaves nothing', async () => {
    using here = await repository();
    await using dev = here.start(['dev'], { TMPDIR: here.folder });
    await dev.says(/^registry /m);
    await expect.poll(async () => (await processesOf(here.folder)).some((p) => p.includes('kafka.Kafka')), { timeout: 30_000 }).toBe(true);
    dev.signal('SIGTERM');
    expect(await dev.ended()).toMatchObject({ code: 143 });
    await expect.poll(() => processesOf(here.folder), { timeout: 20_000 }).toEqual([]);
    await expect
      .poll(async () => (await here.node(['-p', 'fs.readdirSync(".").filter((f) => f.startsWith("turnpike-")).length'])).stdout, { timeout: 20_000 })
      .toBe('0\n');
  });

  it('says before it starts anything that the command has two services to choose from, that there is no such service, no such command', async () => {
    using here = await repository();
    here.write({
      'turnpike.yaml': `${monitor}---\n${monitor.replace('name: monitor', 'name: second').replace('monitor.g', 'second.g')}`.replaceAll(
        'team: ops',
        'team: airside',
      ),
    });
    const refused = async (message: string, ...args: readonly string[]) =>
      expect(await here.turnpike(['dev', ...args])).toEqual({ code: 1, stdout: '', stderr: `[CONFIG_INVALID] ${message}\n` });
    await refused('Say whose variables the command gets: --service monitor | second.', '--', 'node', 'service.ts');
    const unknown = 'There is no service remindr that uses the SDK; --service takes monitor | second.';
    await refused(unknown, '-s', 'remindr', '--', 'node', 'service.ts');
    await refused(unknown, '-s', 'remindr');
    await refused("nod can't be started: there is no such program. Is it spelt right, and on the PATH?", '-s', 'second', '--', 'nod', 'service.ts');
    await refused("./service.ts can't be started: there is no such program. Is it spelt right, and on the PATH?", '-s', 'second', '--', './service.ts');
  });

  it('says before it starts anything that its folder is a file, or belongs to another one', async () => {
    using here = await repository();
    here.write({ taken: '' });
    expect(await here.turnpike(['dev', '--folder', 'taken'])).toEqual({
      code: 1,
      stdout: '',
      stderr: expect.stringMatching(/^\[CONFIG_INVALID\] \S+\/taken can't be made: there is a file by that name\. Choose another place \(--folder\)\.\n$/),
    });
    await using first = here.start(['dev']);
    await first.says(/^issuer /m);
    expect(await here.turnpike(['dev'])).toEqual({
      code: 1,
      stdout: '',
      stderr: expect.stringMatching(/^\[CONFIG_INVALID\] \.turnpike\/local belongs to another turnpike dev \(process \d+\)\. .*another --folder\.\n$/),
    });
  });

  it("when its broker is killed says so, and ends with 1, as whoever waits for it should know; of its own files none is left, others' are", async () => {
    using here = await repository();
    await using dev = here.start(['dev']);
    await dev.says(/^ready /m);
    here.write({ '.turnpike/local/notes.env': 'A=1\n' });
    const directory = directoryOf(dev.stdout);
    process.kill(Number(readFileSync(path.join(directory, 'kafka/1/broker-1.pid'), 'utf8')), 'SIGKILL');
    expect(await dev.ended()).toMatchObject({ code: 1, stderr: expect.stringMatching(/^\[PLATFORM_UNAVAILABLE\] The broker ended unasked.*\n$/) });
    await expectGone(directory);
    expect(readdirSync(here.path('.turnpike/local')).sort()).toEqual(['.gitignore', 'notes.env']);
  });
});
