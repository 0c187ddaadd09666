// The commands of package.json and the verdict of .ci/run: they run before anything else does, so nothing else would tell that they are wrong.
import { execFile } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
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
    ['prove', [], /^Say which proof: npm run prove -- NAME\. There are: .+\.\n$/],
    ['prove', ['nothing'], /^There is no proof nothing\. There are: .+\.\n$/],
    ['toString', [], /^There is no command toString\. There are: setup, test, .+\.\n$/],
  ])('%s %j says what there is and ends with 2', async (command, args, message) => {
    const { code, stderr } = await run('node', ['scripts/run.mjs', command, ...args], { cwd: root });
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
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
