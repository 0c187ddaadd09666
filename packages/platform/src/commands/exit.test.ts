import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { TurnpikeError } from '@turnpike/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { exitCodeOf, messageOf } from './exit.ts';

it('a command ends with 3 where something is stale, 4 where something is incompatible, else with 1', () => {
  const of = (code: TurnpikeError['code']) => exitCodeOf(new TurnpikeError(code, 'x'));
  expect([of('LOCK_STALE'), of('SCHEMA_INCOMPATIBLE'), of('MANIFEST_INVALID'), exitCodeOf(new TypeError('x')), exitCodeOf('x')]).toEqual([3, 4, 1, 1, 1]);
});

describe('what a command says of its failure', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'exit-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  const failed = (code: string, syscall: string, at: string) =>
    Object.assign(new Error(`${code}: as Node has it, ${syscall} '${at}'`), { code, syscall, path: at });

  it('is the message of our own errors, and of what is none of the file system', () => {
    expect(messageOf(new TurnpikeError('CLOSED', 'It is closed.'))).toBe('[CLOSED] It is closed.');
    expect([messageOf(new TypeError('x is no y')), messageOf('x'), messageOf(failed('ENOENT', 'spawn', 'nod'))]).toEqual([
      'x is no y',
      'x',
      "ENOENT: as Node has it, spawn 'nod'",
    ]);
  });

  it.each([
    ['EROFS', 'open', "/srv/a can't be written: the file system is read-only. Choose another place (--out)."],
    ['EACCES', 'open', "/srv/a can't be written: permission is denied. Make it writable, or choose another place (--out)."],
    ['EEXIST', 'mkdir', "/srv/a can't be made: there is a file by that name. Choose another place (--out)."],
    ['ENOTDIR', 'mkdir', "/srv/a can't be made: a part of the path is a file, not a folder. Choose another place (--out)."],
    ['ENOSPC', 'write', "/srv/a can't be written: no space is left. Free some."],
    ['EIO', 'scandir', "/srv/a can't be read: EIO. Choose another place (--out)."],
  ])('has of %s the path, the reason in words, and what to do', (code, syscall, message) => {
    expect(messageOf(failed(code, syscall, '/srv/a'), [{ name: '--out', value: '/srv/a' }])).toBe(`[CONFIG_INVALID] ${message}`);
  });

  it('names the option that the path comes from, and none where it comes from elsewhere', () => {
    const outputs = [
      { name: '--out', value: 'keys/one.json' },
      { name: '--public', value: 'public' },
    ];
    const of = (at: string) => /\((.*)\)/.exec(messageOf(failed('EROFS', 'open', at), outputs))?.[1];
    expect(['keys/one.json', path.resolve('keys'), 'public/of.json', 'publican', 'generated'].map(of)).toEqual([
      '--out',
      '--out',
      '--public',
      undefined,
      undefined,
    ]);
  });

  it('says which folder is missing, and that a file is', () => {
    expect(messageOf(failed('ENOENT', 'open', path.join(folder, 'no', 'f')))).toBe(
      `[CONFIG_INVALID] ${folder}/no/f can't be written: there is no folder ${folder}/no. Make it first.`,
    );
    expect(messageOf(failed('ENOENT', 'open', path.join(folder, 'f')))).toContain('there is no such file.');
  });

  it('of what Node itself reports', () => {
    writeFileSync(path.join(folder, 'file'), '');
    const thrown = (act: () => unknown) => {
      try {
        return act();
      } catch (error) {
        return messageOf(error);
      }
    };
    expect(thrown(() => writeFileSync(folder, ''))).toBe(`[CONFIG_INVALID] ${folder} can't be written: it is a folder. Name a file.`);
    expect(thrown(() => readFileSync(path.join(folder, 'file', 'more')))).toContain('a part of the path is a file, not a folder');
  });
});
