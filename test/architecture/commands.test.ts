// The commands of package.json and the verdict of .ci/run: they run before anything else does, so nothing else would tell that they are wrong.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const root = path.resolve(import.meta.dirname, '../..');

async function run(program: string, args: readonly string[], options: { readonly cwd: string; readonly env?: NodeJS.ProcessEnv }) {
  return promisify(execFile)(program, args, options).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (failed: { code: number; stdout: string; stderr: string }) => failed,
  );
}

describe('npm run', () => {
  it.each([
    ['example', [], /^Say which example: npm run example -- NAME\. There are: guarded\.\n$/],
    ['prove', [], /^Say which proof: npm run prove -- NAME\. There are: .+\.\n$/],
    ['prove', ['nothing'], /^There is no proof nothing\. There are: .+\.\n$/],
    ['toString', [], /^There is no command toString\. There are: setup, test, .+\.\n$/],
    ['setup', ['--transport', 'nothing'], /^There is no transport nothing\. There are: wire, confluent, kafkajs\.\n$/],
    ['quickstart', ['--transport=nothing'], /^There is no transport nothing\. There are: wire, confluent, kafkajs\.\n$/],
    ['setup', ['--transport'], /^Say which transport\. There are: wire, confluent, kafkajs\.\n$/],
  ])('%s %j says what there is and ends with 2', async (command, args, message) => {
    const { code, stderr } = await run('node', ['scripts/run.mjs', command, ...args], { cwd: root });
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
  });
});

describe('npm run setup', () => {
  // A copy of what it is made of, with a build that ends as told.
  it.each<[string, string, number, RegExp]>([
    ['was interrupted', "process.kill(process.pid, 'SIGINT'); setTimeout(() => {}, 60_000);", 130, /^setup: interrupted\. Nothing else was run; .+\n$/],
    ['failed', 'process.exit(1);', 1, /^setup: the build failed\. Nothing else was run\.\n$/],
  ])('says of a build that it %s, in lines of at most 80 columns', async (_what, script, expected, message) => {
    const folder = mkdtempSync(path.join(tmpdir(), 'turnpike-setup-'));
    try {
      for (const name of ['scripts', 'node_modules/.bin', ...Array.from({ length: 12 }, (_, i) => `packages/package-${i}/src`)])
        mkdirSync(path.join(folder, name), { recursive: true });
      for (const name of ['run.mjs', 'commands.mjs', 'setup.mjs', 'addon.mjs', 'stale.mjs'])
        copyFileSync(path.join(root, 'scripts', name), path.join(folder, 'scripts', name));
      writeFileSync(path.join(folder, 'scripts/build.mjs'), `import process from 'node:process';\n${script}\n`);
      writeFileSync(path.join(folder, 'node_modules/.bin/tsup'), '');
      writeFileSync(path.join(folder, 'pnpm-lock.yaml'), '');
      writeFileSync(path.join(folder, 'node_modules/.turnpike-setup'), createHash('sha256').digest('hex'));
      for (let i = 0; i < 12; i++) writeFileSync(path.join(folder, `packages/package-${i}/package.json`), `{"name":"@turnpike/package-${i}"}`);
      const { code, stdout, stderr } = await run('node', ['scripts/run.mjs', 'setup'], { cwd: folder });
      expect({ code, stdout }).toEqual({ code: expected, stdout: 'setup: building 12 packages\n' });
      expect(stderr).toMatch(message);
      expect(stderr.split('\n').filter((line) => line.length > 80)).toEqual([]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

/** Runs a line of a script of ours, and resolves with what it says. */
const evaluate = (script: string, line: string, env: NodeJS.ProcessEnv = process.env) =>
  run(process.execPath, ['--input-type=module', '-e', `import * as script from ${JSON.stringify(path.join(root, 'scripts', script))};\n${line}`], {
    cwd: root,
    env,
  });

describe("Confluent's addon", () => {
  it('is built by what runs over it, and by nothing else', async () => {
    const asked: [command: string, args: string[], needs: boolean][] = [
      ['setup', [], false],
      ['setup', ['--transport', 'confluent'], true],
      ['quickstart', [], false],
      ['quickstart', ['--transport=confluent'], true],
      ['quickstart', ['--transport', 'kafkajs'], false],
      ['prove', ['order'], false],
      ['prove', ['conformance'], true],
      ['prove', ['conformance', '--transport', 'memory'], false],
      ['prove', ['conformance', '--transport', 'wire', '--transport', 'confluent'], true],
      ['test', [], true],
      ['test', ['-t', 'some name'], true],
      ['test', ['test/transports'], true],
      ['test', ['confluent'], true],
      ['test', ['packages/core'], false],
      ['check', [], false],
      ['build', [], false],
    ];
    const needs = `console.log(JSON.stringify(${JSON.stringify(asked)}.map(([name, args]) => [name, args, script.needsAddon(name, { args, root: ${JSON.stringify(root)} })])));`;
    const { stdout } = await evaluate('commands.mjs', needs);
    expect(JSON.parse(stdout)).toEqual(asked);
  });

  describe('in a workspace of its own', () => {
    let folder: string;
    let library: string;
    let cache: string;
    beforeEach(() => {
      folder = mkdtempSync(path.join(tmpdir(), 'turnpike-addon-'));
      library = path.join(folder, 'packages/transports/node_modules/@confluentinc/kafka-javascript');
      cache = path.join(folder, 'cache');
      for (const name of ['deps/librdkafka', 'src', 'util', '../../nan']) mkdirSync(path.join(library, name), { recursive: true });
      writeFileSync(path.join(library, 'package.json'), '{"version":"0.0.1"}');
      writeFileSync(path.join(library, 'binding.gyp'), '');
      // Stands for the binary: it loads where what was built is in its place.
      writeFileSync(path.join(library, 'librdkafka.js'), "require('node:fs').readFileSync('build/deps/librdkafka.so.1')");
      writeFileSync(path.join(library, 'deps/librdkafka/configure'), 'echo no such thing; exit 1');
    });
    afterEach(() => rmSync(folder, { recursive: true, force: true }));

    /** The lines that it says, and then how it ends. */
    async function ensure(env: NodeJS.ProcessEnv = process.env, platform = process.platform): Promise<string[]> {
      const options = `root: ${JSON.stringify(folder)}, node: process.execPath, say: (line) => console.log(line), cache: ${JSON.stringify(cache)}, platform: '${platform}'`;
      const { stdout } = await evaluate('addon.mjs', `console.log(await script.ensureAddon({ ${options} }).catch((error) => error.message));`, env);
      return stdout.trimEnd().split('\n');
    }

    it('names the log of a build that fails, and leaves nothing else of it', async () => {
      const [first, last] = await ensure();
      expect(first).toBe("building Confluent's addon (1 to 3 minutes with two cores)");
      const log = /^The build of Confluent's addon failed: see (.+\.log)$/.exec(last ?? '')?.[1] ?? '';
      expect(readFileSync(log, 'utf8')).toBe('no such thing\n');
      expect(readdirSync(cache)).toEqual([path.basename(log)]);
    });

    it('says which tools are missing', async () => {
      const lines = await ensure({ PATH: path.join(folder, 'nothing') });
      expect(lines[0]).toBe("Confluent's addon can't be built: cc, c++, make, bash, python3 are missing.");
      expect(lines.at(-1)).toBe('apt-get install build-essential python3');
    });

    it('comes from the cache in a fresh clone, and then is there', async () => {
      const [, last = ''] = await ensure();
      const kept = /see (.+)\.log$/.exec(last)?.[1] ?? '';
      for (const name of ['Release/confluent-kafka-javascript.node', 'deps/librdkafka.so.1', 'deps/librdkafka++.so.1']) {
        mkdirSync(path.dirname(path.join(kept, name)), { recursive: true });
        writeFileSync(path.join(kept, name), name);
      }
      expect(await ensure()).toEqual(["took Confluent's addon from the cache", 'true']);
      expect(readFileSync(path.join(library, 'build/Release/confluent-kafka-javascript.node'), 'utf8')).toBe('Release/confluent-kafka-javascript.node');
      expect(await ensure({ PATH: '' })).toEqual(['false']);
    });

    it('is built on Linux, and elsewhere says what to run', async () => {
      expect(await ensure(process.env, 'darwin')).toEqual([
        "Confluent's addon is built here on Linux only (this is darwin).",
        "Fetch Confluent's own binary: npx pnpm rebuild @confluentinc/kafka-javascript",
      ]);
    });
  });
});

describe('.ci/run', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'turnpike-ci-'));
    for (const name of ['.ci', 'bin', 'test/proofs']) mkdirSync(path.join(folder, name), { recursive: true });
    copyFileSync(path.join(root, '.ci/run'), path.join(folder, '.ci/run'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  /** Runs it with an npm that says and ends as told. */
  async function verdict(test: { says: string; code: number }, proofs: Readonly<Record<string, { says: string; code: number }>> = {}) {
    const answer = ({ says, code }: { says: string; code: number }) => `printf '%b' '${says}'; exit ${code}`;
    const cases = Object.entries(proofs).map(([name, proof]) => `  "run --silent prove -- ${name} --quick") ${answer(proof)} ;;`);
    const npm = ['#!/bin/sh', 'case "$*" in', `  test) [ "$CI" = true ] || exit 9; ${answer(test)} ;;`, ...cases, '  *) exit 99 ;;', 'esac'];
    writeFileSync(path.join(folder, 'bin/npm'), `${npm.join('\n')}\n`);
    chmodSync(path.join(folder, 'bin/npm'), 0o755);
    for (const name of Object.keys(proofs)) writeFileSync(path.join(folder, 'test/proofs', `${name}.ts`), '');
    const env = { ...process.env, CI: '', PATH: `${path.join(folder, 'bin')}${path.delimiter}${process.env.PATH}` };
    const { code, stdout } = await run(path.join(folder, '.ci/run'), [], { cwd: folder, env });
    return { code, last: stdout.trimEnd().split('\n').at(-1), stdout };
  }

  it('ends with the sum of tests and proofs, and says how long each took', async () => {
    const { code, last, stdout } = await verdict({ says: '      Tests  41 passed (41)\\n', code: 0 }, { order: { says: '7 of 7 passed\\n', code: 0 } });
    expect(last).toBe('42 passed, 0 failed');
    expect(code).toBe(0);
    expect(stdout).toMatch(/\nnpm test: \d+ s, exit code 0\nproof order: \d+ s, exit code 0\n/);
  });

  it('reads counts through colours, and skipped ones only where there are any', async () => {
    const says = '\\033[2m      Tests \\033[22m \\033[1m\\033[31m2 failed\\033[39m | \\033[32m40 passed\\033[39m | \\033[33m1 skipped\\033[39m (43)\\n';
    expect(await verdict({ says, code: 1 })).toMatchObject({ code: 1, last: '40 passed, 2 failed, 1 skipped' });
  });

  it('takes the last summary, and none of the figures that tests and proofs print', async () => {
    const says = ' Tests 9 failed\\n      Tests  41 passed (41)\\n';
    const proofs = { order: { says: '      Tests  5 failed (5)\\n3 passed, 2 failed\\n', code: 0 } };
    expect(await verdict({ says, code: 0 }, proofs)).toMatchObject({ code: 0, last: '42 passed, 0 failed' });
  });

  it('counts a failed proof, and goes on to the next', async () => {
    const proofs = { order: { says: '', code: 3 }, speed: { says: '', code: 0 } };
    expect(await verdict({ says: '      Tests  41 passed (41)\\n', code: 0 }, proofs)).toMatchObject({ code: 1, last: '42 passed, 1 failed' });
  });

  it.each([
    ['set-up, lint or types fail before a test runs', '', 1, '0 passed, 1 failed'],
    ['all tests pass but the run does not', '      Tests  41 passed (41)\\n', 1, '41 passed, 1 failed'],
    ['there is no verdict at all', '', 0, '0 passed, 1 failed'],
  ])('fails when %s', async (_what, says, status, sum) => {
    expect(await verdict({ says, code: status })).toMatchObject({ code: 1, last: sum });
  });
});
