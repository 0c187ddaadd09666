import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { inspect } from 'node:util';
import type { TurnpikeError } from '@turnpike/core';
import type { ClusterDescriptor, Identity } from '@turnpike/core/spi';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { clusterFor, readDescriptors } from './clusters.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'turnpike-clusters-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const write = (text: string): string => {
  const file = path.join(folder, 'clusters.json');
  writeFileSync(file, text);
  return file;
};

const airside: ClusterDescriptor = {
  name: 'airside',
  epoch: 1,
  primary: { id: 'abc', bootstrap: { mtls: ['kafka-1:9093', 'kafka-2:9093'], oauth: ['kafka-1:9094'] } },
};

describe('cluster descriptors', () => {
  it('come as a list, bare or under "clusters", or as an option', async () => {
    expect(await readDescriptors(write(JSON.stringify([airside])))).toEqual([airside]);
    expect(await readDescriptors(write(JSON.stringify({ clusters: [airside] })))).toEqual([airside]);
    expect(await readDescriptors([airside])).toEqual([airside]);
  });

  it.each<[string, string, RegExp]>([
    ['no JSON', 'airside: kafka-1:9093', /clusters\.json can't be read as JSON: .*the platform injects it as TURNPIKE_CLUSTERS/],
    ['an object without a list', '{"airside":{}}', /clusters\.json holds no list of cluster descriptors/],
    ['null', 'null', /holds no list of cluster descriptors/],
    ['an entry that is null', '[null]', /clusters\.json: \[0\] is no cluster descriptor: it needs name, epoch, primary\.id and primary\.bootstrap/],
    ['addresses without a kind', JSON.stringify([airside, { ...airside, primary: { id: '', bootstrap: ['kafka:9092'] } }]), /\[1\] is no cluster descriptor/],
    ['an address without a port', JSON.stringify([{ ...airside, primary: { id: '', bootstrap: { mtls: ['kafka-1'] } } }]), /lists of host:port/],
    [
      'a listener of an unknown kind',
      JSON.stringify([{ ...airside, primary: { id: '', bootstrap: { plaintext: ['kafka-1:9092'] } } }]),
      /bootstrap\.mtls or \.oauth/,
    ],
    ['no epoch', JSON.stringify([{ ...airside, epoch: undefined }]), /it needs name, epoch/],
  ])('in a file with %s are refused by file and place', async (_what, text, message) => {
    const error = await readDescriptors(write(text)).catch((e: TurnpikeError) => e);
    expect(error).toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringMatching(message) });
  });

  it.each([
    ['pass-word', 'it is none, or was cut'],
    ['[{"name": pass-word}]', 'it is none, or was cut'],
    ['[{"name": "airside" pass-word}]', 'it goes wrong at line 1 column 21'],
  ])('in a file that is no JSON (%s) are refused without quoting it', async (text, why) => {
    const error = await readDescriptors(write(text)).catch((e: TurnpikeError) => e);
    expect(error).toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining(`clusters.json can't be read as JSON: ${why}; `) });
    expect(inspect(error, { depth: 9 })).not.toContain('pass-word');
  });

  it.each([
    ['https://user:pass-word@platform/clusters?sig=pass-word', 'the URL https://platform/clusters'],
    ['[{"name":"pass-word"}]', 'JSON'],
  ])('are given as a path, not as %s; the value is not quoted', async (value, kind) => {
    const error = await readDescriptors(value).catch((e: TurnpikeError) => e);
    expect(error).toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining(`TURNPIKE_CLUSTERS is ${kind}, not a path: `) });
    expect(inspect(error, { depth: 9 })).not.toContain('pass-word');
  });

  it('are read from no URL', async () => {
    await expect(readDescriptors('https://platform/clusters')).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringMatching(/TURNPIKE_CLUSTERS is the URL https:\/\/platform\/clusters, not a path: descriptors are read from a file/),
    });
  });
});

describe('the addresses of a cluster', () => {
  const identity = (kind: Identity['kind']) => ({ kind }) as Identity;
  const find = (name: string, kind: Identity['kind'], more: { readonly environment?: string; readonly descriptors?: readonly ClusterDescriptor[] } = {}) =>
    clusterFor(name, { environment: 'prod', descriptors: [airside], identity: identity(kind), ...more });
  const at = (...mtls: string[]): ClusterDescriptor => ({ ...airside, primary: { id: '', bootstrap: { mtls } } });

  it("are those of the identity's kind", () => {
    expect(find('airside', 'mtls')).toEqual({ name: 'airside', id: 'abc', bootstrap: ['kafka-1:9093', 'kafka-2:9093'] });
    expect(find('airside', 'oauth').bootstrap).toEqual(['kafka-1:9094']);
    expect(find('airside', 'none').bootstrap).toEqual([]);
  });

  it('go without an id where none is known: then none is checked', () => {
    expect(find('airside', 'mtls', { descriptors: [at('kafka-1:9093')] })).toEqual({ name: 'airside', bootstrap: ['kafka-1:9093'] });
  });

  it('are refused where there is no descriptor, or no listener of the kind', () => {
    expect(() => find('landside', 'mtls')).toThrow(/No descriptor for the cluster landside \(there are: airside\); the platform injects it/);
    expect(() => find('landside', 'mtls', { descriptors: [] })).toThrow(/\(there are: none\)/);
    for (const descriptors of [[at()], [at('kafka-1:9093')]])
      expect(() => find('airside', 'oauth', { descriptors })).toThrow(
        /The cluster airside has no oauth listener in its descriptor; use another kind of identity/,
      );
    expect(() => find('airside', 'mtls', { descriptors: [at()] })).toThrow(/no mtls listener/);
  });

  it('lie on this machine in the environment local, where anybody can sign a grant', () => {
    const local = (...addresses: string[]) => find('airside', 'mtls', { environment: 'local', descriptors: [at(...addresses)] });
    expect(local('127.0.0.1:9093', 'localhost:9093', '[::1]:9093').bootstrap).toHaveLength(3);
    for (const elsewhere of ['10.0.0.1:9093', '127.0.0.1.example:9093', 'localhost.example:9093'])
      expect(() => local('127.0.0.1:9093', elsewhere)).toThrow(/reaches only this machine, and .* \(cluster airside\) isn't on it\. Set TURNPIKE_ENV/);
  });
});
