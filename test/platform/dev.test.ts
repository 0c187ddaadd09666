import { existsSync } from 'node:fs';
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
    expect(dev.stdout.split('\n').filter((line) => line.length > 80)).toEqual([]);
    expect([here.mode('.turnpike/local'), here.mode('.turnpike/local/monitor.env')]).toEqual(['0700', '0600']);
    expect(here.read('.turnpike/local/.gitignore')).toBe('*\n');

    const ran = await here.node(['--env-file=.turnpike/local/monitor.env', 'service.ts']);
    expect(ran).toEqual({ code: 0, stdout: '["local","monitor",{"id":"a"}]\n', stderr: '' });

    dev.signal('SIGINT');
    expect(await dev.ended()).toMatchObject({ code: 0, stderr: '' });
    await expectGone(directoryOf(dev.stdout));
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

  it('says before it starts anything that the command has two services to choose from, and after it that there is no such command', async () => {
    using here = await repository();
    here.write({
      'turnpike.yaml': `${monitor}---\n${monitor.replace('name: monitor', 'name: second').replace('monitor.g', 'second.g')}`.replaceAll(
        'team: ops',
        'team: airside',
      ),
    });
    expect(await here.turnpike(['dev', '--', 'node', 'service.ts'])).toEqual({
      code: 1,
      stdout: '',
      stderr: '[CONFIG_INVALID] Say whose variables the command gets: --service monitor | second.\n',
    });
    const { code, stderr } = await here.turnpike(['dev', '--service', 'second', '--', 'no-such-command']);
    expect(code).toBe(1);
    expect(stderr).toContain("[CONFIG_INVALID] no-such-command can't be started: spawn no-such-command ENOENT.");
    await expectGone(directoryOf(stderr));
  });
});
