import { describe, expect, it } from 'vitest';
import { DEPARTED, documents, service, topic, Workspace } from '../workspace.fixture.ts';

/** What is wrong with one turnpike.yaml. */
function problemsOf(manifest: string, files: Readonly<Record<string, string>> = {}): readonly string[] {
  using workspace = new Workspace({ 'turnpike.yaml': manifest, ...files });
  return workspace.problems();
}

describe('a manifest', () => {
  it('is read with its defaults', () => {
    using workspace = new Workspace({
      'turnpike.yaml': documents(
        topic('flights.departed', 'retention: 72h, configs: { cleanup.policy: delete, min.insync.replicas: 2 }, key: { from: origin }'),
        service(
          'flight-ops',
          'produces: [{ topic: flights.departed, quota: { bytes: 5MiB/s, burst: 2s } }], environments: { prod: { principals: [a, b], instances: { max: 4 } } }',
        ),
      ),
    });
    const { topics, services, clusters, imported, folder } = workspace.load();
    expect(topics).toMatchObject([
      {
        kind: 'Topic',
        name: 'flights.departed',
        team: 'airside',
        partitions: 3,
        replicationFactor: undefined,
        retentionMs: 259_200_000,
        configs: { 'cleanup.policy': 'delete', 'min.insync.replicas': '2' },
        key: { format: 'string', from: 'origin' },
        value: { format: 'avro', subject: 'flights.departed-value', text: DEPARTED, compatibility: 'BACKWARD' },
        deletion: 'protected',
      },
    ]);
    expect(services).toMatchObject([
      {
        runtime: 'sdk',
        identity: 'mtls',
        generated: 'generated',
        rootKeys: [],
        produces: [{ quota: { bytesPerSecond: 5_242_880, recordsPerSecond: undefined, burstSeconds: 2, weight: 1 }, onExpiry: 'hold' }],
        environments: {
          local: { principals: ['flight-ops'], maxInstances: 1, enforcement: 'enforce' },
          prod: { principals: ['a', 'b'], maxInstances: 4, enforcement: 'shadow' },
        },
      },
    ]);
    expect([clusters, imported.topics, folder]).toEqual([[], [], workspace.folder]);
  });

  it('may be a folder: its files are read together, what is installed, hidden or none of ours is passed over, and the lock lies at its root', () => {
    using workspace = new Workspace({
      'teams/airside/topics.yaml': topic('a.b').replace('departed.avsc', '../../departed.avsc'),
      'teams/ops/service.yml': service('ops', 'consumes: [{ topic: a.b, group: ops }]'),
      'docker-compose.yaml': 'services: { db: { image: postgres } }\n',
      'node_modules/other/turnpike.yaml': 'apiVersion: turnpike.dev/v1alpha1\nkind: Nonsense\n',
      '.github/turnpike.yaml': 'apiVersion: turnpike.dev/v1alpha1\nkind: Nonsense\n',
    });
    const manifest = workspace.load('.');
    expect(manifest.files.map((f) => f.slice(workspace.folder.length))).toEqual(['/teams/airside/topics.yaml', '/teams/ops/service.yml']);
    expect([manifest.topics.length, manifest.services.length, manifest.folder]).toEqual([1, 1, workspace.folder]);
  });

  it('imports topics and clusters of others, a file or a folder, and not their services', () => {
    using workspace = new Workspace({
      'airside/turnpike.yaml': documents(
        topic('flights.departed', 'access: [{ service: monitor, operations: [consume] }]').replace('departed.avsc', '../departed.avsc'),
        service('flight-ops'),
      ),
      'clusters/main.yaml':
        'apiVersion: turnpike.dev/v1alpha1\nkind: Cluster\nmetadata: { name: main, team: platform }\nspec: { environments: { prod: { bootstrap: { mtls: ["k:1"] } } } }\n',
      'monitor/turnpike.yaml': service('monitor', 'imports: [../airside/turnpike.yaml, ../clusters], consumes: [{ topic: flights.departed, group: g }]', 'ops'),
    });
    const { services, imported, topics } = workspace.load('monitor/turnpike.yaml');
    expect(services.map((s) => s.name)).toEqual(['monitor']);
    expect([topics, imported.topics.map((t) => t.name), imported.clusters.map((c) => c.name)]).toEqual([[], ['flights.departed'], ['main']]);
  });

  it('follows YAML aliases', () => {
    using workspace = new Workspace({
      'turnpike.yaml': documents(
        topic('a', 'access: &all [{ service: x, operations: &ops [consume] }, { service: y, operations: *ops }]'),
        service('s', 'produces: [{ topic: a }]'),
      ),
    });
    expect(workspace.load().topics[0]?.access).toEqual([
      { service: 'x', operations: ['consume'] },
      { service: 'y', operations: ['consume'] },
    ]);
  });

  it('reads a schema with a byte order mark and CRLF as Git keeps it: its fingerprint is the same on every machine', () => {
    const pretty = JSON.stringify(JSON.parse(DEPARTED), null, 2);
    using workspace = new Workspace({ 'turnpike.yaml': topic('a').replaceAll('\n', '\r\n'), 'departed.avsc': `\uFEFF${pretty.replaceAll('\n', '\r\n')}` });
    expect(workspace.load().topics[0]?.value.text).toBe(pretty);
  });

  it('pins public keys, of which it takes over the public members only', () => {
    const key = { kty: 'EC', crv: 'P-256', x: 'x', y: 'y', kid: 'k', alg: 'ES256', use: 'sig', key_ops: ['verify'], note: 'ours' };
    using workspace = new Workspace({ 'turnpike.yaml': service('s'), 'turnpike.root-keys.json': JSON.stringify({ keys: [key] }) });
    expect(workspace.load().services[0]?.rootKeys).toEqual([{ kty: 'EC', crv: 'P-256', x: 'x', y: 'y', kid: 'k', alg: 'ES256', use: 'sig' }]);
  });
});

describe('what is wrong in a manifest', () => {
  it('is told all at once, in order, each with its place and what to do', () => {
    using workspace = new Workspace({
      'turnpike.yaml': documents(topic('a', 'retnetion: 72h, retention: soon'), service('b', 'produces: [{ topic: nowhere }]')),
    });
    expect(() => workspace.load()).toThrow(/^\[MANIFEST_INVALID\] 3 problems:\n/);
    expect(workspace.problems()).toEqual([
      'turnpike.yaml:4:71 spec.retnetion is not known here (did you mean retention?); there are cluster, partitions, replicationFactor, retention, configs, key, value, access, deletion.',
      'turnpike.yaml:4:98 spec.retention is "soon"; write a time such as 72h or 30d, or forever.',
      "turnpike.yaml:9:29 spec.produces[0].topic nowhere is declared neither here nor in what spec.imports names. Declare it (kind: Topic), or import its owner's turnpike.yaml.",
    ]);
  });

  it.each<[string, string, RegExp]>([
    ['no file at all', 'missing.yaml', /There is no manifest at .*missing\.yaml\. Write one there, or say where it is: --file PATH/],
    ['a folder without a manifest', 'empty', /empty holds no manifest: no \.yaml file there has an apiVersion of turnpike\.dev\./],
  ])('%s', (_what, name, message) => {
    using workspace = new Workspace({ 'empty/values.yaml': 'a: 1\n' });
    expect(() => workspace.load(name)).toThrow(expect.objectContaining({ code: 'MANIFEST_INVALID', message: expect.stringMatching(message) }));
  });

  it.each<[string, string, readonly string[]]>([
    ['an empty file', '', ['turnpike.yaml:1:1 is empty; begin with apiVersion: turnpike.dev/v1alpha1 and kind: Topic or Service.']],
    ['only comments', '# nothing\n---\n', ['turnpike.yaml:1:1 is empty; begin with apiVersion: turnpike.dev/v1alpha1 and kind: Topic or Service.']],
    [
      'bad YAML',
      'apiVersion: turnpike.dev/v1alpha1\nkind: Topic\n metadata: {\n',
      [expect.stringMatching(/^turnpike\.yaml:2:7 is no valid YAML: .*[^:]\. Mend it there, or in the line before\.$/)],
    ],
    [
      'a key that stands twice',
      'apiVersion: turnpike.dev/v1alpha1\nkind: Service\nkind: Topic\n',
      ['turnpike.yaml:3:1 is no valid YAML: Map keys must be unique. Mend it there, or in the line before.'],
    ],
    ['a text where a mapping belongs', 'hello\n', ['turnpike.yaml:1:1 must be a mapping (key: value).']],
    ['an unknown kind', 'apiVersion: turnpike.dev/v1alpha1\nkind: Queue\n', ['turnpike.yaml:2:7 kind is "Queue"; it must be one of Topic, Service, Cluster.']],
    [
      'another apiVersion, no kind',
      'apiVersion: v1\nmetadata: {}\n',
      ['turnpike.yaml:1:1 kind is missing; give one of Topic, Service, Cluster.', 'turnpike.yaml:1:13 apiVersion must be turnpike.dev/v1alpha1.'],
    ],
    [
      'nothing but a kind',
      'apiVersion: turnpike.dev/v1alpha1\nkind: Topic\n',
      ['turnpike.yaml:1:1 metadata is missing; it must be a mapping (key: value).', 'turnpike.yaml:1:1 spec is missing; it must be a mapping (key: value).'],
    ],
    ['a name that is a number', topic('5'), ['turnpike.yaml:3:19 metadata.name is 5, which YAML takes for no text; put it in quotes: "5".']],
    [
      "a topic name that is Kafka's own",
      topic('__consumer_offsets'),
      ['turnpike.yaml:3:19 metadata.name must be of letters, digits, ".", "_" and "-", at most 249 long, and not begin with "__".'],
    ],
    ['a service name with capitals', service('FlightOps'), ['turnpike.yaml:3:19 metadata.name must be of lower-case letters, digits and "-".']],
  ])('%s', (_what, text, problems) => expect(problemsOf(text)).toEqual(problems));

  it.each<[string, string, string]>([
    ['partitions as text', 'partitions: many', 'spec.partitions is "many"; it must be a whole number from 1 to 10000.'],
    ['no partitions', 'partitions: ~', 'spec.partitions is missing; give how many it has (they can grow, never shrink).'],
    ['a replication factor of none', 'replicationFactor: 0', 'spec.replicationFactor is 0; it must be a whole number from 1 to 32.'],
    [
      'retention twice',
      'retention: 1d, configs: { retention.ms: 5 }',
      'spec.configs.retention.ms is said twice: spec.retention is there too; take one of them out.',
    ],
    [
      'a config without a value',
      'configs: { cleanup.policy: }',
      "spec.configs.cleanup.policy has no value; give one, or take it out and the cluster's default holds.",
    ],
    ['a list of configs', 'configs: [a]', 'spec.configs must be a mapping (key: value).'],
    ['an access that is a name', 'access: [monitor]', 'spec.access[0] allows nothing; give operations: [consume], [produce] or both.'],
    ['an unknown operation', 'access: [{ service: m, operations: [delete] }]', 'spec.access[0].operations[0] is "delete"; it must be one of produce, consume.'],
    [
      'a key of a field that is not there',
      'key: { from: airport }',
      'spec.key.from is airport, which departed.avsc has no field of; it has id, origin, delay.',
    ],
    [
      'a key of a number',
      'key: { from: delay }',
      'spec.key.from is delay, which is "int" in departed.avsc; a string key comes from a string. Take another field.',
    ],
    ['an unknown key format', 'key: { format: avro }', 'spec.key.format is "avro"; it must be one of string, none.'],
    [
      'a schema that is not there',
      'value: { file: gone.avsc }',
      "spec.value.file is gone.avsc, which can't be read (there is no such file). The path is taken from where this manifest lies.",
    ],
    [
      'a schema that is a folder',
      'value: { file: . }',
      "spec.value.file is ., which can't be read (it is a folder). The path is taken from where this manifest lies.",
    ],
    ['a schema file that is a number', 'value: { file: 7 }', 'spec.value.file is 7, which YAML takes for no text; put it in quotes: "7".'],
    ['no schema file', 'value: {}', 'spec.value.file is missing; give the path of its .avsc.'],
    ['another format', 'value: { format: protobuf, file: departed.avsc }', 'spec.value.format is "protobuf"; it must be one of avro.'],
    [
      'an unknown level',
      'value: { file: departed.avsc, compatibility: BACKWARDS }',
      'spec.value.compatibility is "BACKWARDS"; it must be one of NONE, BACKWARD, BACKWARD_TRANSITIVE, FORWARD, FORWARD_TRANSITIVE, FULL, FULL_TRANSITIVE.',
    ],
    ['a schema that is none', 'value: { file: bad.avsc }', 'spec.value.file bad.avsc: Avro schema at fields[0].type: no type "nope" is defined'],
  ])('a topic with %s', (_what, spec, problem) => {
    const told = problemsOf(
      spec.startsWith('value') || spec.startsWith('partitions')
        ? topic('a').replace(
            /spec: .*/,
            `spec: { cluster: main${spec.startsWith('partitions') ? ', value: { file: departed.avsc }' : ', partitions: 1'}, ${spec} }`,
          )
        : topic('a', spec),
      {
        'bad.avsc': '{"type":"record","name":"R","fields":[{"name":"a","type":"nope"}]}',
      },
    );
    expect(told[0]).toMatch(/^turnpike\.yaml:4:\d+ /);
    expect(told.join('\n')).toContain(problem);
  });

  it.each<[string, string, readonly string[]]>([
    [
      'instances as a number',
      'environments: { prod: { principals: [a], instances: 5 } }',
      ['turnpike.yaml:4:61 spec.environments.prod.instances must be a mapping (key: value).'],
    ],
    ['an environment that is a name', 'environments: { prod: a }', ['turnpike.yaml:4:31 spec.environments.prod must be a mapping (key: value).']],
    [
      'an environment without principals',
      'environments: { prod: {}, test: { principals: [] } }',
      [
        "turnpike.yaml:4:31 spec.environments.prod.principals names nobody; give who the service is there: a certificate's name, a SPIFFE id or an OAuth client.",
        "turnpike.yaml:4:55 spec.environments.test.principals names nobody; give who the service is there: a certificate's name, a SPIFFE id or an OAuth client.",
      ],
    ],
    [
      'a principal that is everybody, and one with its Kafka type',
      'environments: { prod: { principals: ["*", "User:a"] } }',
      [
        'turnpike.yaml:4:46 spec.environments.prod.principals[0] is "*", which is everybody; name each principal.',
        'turnpike.yaml:4:51 spec.environments.prod.principals[1] is "User:a"; leave "User:" out, it is put before it for Kafka.',
      ],
    ],
    [
      'an environment whose name is a path',
      'environments: { ../x: { principals: [a] } }',
      ['turnpike.yaml:4:31 spec.environments.../x is no name of an environment: it must be of lower-case letters, digits and "-".'],
    ],
    [
      'the group of all groups',
      'consumes: [{ topic: a, group: "*" }]',
      ['turnpike.yaml:4:39 spec.consumes[0].group is "*", which is every group; give it a name of its own.'],
    ],
    ['a consumer without a group', 'consumes: [{ topic: a }]', ['turnpike.yaml:4:20 spec.consumes[0].group is missing; give the consumer group.']],
    ['a topic that is a name', 'produces: [a]', ['turnpike.yaml:4:20 spec.produces[0] must be a mapping (key: value).']],
    ['produces that is no list', 'produces: a', ['turnpike.yaml:4:19 spec.produces must be a list, as [a, b].']],
    [
      'rates in bad units',
      'produces: [{ topic: a, quota: { bytes: 5Mb/s, records: 0/s, burst: forever } }]',
      [
        'turnpike.yaml:4:48 spec.produces[0].quota.bytes is "5Mb/s"; write a rate such as 5MiB/s or 500kB/s.',
        'turnpike.yaml:4:64 spec.produces[0].quota.records is "0/s"; write a rate such as 2000/s.',
        'turnpike.yaml:4:76 spec.produces[0].quota.burst is "forever"; write the time of the rate that may go at once, such as 2s.',
      ],
    ],
    [
      'a quota of nothing',
      'produces: [{ topic: a, quota: { burst: 2s } }]',
      ['turnpike.yaml:4:39 spec.produces[0].quota limits nothing; give bytes, records or both.'],
    ],
    [
      'records for a consumer, whom nothing would hold to them',
      'consumes: [{ topic: a, group: g, quota: { records: 100/s } }]',
      ["turnpike.yaml:4:60 spec.consumes[0].quota.records can't be limited for a consumer yet; give bytes."],
    ],
    [
      'an import that is not there',
      'imports: [../nowhere/turnpike.yaml]',
      ['turnpike.yaml:4:19 spec.imports[0] is ../nowhere/turnpike.yaml, and there is no manifest there. The path is taken from where this one lies.'],
    ],
  ])('a service with %s', (_what, spec, problems) => expect(problemsOf(documents(service('s', spec), topic('a')))).toEqual(problems));

  it.each<[string, unknown, RegExp]>([
    [
      'a private key',
      { keys: [{ kty: 'EC', kid: 'k1', d: 'SECRET' }] },
      /turnpike\.root-keys\.json holds a private key \(k1\); it must hold public keys only\. Replace that key/,
    ],
    ['no keys', { key: 1 }, /turnpike\.root-keys\.json is no set of public keys .*: it has no list "keys"/],
    ['a key without a name', { keys: [{ kty: 'EC' }] }, /a key lacks its kty or kid/],
    ['no JSON', '{"keys":[{"d":"SECRET"', /it is not JSON/],
  ])('root keys with %s, of which nothing secret is said', (_what, keys, message) => {
    const told = problemsOf(service('s'), { 'turnpike.root-keys.json': typeof keys === 'string' ? keys : JSON.stringify(keys) });
    expect(told).toEqual([expect.stringMatching(message)]);
    expect(told.join()).not.toContain('SECRET');
  });

  it.each<[string, string, string]>([
    ['no address', 'bootstrap: {}', 'spec.environments.prod.bootstrap gives no address; give mtls, oauth or both, each a list of host:port.'],
    ['an address without a port', 'bootstrap: { mtls: [kafka] }', 'spec.environments.prod.bootstrap.mtls[0] is "kafka"; write an address as host:port.'],
    [
      'a URL for an address',
      'bootstrap: { mtls: ["https://kafka:9093"] }',
      'spec.environments.prod.bootstrap.mtls[0] is "https://kafka:9093"; write an address as host:port.',
    ],
    ['an unknown listener', 'bootstrap: { mtls: ["k:1"], plain: ["k:1"] }', 'spec.environments.prod.bootstrap.plain is not known here; there are mtls, oauth.'],
  ])('a cluster with %s', (_what, spec, problem) => {
    const told = problemsOf(
      `apiVersion: turnpike.dev/v1alpha1\nkind: Cluster\nmetadata: { name: main, team: p }\nspec: { environments: { prod: { ${spec} } } }\n`,
    );
    expect(told).toEqual([expect.stringMatching(/^turnpike\.yaml:4:\d+ /)]);
    expect(told[0]).toContain(problem);
  });
});

describe('what only several resources show', () => {
  it.each<[string, string, readonly string[]]>([
    ['two of one name', documents(topic('a'), topic('a')), ['turnpike.yaml:8:19 metadata.name a stands at turnpike.yaml:3:19 too; one of them must go.']],
    [
      'two that Kafka takes for one name',
      documents(topic('a.b'), topic('a_b')),
      ['turnpike.yaml:8:19 metadata.name a_b and a.b (turnpike.yaml:3:19) are one name to Kafka, which reads "." and "_" alike; rename one.'],
    ],
    [
      "a topic of another team's without its consent",
      documents(topic('a'), service('s', 'consumes: [{ topic: a, group: g }]', 'ops')),
      [
        "turnpike.yaml:9:29 spec.consumes[0].topic a is airside's, and its owner has not agreed that s may consume. Ask them to add { service: s, operations: [consume] } to spec.access at turnpike.yaml:4:7.",
      ],
    ],
    [
      'a consent to consume, for one who produces',
      documents(topic('a', 'access: [{ service: s, operations: [consume] }]'), service('s', 'produces: [{ topic: a }]', 'ops')),
      [
        "turnpike.yaml:9:29 spec.produces[0].topic a is airside's, and its owner has not agreed that s may produce. Ask them to add { service: s, operations: [produce] } to spec.access at turnpike.yaml:4:79.",
      ],
    ],
    [
      'a topic produced twice, one consumed twice in a group',
      documents(
        topic('a'),
        service('s', 'produces: [{ topic: a }, { topic: a }], consumes: [{ topic: a, group: g }, { topic: a, group: h }, { topic: a, group: g }]'),
      ),
      [
        'turnpike.yaml:9:43 spec.produces[1].topic a is produced twice; merge the two entries.',
        'turnpike.yaml:9:117 spec.consumes[2].topic a in g is consumed twice; merge the two entries.',
      ],
    ],
    [
      'a group over two clusters',
      documents(topic('a'), topic('b').replace('cluster: main', 'cluster: other'), service('s', 'consumes: [{ topic: a, group: g }, { topic: b, group: g }]')),
      ['turnpike.yaml:14:63 spec.consumes[1].group g would read from main and other; a group lives on one cluster. Use a group for each.'],
    ],
    [
      'a principal of two services',
      documents(service('s', 'environments: { prod: { principals: [x] } }'), service('t', 'environments: { prod: { principals: [x] } }')),
      ["turnpike.yaml:9:45 spec.environments.prod.principals x is s's there already; each service has principals of its own."],
    ],
    [
      "a local principal that is another service's name",
      documents(service('s'), service('t', 'environments: { local: { principals: [s] } }')),
      ["turnpike.yaml:9:46 spec.environments.local.principals s is s's there already; each service has principals of its own."],
    ],
    [
      'a subject with two schemas',
      documents(topic('a'), topic('b').replace('file: departed.avsc', 'file: other.avsc, subject: a-value')),
      ['turnpike.yaml:9:46 spec.value the subject a-value has another schema at turnpike.yaml:4:46; give one of them a subject of its own (value.subject).'],
    ],
    [
      'a cluster that nobody declares, where clusters are declared',
      documents(
        topic('a'),
        'apiVersion: turnpike.dev/v1alpha1\nkind: Cluster\nmetadata: { name: airside, team: p }\nspec: { environments: { prod: { bootstrap: { mtls: ["k:1"] } } } }\n',
      ),
      ['turnpike.yaml:4:18 spec.cluster is main, which nobody declares; there is airside. Correct it, or declare it (kind: Cluster).'],
    ],
  ])('%s', (_what, text, problems) => expect(problemsOf(text, { 'other.avsc': '"string"' })).toEqual(problems));

  it('each is told at the value of its own key, and a near miss with what may be meant', () => {
    const lines = [
      'apiVersion: turnpike.dev/v1alpha1',
      'kind: Topic',
      'metadata:',
      '  name: flights.departed',
      '  team: airside',
      'spec:',
      '  cluster: mian',
      '  partitions: 1',
      '  key:',
      '    format: string',
      '    from: delays',
      '  value:',
      '    file: departed.avsc',
      '---',
      'apiVersion: turnpike.dev/v1alpha1',
      'kind: Topic',
      'metadata: { name: b, team: airside }',
      'spec:',
      '  cluster: main',
      '  partitions: 1',
      '  value:',
      '    compatibility: FULL',
      '    file: bad.avsc',
      '---',
      'apiVersion: turnpike.dev/v1alpha1',
      'kind: Cluster',
      'metadata: { name: main, team: platform }',
      'spec: { environments: { prod: { bootstrap: { mtls: ["k:1"] } } } }',
      '---',
      'apiVersion: turnpike.dev/v1alpha1',
      'kind: Service',
      'metadata: { name: s, team: airside }',
      'spec:',
      '  produces:',
      '    - quota: { bytes: 1kB/s }',
      '      topic: flight.departed',
    ];
    expect(problemsOf(`${lines.join('\n')}\n`, { 'bad.avsc': 'not JSON' })).toEqual([
      'turnpike.yaml:7:12 spec.cluster is mian, which nobody declares (did you mean main?); there is main. Correct it, or declare it (kind: Cluster).',
      'turnpike.yaml:11:11 spec.key.from is delays, which departed.avsc has no field of (did you mean delay?); it has id, origin, delay.',
      expect.stringMatching(/^turnpike\.yaml:23:11 spec\.value\.file bad\.avsc: .*not JSON/),
      expect.stringMatching(
        /^turnpike\.yaml:36:14 spec\.produces\[0\]\.topic flight\.departed is declared neither .* \(did you mean flights\.departed\?\)\. Declare/,
      ),
    ]);
  });

  it("an imported topic's schema that is none is told at its place, not when code is generated from it", () => {
    using workspace = new Workspace({
      'owner.yaml': topic('a').replace('departed.avsc', 'bad.avsc'),
      'bad.avsc': '{"type":"record"}',
      'turnpike.yaml': service('s', 'imports: [owner.yaml], produces: [{ topic: a }]'),
    });
    expect(workspace.problems()).toEqual([expect.stringMatching(/^owner\.yaml:4:54 spec\.value\.file bad\.avsc: /)]);
  });

  it('topics of one subject and one schema may share it', () => {
    expect(problemsOf(documents(topic('a'), topic('b').replace('file: departed.avsc', 'file: departed.avsc, subject: a-value')))).toEqual([]);
  });
});
