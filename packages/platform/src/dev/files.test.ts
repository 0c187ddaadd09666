import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LocalFiles, writeLocal } from './files.ts';

let home: string;
let folder: string;
beforeEach(() => {
  home = mkdtempSync(path.join(tmpdir(), 'files-'));
  folder = path.join(home, 'local');
});
afterEach(() => rmSync(home, { recursive: true }));

const write = (local: LocalFiles, name: string, text: string) => {
  const file = path.join(folder, name);
  writeLocal(file, text);
  local.wrote(file, text);
};

describe('the files of a local platform', () => {
  it('go with it, but for what another has written since, and what it never wrote', () => {
    const local = LocalFiles.claim(folder, home);
    write(local, 'a.env', 'A=1\n');
    write(local, 'b.env', 'B=1\n');
    writeFileSync(path.join(folder, 'b.env'), 'B=2\n');
    writeFileSync(path.join(folder, 'mine.txt'), '');
    expect(statSync(path.join(folder, 'a.env')).mode & 0o777).toBe(0o600);
    local.release();
    expect(readdirSync(folder).sort()).toEqual(['.gitignore', 'b.env', 'mine.txt']);
  });

  it("are refused in a folder that belongs to another that still runs, and leave that one's alone", () => {
    const first = LocalFiles.claim(folder, home);
    const claim = readFileSync(path.join(folder, 'dev.pid'), 'utf8');
    expect(() => LocalFiles.claim(folder, home)).toThrow(
      expect.objectContaining({
        code: 'CONFIG_INVALID',
        message: `[CONFIG_INVALID] ${folder} belongs to another turnpike dev (process ${process.pid}). Stop that one, or give this one another --folder.`,
      }),
    );
    expect(readFileSync(path.join(folder, 'dev.pid'), 'utf8')).toBe(claim);
    first.release();
    LocalFiles.claim(folder, home).release();
    expect(existsSync(path.join(folder, 'dev.pid'))).toBe(false);
  });

  it.each([
    ['whose platform is gone: its number may be another process by now', () => `${process.pid}\n${home}/gone\n`],
    ['that is gone', () => `${2 ** 22 + 1}\n${home}\n`],
    ['that wrote nonsense', () => 'nonsense'],
  ])('take the place of one %s', (_what, text) => {
    LocalFiles.claim(folder, home).release();
    writeFileSync(path.join(folder, 'dev.pid'), text());
    LocalFiles.claim(folder, home);
    expect(readFileSync(path.join(folder, 'dev.pid'), 'utf8')).toBe(`${process.pid}\n${home}\n`);
  });
});
