import { existsSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { build } from '../support/build.ts';
import { Repository } from './turnpike.ts';

const SCHEMA = '{"type":"record","name":"Departed","namespace":"acme","fields":[{"name":"id","type":"string"},{"name":"origin","type":"string"}]}';
const MANIFEST = `apiVersion: turnpike.dev/v1alpha1
kind: Topic
metadata: { name: flights.departed, team: airside }
spec:
  cluster: main
  partitions: 3
  key: { from: origin }
  value: { file: departed.avsc }
---
apiVersion: turnpike.dev/v1alpha1
kind: Service
metadata: { name: flight-ops, team: airside }
spec:
  produces: [{ topic: flights.departed, quota: { bytes: 5MiB/s } }]
  environments:
    prod: { principals: ["spiffe://acme/flight-ops", flight-ops-batch], instances: { max: 4 } }
---
apiVersion: turnpike.dev/v1alpha1
kind: Cluster
metadata: { name: main, team: platform }
spec: { environments: { prod: { id: abc, bootstrap: { mtls: ["kafka-1.example:9093"] } } } }
`;
/** Prints what is loaded. */
const LOADED = `import { registerHooks } from 'node:module';
registerHooks({ load: (url, context, next) => { if (url.startsWith('file:')) console.error(url); return next(url, context); } });`;

const repository = (files: Readonly<Record<string, string>> = {}) => new Repository({ 'turnpike.yaml': MANIFEST, 'departed.avsc': SCHEMA, ...files });

beforeAll(build);

describe('turnpike', () => {
  it('ends as of a broken pipe, without a word, when nobody reads what it prints', async () => {
    using here = repository();
    expect(await here.unread(['--help'])).toEqual({ code: 141, stdout: '', stderr: '' });
    expect(await here.unread(['generate'])).toEqual({ code: 141, stdout: '', stderr: '' });
  });

  it('--help lists the commands and exit codes in 80 columns, soon: nothing of Kafka is loaded for it', async () => {
    using here = repository();
    const { code, stdout } = await here.turnpike(['--help']);
    expect(code).toBe(0);
    for (const command of ['validate', 'generate', 'apply', 'clusters', 'dev', 'grant']) expect(stdout).toContain(`\n  ${command} `);
    expect(stdout).toMatch(/Exit codes: 0 clean, 1 error, 2 usage, 3 changes or stale/);
    expect(stdout.split('\n').filter((line) => line.length > 80)).toEqual([]);
    here.write({ 'loaded.mjs': LOADED });
    const { stderr } = await here.turnpike(['--help'], { NODE_OPTIONS: '--import=./loaded.mjs' });
    const loaded = stderr.match(/(?<=node_modules\/)(@[^/]+\/)?[^/.][^/]*|packages\/\w+/g) ?? [];
    expect([...new Set(loaded)].sort()).toEqual(['commander', 'packages/core', 'packages/platform']);
  });

  it.each<[string, readonly string[], RegExp]>([
    ['an unknown command', ['frobnicate'], /unknown command 'frobnicate'\n.*turnpike --help/],
    ['an unknown option', ['validate', '--frob'], /unknown option '--frob'/],
    ['no environment', ['apply'], /required option '-e, --env <name>' not specified/],
    ['a number of brokers that there is not', ['dev', '--nodes', '2'], /Allowed choices are 1, 3/],
    ['a lifetime that is none', ['grant', 'issue', '-e', 'prod', '--days', '0'], /It must be a whole number from 1 to 3650/],
    ['an unknown algorithm', ['grant', 'keygen', '-o', 'k', '--alg', 'RS256'], /Allowed choices are ES256, EdDSA/],
    ['nothing at all', [], /Usage: turnpike/],
  ])('ends with 2 after %s', async (_what, args, message) => {
    using here = repository();
    const { code, stdout, stderr } = await here.turnpike(args);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(message);
  });
});

describe('turnpike validate', () => {
  it('says what is there', async () => {
    using here = repository();
    expect(await here.turnpike(['validate'])).toEqual({
      code: 0,
      stdout: 'turnpike.yaml: valid: 1 service, 1 topic, 1 cluster; 0 topics imported\n',
      stderr: '',
    });
  });

  it('ends with 1, and says of each problem where it is and what to do', async () => {
    using here = repository({ 'turnpike.yaml': MANIFEST.replace('partitions: 3', 'partitions: three').replace('5MiB/s', '5Mbit/s') });
    const { code, stdout, stderr } = await here.turnpike(['validate']);
    expect([code, stdout]).toEqual([1, '']);
    expect(stderr).toBe(
      `[MANIFEST_INVALID] 2 problems:
turnpike.yaml:6:15 spec.partitions is "three"; it must be a whole number from 1 to 10000.
turnpike.yaml:14:57 spec.produces[0].quota.bytes is "5Mbit/s"; write a rate such as 5MiB/s or 500kB/s.
`,
    );
  });

  it('of a folder without a manifest says what it wants', async () => {
    using here = new Repository({});
    const { code, stderr } = await here.turnpike(['validate']);
    expect([code, stderr]).toEqual([
      1,
      '[MANIFEST_INVALID] There is no manifest at turnpike.yaml. Write one there, or say where it is: --file PATH (a file, or a folder of them).\n',
    ]);
  });
});

describe('turnpike generate', () => {
  it('writes once; --check then finds it current, and after a change ends with 3 and writes nothing', async () => {
    using here = repository();
    expect((await here.turnpike(['generate'])).stdout).toBe('written    generated/flight-ops.ts\nwritten    turnpike.lock\n');
    expect(await here.turnpike(['generate', '--check'])).toMatchObject({ code: 0, stdout: 'unchanged  generated/flight-ops.ts\nunchanged  turnpike.lock\n' });
    const before = here.read('turnpike.lock');
    here.write({ 'departed.avsc': SCHEMA.replace('"fields":[', '"fields":[{"name":"gate","type":"string","default":""},') });
    const { code, stderr } = await here.turnpike(['generate', '--check']);
    expect(code).toBe(3);
    expect(stderr).toBe('[LOCK_STALE] generated/flight-ops.ts, turnpike.lock are not what turnpike.yaml makes. Run turnpike generate and commit the result.\n');
    expect(here.read('turnpike.lock')).toBe(before);
  });
});

describe('turnpike clusters', () => {
  it('writes the descriptors of an environment, or prints them', async () => {
    using here = repository();
    const descriptors = [{ name: 'main', epoch: 1, primary: { id: 'abc', bootstrap: { mtls: ['kafka-1.example:9093'] } } }];
    expect(JSON.parse((await here.turnpike(['clusters', '--env', 'prod'])).stdout)).toEqual(descriptors);
    const { stdout } = await here.turnpike(['clusters', '--env', 'prod', '--out', 'clusters.json']);
    expect(stdout).toBe('clusters.json: main; mount it, and set TURNPIKE_CLUSTERS to its path\n');
    expect(JSON.parse(here.read('clusters.json'))).toEqual(descriptors);
  });

  it('has none for an environment that is misspelt, or that no cluster is in', async () => {
    using here = repository();
    expect(await here.turnpike(['clusters', '--env', 'prdo'])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/in an environment "prdo" \(did you mean prod\?\); there are local, prod\./),
    });
    expect(await here.turnpike(['clusters', '--env', 'local'])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/declares no cluster in local; add a resource of kind: Cluster/),
    });
  });
});

describe('a command that cannot write', () => {
  it.each<[readonly string[], string]>([
    [['generate'], "generated can't be made: there is a file by that name. Choose another place."],
    [['clusters', '-e', 'prod', '-o', 'folder'], "folder can't be written: it is a folder. Name a file (--out)."],
    [['clusters', '-e', 'prod', '-o', 'no/such/file'], "no/such/file can't be written: there is no folder no/such. Make it first (--out)."],
    [['grant', 'keygen', '-o', 'generated/key.json'], "generated can't be made: there is a file by that name. Choose another place (--out)."],
    [['grant', 'issue', '-e', 'local', '-o', 'generated'], "generated can't be made: there is a file by that name. Choose another place (--out)."],
  ])('%s says which path, why, and what to do', async (args, message) => {
    using here = repository({ generated: '', 'folder/file': '' });
    const { code, stdout, stderr } = await here.turnpike(args);
    expect([code, stdout]).toEqual([1, '']);
    expect(stderr.replaceAll(`${here.folder}/`, '')).toBe(`[CONFIG_INVALID] ${message}\n`);
  });
});

describe('turnpike grant', () => {
  it('keygen makes a key that only its owner reads, adds the public one to those that are pinned, and overwrites neither', async () => {
    using here = repository();
    const first = await here.turnpike(['grant', 'keygen', '--out', 'keys/one.json']);
    expect(first).toMatchObject({ code: 0, stderr: '' });
    expect(here.mode('keys/one.json')).toBe('0600');
    const { d, kid } = JSON.parse(here.read('keys/one.json')) as { d: string; kid: string };
    expect(first.stdout).not.toContain(d);
    expect(first.stdout).toContain(`turnpike.root-keys.json (${kid})`);
    const again = await here.turnpike(['grant', 'keygen', '--out', 'keys/one.json']);
    expect(again).toMatchObject({ code: 1, stderr: '[CONFIG_INVALID] keys/one.json is there already; a key is never overwritten. Give another --out.\n' });
    expect(JSON.parse(here.read('keys/one.json'))).toMatchObject({ d });
    expect(first.stdout).not.toContain('added to');
    const second = await here.turnpike(['grant', 'keygen', '--out', 'keys/two.json', '--alg', 'EdDSA']);
    expect(second.stdout).toMatch(/^public key {3}turnpike\.root-keys\.json \(\S+\), added to the 1 that it had: commit it/m);
    const { keys } = JSON.parse(here.read('turnpike.root-keys.json')) as { keys: Record<string, string>[] };
    expect(keys.map((k) => [k.kid === kid, k.alg, k.d])).toEqual([
      [true, 'ES256', undefined],
      [false, 'EdDSA', undefined],
    ]);
  });

  it('keygen leaves no private key behind where the public one cannot be written, so that it can be run again', async () => {
    using here = repository({ file: '' });
    const long = 'k'.repeat(300);
    for (const [at, message] of [
      ['file/keys.json', "file can't be made: there is a file by that name. Choose another place (--public)."],
      [long, `${long} can't be written: the name is too long. Choose another place (--public).`],
    ] as const) {
      const { code, stderr } = await here.turnpike(['grant', 'keygen', '-o', 'key.json', '--public', at]);
      expect([code, stderr]).toEqual([1, expect.stringContaining(message)]);
      expect(existsSync(here.path('key.json'))).toBe(false);
    }
    expect(await here.turnpike(['grant', 'keygen', '-o', 'key.json'])).toMatchObject({ code: 0 });
  });

  it('issue signs one grant for each principal, and show says what it allows and that the signature holds', async () => {
    using here = repository();
    await here.turnpike(['grant', 'keygen', '-o', 'key.json']);
    const { code, stdout, stderr } = await here.turnpike(['grant', 'issue', '-e', 'prod', '-k', 'key.json', '-o', 'grants', '--issuer', 'ci', '--days', '7']);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(
      /^grants\/flight-ops\.prod\.spiffe_acme_flight-ops\.grant: spiffe:\/\/acme\/flight-ops, revision \d+, mode shadow, until 20\d\d-.*\ngrants\/flight-ops\.prod\.flight-ops-batch\.grant: /,
    );
    const shown = await here.turnpike(['grant', 'show', 'grants/flight-ops.prod.flight-ops-batch.grant']);
    expect(shown.code).toBe(0);
    for (const line of [
      'principal    flight-ops-batch',
      'environment  prod',
      'signature    valid',
      "mode         shadow for what isn't listed",
      'topic        flights.departed on main: write (shadow)',
      'quota        flights.departed: 5242880 bytes/s out, burst 5242880, shared by 4 instances',
    ])
      expect(shown.stdout.split('\n')).toContain(line);
    const json = await here.turnpike(['grant', 'show', '--json', 'grants/flight-ops.prod.flight-ops-batch.grant']);
    expect(JSON.parse(json.stdout)).toMatchObject({ iss: 'ci', sub: 'flight-ops-batch', aud: 'prod', signature: 'valid', expired: false });
  });

  it('show refuses by exit code what a wrong key signed, what was changed, and what it has no key for, and says which', async () => {
    using here = repository();
    await here.turnpike(['grant', 'keygen', '-o', 'key.json']);
    await here.turnpike(['grant', 'issue', '-e', 'prod', '-k', 'key.json']);
    const grant = 'flight-ops.prod.flight-ops-batch.grant';
    const { kid } = JSON.parse(here.read('key.json')) as { kid: string };
    await here.turnpike(['grant', 'keygen', '-o', 'other.json', '--public', 'other-keys.json']);
    const verdict = async (file: string, keys: string) => {
      const { code, stdout } = await here.turnpike(['grant', 'show', file, '--root-keys', keys]);
      return [code, /^signature {4}(.*)$/m.exec(stdout)?.[1]];
    };
    expect(await verdict(grant, 'other-keys.json')).toEqual([1, `REFUSED: signed by ${kid}, which is not in other-keys.json`]);
    expect(await verdict(grant, 'none.json')).toEqual([1, 'not checked: there is no none.json here; give --root-keys FILE']);
    const [header, claims = '', signature] = here.read(grant).trim().split('.');
    const more = Buffer.from(Buffer.from(claims, 'base64url').toString().replace('"rev":', '"rev":9')).toString('base64url');
    here.write({ 'changed.grant': [header, more, signature].join('.') });
    expect(await verdict('changed.grant', 'turnpike.root-keys.json')).toEqual([1, expect.stringMatching(/^REFUSED: .*its signature is wrong/)]);
    expect(await here.turnpike(['grant', 'show', 'gone.grant'])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^\[GRANT_MISSING\] gone\.grant can't be read \(ENOENT\)/),
    });
    expect(await here.turnpike(['grant', 'show', 'turnpike.yaml'])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^\[GRANT_INVALID\] This is no compact JWS/),
    });
  });

  it('show says of an expired grant that it is, apart from whether its signature holds: one that holds is in force, one that refuses is not', async () => {
    using here = repository();
    await here.turnpike(['grant', 'keygen', '-o', 'key.json']);
    // One that was issued in the past: the clock of the process is set back.
    here.write({ 'past.mjs': 'const now = Date.now; Date.now = () => now() - 40 * 86_400_000;' });
    const issue = async (manifest: string) => {
      here.write({ 'turnpike.yaml': manifest });
      const { code } = await here.turnpike(['grant', 'issue', '-e', 'prod', '-k', 'key.json'], { NODE_OPTIONS: '--import=./past.mjs' });
      expect(code).toBe(0);
      return here.turnpike(['grant', 'show', 'flight-ops.prod.flight-ops-batch.grant']);
    };
    const hold = await issue(MANIFEST);
    expect([hold.code, /^signature {4}(.*)$/m.exec(hold.stdout)?.[1]]).toEqual([0, 'valid']);
    expect(hold.stdout).toMatch(/^valid .* UTC \(EXPIRED; then it says hold: it stays in force\)$/m);
    const refuse = await issue(MANIFEST.replace('quota: { bytes: 5MiB/s }', 'onExpiry: refuse'));
    expect([refuse.code, /^signature {4}(.*)$/m.exec(refuse.stdout)?.[1]]).toEqual([1, 'valid']);
    expect(refuse.stdout).toMatch(/^valid .* UTC \(EXPIRED; then it says refuse\)$/m);
  });

  it('issue says what is missing: the key, the environment, the service; and warns of a key that the service does not pin', async () => {
    using here = repository();
    await here.turnpike(['grant', 'keygen', '-o', 'key.json', '--public', 'elsewhere.json']);
    const issue = (...args: readonly string[]) => here.turnpike(['grant', 'issue', ...args]);
    expect(await issue('-e', 'prod')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('A grant for prod needs a key: --key FILE, as turnpike grant keygen makes it.'),
    });
    expect(await issue('-e', 'staging', '-k', 'key.json')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('flight-ops has no environment "staging"; turnpike.yaml has local, prod.'),
    });
    expect(await issue('-e', 'prod', '-k', 'key.json', '-s', 'nobody')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('turnpike.yaml has no service nobody that uses the SDK; it has flight-ops.'),
    });
    expect(await issue('-e', 'prod', '-k', 'elsewhere.json')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('elsewhere.json is no private key in JWK form (it has no private part)'),
    });
    here.write({ 'broken.json': '{"d":"SECRET"' });
    const broken = await issue('-e', 'prod', '-k', 'broken.json');
    expect(broken).toMatchObject({ code: 1, stderr: expect.stringContaining('broken.json is no private key in JWK form (it is not JSON)') });
    expect(broken.stderr).not.toContain('SECRET');
    expect(await issue('-e', 'prod', '-k', 'key.json', '--ids')).toMatchObject({ code: 1 });
    expect(await issue('-e', 'prod', '-k', 'key.json')).toMatchObject({
      code: 0,
      stderr: expect.stringMatching(/^flight-ops pins no key \S+, so it will refuse this grant\./),
    });
  });

  it('local needs no key: everybody has the development key', async () => {
    using here = repository();
    expect(await here.turnpike(['grant', 'issue', '-e', 'local'])).toMatchObject({ code: 0, stderr: '' });
    expect(await here.turnpike(['grant', 'show', 'flight-ops.local.grant'])).toMatchObject({ code: 0, stdout: expect.stringContaining('signature    valid') });
  });
});
