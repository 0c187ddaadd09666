import { mkdtemp, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TurnpikeError } from '@turnpike/core';
import { ManualClock } from '@turnpike/core/memory';
import type { GrantClaims } from '@turnpike/core/spi';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { claimsOf, recordingLogger, startS } from './claims.fixture.ts';
import { fileGrant } from './file-grant.ts';
import { type GrantKey, generateSigningKey, signGrant } from './jws.ts';

let folder: string;
let path: string;
let key: { privateJwk: GrantKey; publicJwk: GrantKey };
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'turnpike-grant-'));
  path = join(folder, 'grant.jws');
  key = await generateSigningKey('EdDSA');
});
afterEach(() => rm(folder, { recursive: true }));

const write = async (claims: Partial<GrantClaims>, to = path) => writeFile(to, `${await signGrant(claimsOf(claims), { key: key.privateJwk })}\n`);

async function open(clock = new ManualClock()) {
  const logger = recordingLogger();
  const source = await fileGrant({ path, rootKeys: [key.publicJwk], audience: 'dev', principal: 'flight-ops-dev', clock, logger });
  const events = () => logger.lines.map(([event]) => event);
  /** One look at the file; reading and verifying take real time, of which the clock knows nothing. */
  const look = async () => {
    await vi.waitFor(() => expect(clock.pending).toBe(1));
    await clock.advance(2_000);
    await vi.waitFor(() => expect(clock.pending).toBe(1));
  };
  return { source, clock, logger, events, look };
}

describe('a grant in a file', () => {
  it('is verified when it is opened', async () => {
    await write({ rev: 7 });
    const { source, events } = await open();
    expect(source.claims()).toEqual(claimsOf());
    expect(events()).toEqual([]);
    await source[Symbol.asyncDispose]();
  });

  it('that is missing says what to set', async () => {
    await expect(open()).rejects.toMatchObject({ code: 'GRANT_MISSING', message: expect.stringContaining('TURNPIKE_GRANT') });
  });

  it.each([
    ['is empty', async () => '\n', / is empty\. Have the platform issue it anew/],
    ['is no JWS', async () => 'rubbish', / is no signed compact JWS/],
    ['was cut', async (whole: string) => whole.slice(0, -10), / is refused: its signature is wrong/],
    ['lost its signature', async (whole: string) => whole.slice(0, whole.lastIndexOf('.') + 1), / is no signed compact JWS/],
  ])('that %s is refused by its path', async (_what, spoil, message) => {
    await writeFile(path, await spoil(await signGrant(claimsOf(), { key: key.privateJwk })));
    const error = await open().catch((e: TurnpikeError) => e);
    expect(error).toMatchObject({ code: 'GRANT_INVALID', message: expect.stringContaining(`The grant ${path} `) });
    expect(error).toMatchObject({ message: expect.stringMatching(message) });
  });

  it('that is wrong keeps a service from starting', async () => {
    await write({ aud: 'prod' });
    await expect(open()).rejects.toMatchObject({ code: 'GRANT_INVALID' });
  });

  it('takes effect when it changes, once', async () => {
    await write({ rev: 7 });
    const { source, look, events } = await open();
    const heard: number[] = [];
    source.onChange((claims) => heard.push(claims.rev));
    await write({ rev: 8 });
    await look();
    await look();
    expect([source.claims().rev, heard, events()]).toEqual([8, [8], ['grant.changed']]);
    await source[Symbol.asyncDispose]();
  });

  it('follows a symlink that is swapped, as Kubernetes does', async () => {
    await write({ rev: 7 }, join(folder, 'v1'));
    await write({ rev: 8 }, join(folder, 'v2'));
    await symlink('v1', path);
    const { source, look } = await open();
    await symlink('v2', join(folder, 'next'));
    await rename(join(folder, 'next'), path);
    await look();
    expect(source.claims().rev).toBe(8);
    await source[Symbol.asyncDispose]();
  });

  it('never gives way to one that is invalid, older or gone; each trouble is logged once', async () => {
    await write({ rev: 7 });
    const { source, look, logger } = await open();
    const troubles: (() => Promise<void>)[] = [
      () => writeFile(path, 'rubbish'),
      () => write({ rev: 6 }),
      () => write({ rev: 9, sub: 'another' }),
      () => unlink(path),
    ];
    for (const make of troubles) {
      await make();
      await look();
      await look();
      expect(source.claims().rev).toBe(7);
    }
    expect(logger.lines.map(([event, facts]) => [event, facts?.code, facts?.keptRevision])).toEqual([
      ['grant.refused', 'GRANT_INVALID', 7],
      ['grant.refused', 'GRANT_INVALID', 7],
      ['grant.refused', 'PRINCIPAL_MISMATCH', 7],
      ['grant.refused', 'GRANT_MISSING', 7],
    ]);
    await write({ rev: 10 });
    await look();
    expect(source.claims().rev).toBe(10);
    await source[Symbol.asyncDispose]();
  });

  it('that isn’t valid yet is taken up when it is', async () => {
    await write({ rev: 7 });
    const { source, look } = await open();
    await write({ rev: 8, nbf: startS + 64 });
    await look();
    expect(source.claims().rev).toBe(7);
    await look();
    expect(source.claims().rev).toBe(8);
    await source[Symbol.asyncDispose]();
  });

  it('past its end holds with a warning', async () => {
    await write({ exp: startS - 50 });
    const { source, look, events, clock } = await open();
    expect(events()).toEqual([]);
    clock.jumpWall(60_000);
    await look();
    await look();
    expect([source.claims().rev, events()]).toEqual([7, ['grant.expired']]);
    await source[Symbol.asyncDispose]();
  });

  it('past its end refuses, where it says so', async () => {
    await write({ exp: startS + 10, onExpiry: 'refuse' });
    const { source, clock } = await open();
    clock.jumpWall(71_000);
    expect(() => source.claims()).toThrow(expect.objectContaining({ code: 'GRANT_EXPIRED', written: 'no' }));
    await source[Symbol.asyncDispose]();
  });

  it('leaves no timer behind when it is closed', async () => {
    await write({});
    const { source, clock } = await open();
    await source[Symbol.asyncDispose]();
    expect(clock.pending).toBe(0);
  });
});
