import { pathToFileURL } from 'node:url';
import { connect } from '@turnpike/client';
import type { AnyTopic, ConsumedTopic, ServiceContract } from '@turnpike/client/generated';
import { silentLogger } from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { type RegistryClient, registryClient } from '@turnpike/schema';
import { type Platform, startPlatform } from '@turnpike/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { build } from '../support/build.ts';
import { Desk } from '../support/service.ts';
import { type Ended, Repository } from './turnpike.ts';

let platform: Platform;
let desk: Desk;
let registry: RegistryClient;
let identity: Awaited<ReturnType<typeof mtlsIdentity>>;
let admin: Readonly<Record<string, string>>;

beforeAll(async () => {
  await build();
  platform = await startPlatform();
  desk = await Desk.open(platform);
  identity = await mtlsIdentity(platform.admin.mtls);
  registry = registryClient({ url: platform.registryUrl, http: identity.http });
  admin = await platform.environment(platform.admin.name, 'mtls');
});
afterAll(async () => {
  await identity?.[Symbol.asyncDispose]();
  await desk?.[Symbol.asyncDispose]();
  await platform?.[Symbol.asyncDispose]();
});

const record = (name: string, ...fields: readonly string[]) =>
  JSON.stringify({ type: 'record', name, namespace: 'acme', fields: fields.map((f) => ({ name: f.split(':')[0], type: f.split(':')[1] ?? 'string' })) });
const topic = (name: string, spec: string) =>
  `apiVersion: turnpike.dev/v1alpha1\nkind: Topic\nmetadata: { name: ${name}, team: airside }\nspec: { cluster: main, ${spec} }\n---\n`;
const service = (name: string, spec: string, environments = `environments: { test: { principals: [${name}], enforcement: enforce } }`) =>
  `apiVersion: turnpike.dev/v1alpha1\nkind: Service\nmetadata: { name: ${name}, team: airside }\nspec: { ${spec}, ${environments} }\n---\n`;
/** The platform's own brokers, as the manifest of a platform team has them. */
const cluster = () =>
  `apiVersion: turnpike.dev/v1alpha1\nkind: Cluster\nmetadata: { name: main, team: platform }\nspec: { replicationFactor: 1, environments: { test: { id: "${platform.cluster?.id}", bootstrap: { mtls: ${JSON.stringify(platform.cluster?.bootstrap.mtls)}, oauth: ${JSON.stringify(platform.cluster?.bootstrap.oauth)} } } } }\n`;

const applied = (here: Repository, env: Readonly<Record<string, string>> = admin): Promise<Ended> => here.turnpike(['apply', '--env', 'test'], env);

describe('turnpike apply', () => {
  it('makes topics, configs, ACLs, quotas and subjects as the manifest says, at its own addresses; a second run changes nothing', async () => {
    using here = new Repository({
      'turnpike.yaml': [
        topic('one.made', 'partitions: 3, retention: 72h, configs: { cleanup.policy: compact }, value: { file: v.avsc, compatibility: FULL }'),
        service(
          'maker',
          'produces: [{ topic: one.made, quota: { bytes: 1MiB/s } }], consumes: [{ topic: one.made, group: maker.g, quota: { bytes: 2MiB/s } }]',
        ),
        cluster(),
      ].join(''),
      'v.avsc': record('Made', 'id'),
    });
    expect(await applied(here)).toEqual({
      code: 0,
      stderr: '',
      stdout: `+ subject one.made-value: compatibility FULL
+ subject one.made-value: registered as id ${await idOf('one.made-value')}
+ topic one.made: created with 3 partitions
+ acl User:maker may write topic one.made
+ acl User:maker may read topic one.made
+ acl User:maker may read group maker.g
+ quota maker: producer_byte_rate=1048576, consumer_byte_rate=2097152 on each broker
7 changes applied to test
`,
    });
    const [made] = await desk.admin.describeTopics(['one.made']);
    expect(made?.partitions.map((p) => p.replicas.length)).toEqual([1, 1, 1]);
    const configs = (await desk.admin.topicConfigs(['one.made'])).get('one.made')?.filter((c) => c.own);
    expect(Object.fromEntries(configs?.map((c) => [c.name, c.value]) ?? [])).toMatchObject({ 'retention.ms': '259200000', 'cleanup.policy': 'compact' });
    expect((await desk.admin.quotas()).find((q) => q.user === 'maker')?.values).toEqual({ producer_byte_rate: 1_048_576, consumer_byte_rate: 2_097_152 });
    expect(await registry.compatibility('one.made-value')).toBe('FULL');

    expect(await applied(here)).toEqual({ code: 0, stdout: 'test is as turnpike.yaml says\n', stderr: '' });
  });

  it('grows partitions and changes what differs, and refuses to take partitions away, with the place, before it changes anything', async () => {
    const manifest = (partitions: number, retention: string) =>
      [topic('two.grown', `partitions: ${partitions}, retention: ${retention}, value: { file: v.avsc }`), cluster()].join('');
    using here = new Repository({ 'turnpike.yaml': manifest(2, '1d'), 'v.avsc': record('Grown', 'id') });
    expect((await applied(here)).code).toBe(0);
    here.write({ 'turnpike.yaml': manifest(5, '2d') });
    expect((await applied(here)).stdout).toBe(
      '+ topic two.grown: 2 -> 5 partitions; keys go to other partitions from now on\n+ topic two.grown: retention.ms=172800000\n2 changes applied to test\n',
    );
    here.write({ 'turnpike.yaml': topic('two.another', 'partitions: 1, value: { file: v.avsc }') + manifest(4, '3d') });
    expect(await applied(here)).toMatchObject({
      code: 1,
      stderr: "[BROKER_REJECTED] two.grown has 5 partitions and turnpike.yaml:9:36 says 4; partitions can't be taken away. Correct the number there.\n",
    });
    expect((await desk.admin.describeTopics(['two.grown', 'two.another'])).map((t) => [t.name, t.partitions.length])).toEqual([['two.grown', 5]]);
  });

  it('a config that the broker refuses is told with its place and what may be meant, of a topic that is there and of one that is not', async () => {
    const manifest = (name: string, spec: string) => [topic(name, `partitions: 1, value: { file: v.avsc }${spec}`), cluster()].join('');
    using here = new Repository({ 'turnpike.yaml': manifest('eight.there', ''), 'v.avsc': record('There', 'id') });
    expect((await applied(here)).code).toBe(0);
    here.write({ 'turnpike.yaml': manifest('eight.there', ', configs: { cleanup.polcy: compact }') });
    expect(await applied(here)).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /^\[BROKER_REJECTED\] .*eight\.there: INVALID_CONFIG: .*cleanup\.polcy\. Correct spec\.configs\.cleanup\.polcy at turnpike\.yaml:4:90 \(did you mean cleanup\.policy\?\)\.\n$/,
      ),
    });
    here.write({ 'turnpike.yaml': manifest('eight.new', ', configs: { cleanup.policy: compcat }') });
    expect((await applied(here)).stderr).toMatch(/eight\.new: INVALID_CONFIG: .* Correct spec\.configs\.cleanup\.policy at turnpike\.yaml:4:91\.\n$/);
    here.write({ 'turnpike.yaml': manifest('eight.new', ', replicationFactor: 2') });
    expect((await applied(here)).stderr).toMatch(/INVALID_REPLICATION_FACTOR: .* Correct spec\.replicationFactor at turnpike\.yaml:4:83\.\n$/);
  });

  it('another cluster at an address of the manifest is told at its id there', async () => {
    using here = new Repository({
      'turnpike.yaml': topic('nine.never', 'partitions: 1, value: { file: v.avsc }') + cluster().replace(/id: "[^"]*"/, 'id: "another"'),
      'v.avsc': record('Never', 'id'),
    });
    const { code, stderr } = await applied(here);
    expect(code).toBe(1);
    expect(stderr).toMatch(
      /^\[CLUSTER_MISMATCH\] .* names the cluster another, but .* answers at .*\. Nothing was sent\. Correct spec\.environments\.test\.id at turnpike\.yaml:9:\d+\.\n$/,
    );
    expect(stderr).not.toContain('TURNPIKE_CLUSTERS');
  });

  it('registers what a schema refers to first, each with what it refers to itself; a reference stays at the version that is locked', async () => {
    const references = ['Tail', 'Aircraft'].map((n) => `{ name: acme.${n}, subject: three.${n}, file: ${n}.avsc }`).join(', ');
    using here = new Repository({
      'turnpike.yaml': [topic('three.flights', `partitions: 1, value: { file: flight.avsc, references: [${references}] }`), cluster()].join(''),
      'Tail.avsc': record('Tail', 'number'),
      'Aircraft.avsc': record('Aircraft', 'tail:Tail'),
      'flight.avsc': record('Flight', 'aircraft:Aircraft', 'id'),
    });
    expect((await applied(here)).stdout.match(/^\+ subject three.*registered/gm)).toEqual([
      '+ subject three.Tail: registered',
      '+ subject three.Aircraft: registered',
      '+ subject three.flights-value: registered',
    ]);
    const tail = { name: 'acme.Tail', subject: 'three.Tail', version: 1 };
    expect((await registry.latest('three.Aircraft'))?.references).toEqual([tail]);
    expect((await registry.latest('three.flights-value'))?.references).toEqual([tail, { name: 'acme.Aircraft', subject: 'three.Aircraft', version: 1 }]);
    // Another team moves on.
    await registry.register('three.Tail', record('Tail', 'number', 'country'));
    expect((await applied(here)).stdout).toBe('test is as turnpike.yaml says\n');
  });

  it('as a service, which may not, says who is refused what, and what to do', async () => {
    using here = new Repository({
      'turnpike.yaml': [topic('four.mine', 'partitions: 1, value: { file: v.avsc }'), service('climber', 'produces: [{ topic: four.mine }]'), cluster()].join(
        '',
      ),
      'v.avsc': record('Mine', 'id'),
    });
    const env = await platform.environment('climber', 'mtls');
    const atRegistry = await applied(here, env);
    expect(atRegistry).toMatchObject({ code: 1, stdout: '' });
    expect(atRegistry.stderr).toBe(
      "[AUTHORIZATION_FAILED] climber may not apply to test. Run turnpike apply as the platform's own principal, as CI does, not as a service.\n",
    );
    // With its subject there already it comes as far as the broker.
    await registry.setCompatibility('four.mine-value', 'BACKWARD');
    await registry.register('four.mine-value', here.read('v.avsc'));
    const atBroker = await applied(here, env);
    expect(atBroker).toMatchObject({ code: 1, stdout: '' });
    expect(atBroker.stderr).toMatch(
      /^\[AUTHORIZATION_FAILED\] climber may not apply to test \(four\.mine: TOPIC_AUTHORIZATION_FAILED\)\. Run turnpike apply as/,
    );
    expect(await desk.admin.describeTopics(['four.mine'])).toEqual([]);
  });

  it.each<[string, () => Readonly<Record<string, string>>, string, RegExp]>([
    [
      'an environment that is misspelt',
      () => admin,
      'tset',
      /^\[CONFIG_INVALID\] .*in an environment "tset" \(did you mean test\?\); there are local, prod, test\. Correct --env/,
    ],
    [
      'a cluster without addresses',
      () => admin,
      'prod',
      /^\[CONFIG_INVALID\] Where is the cluster main in prod\? Declare it \(kind: Cluster, spec\.environments\.prod\.bootstrap\), or set TURNPIKE_CLUSTERS/,
    ],
    ['nobody to run as', () => ({}), 'test', /^\[CONFIG_INVALID\] No identity: set TURNPIKE_TLS_CERT/],
    ['no registry', () => ({ ...admin, TURNPIKE_REGISTRY: '' }), 'test', /^\[CONFIG_INVALID\] No registry: set TURNPIKE_REGISTRY to its URL\./],
  ])('of %s says so', async (_what, env, environment, message) => {
    using here = new Repository({
      'turnpike.yaml': [
        topic('five.never', 'partitions: 1, value: { file: v.avsc }'),
        service('fifth', 'produces: [{ topic: five.never }]', 'environments: { prod: { principals: [fifth] }, test: { principals: [fifth] } }'),
        cluster(),
      ].join(''),
      'v.avsc': record('Never', 'id'),
    });
    const { code, stderr } = await here.turnpike(['apply', '-e', environment], env());
    expect(code).toBe(1);
    expect(stderr).toMatch(message);
    expect(await desk.admin.describeTopics(['five.never'])).toEqual([]);
  });
});

describe('from a manifest to an event', () => {
  it('apply, generate, clusters and grant issue let a service in; another one, whom nobody applied, the broker keeps out though its grant is signed', async () => {
    using here = new Repository({
      'turnpike.yaml': [
        topic('six.events', 'partitions: 1, key: { from: id }, value: { file: v.avsc }'),
        service('sixth', 'produces: [{ topic: six.events }], consumes: [{ topic: six.events, group: sixth.g }]'),
        cluster(),
      ].join(''),
      'intruder/turnpike.yaml': service('intruder', 'imports: [../turnpike.yaml], rootKeys: ../turnpike.root-keys.json, produces: [{ topic: six.events }]'),
      'v.avsc': record('Happened', 'id'),
    });
    const done = async (...args: readonly string[]) => expect(await here.turnpike(args, admin)).toMatchObject({ code: 0, stderr: '' });
    await done('grant', 'keygen', '-o', 'key.json');
    await done('apply', '-e', 'test');
    await done('clusters', '-e', 'test', '-o', 'clusters.json');
    for (const manifest of ['turnpike.yaml', 'intruder/turnpike.yaml']) {
      await done('generate', '-f', manifest);
      await done('grant', 'issue', '-e', 'test', '-f', manifest, '-k', 'key.json', '-o', 'grants', '--ids');
    }

    // The ids came with the grant: no registry is needed.
    const { TURNPIKE_REGISTRY: _, ...mine } = await platform.environment('sixth', 'mtls');
    await using kafka = await connect(await contractOf(here, 'generated/sixth.ts', 'sixth'), optionsOf(here, 'sixth', mine));
    expect(await kafka.producer('six.events').send({ id: 'a' })).toMatchObject({ topic: 'six.events', partition: 0, offset: 0n });
    for await (const event of kafka.consumer(['six.events'])) {
      expect([event.key, event.value]).toEqual(['a', { id: 'a' }]);
      break;
    }

    const contract = await contractOf(here, 'intruder/generated/intruder.ts', 'intruder');
    const error = await connect(contract, optionsOf(here, 'intruder', await platform.environment('intruder', 'oauth')))
      .then(async (open) =>
        open
          .producer('six.events')
          .send({ id: 'b' })
          .finally(() => open.close()),
      )
      .catch((e: unknown) => e);
    expect(error).toMatchObject({ code: 'AUTHORIZATION_FAILED', message: expect.stringContaining('six.events') });
  });
});

type Contract = ServiceContract<Readonly<Record<string, AnyTopic>>, Readonly<Record<string, ConsumedTopic>>>;

async function contractOf(here: Repository, file: string, name: string): Promise<Contract> {
  return ((await import(pathToFileURL(here.path(file)).href)) as Record<string, Contract>)[name] as Contract;
}

function optionsOf(here: Repository, name: string, variables: Readonly<Record<string, string>>) {
  const env = { ...variables, TURNPIKE_ENV: 'test', TURNPIKE_GRANT: here.path(`grants/${name}.test.grant`), TURNPIKE_CLUSTERS: here.path('clusters.json') };
  return { env, telemetry: 'off', logger: silentLogger, shutdownSignals: [] } as const;
}

const idOf = async (subject: string): Promise<number | undefined> => (await registry.latest(subject))?.id;
