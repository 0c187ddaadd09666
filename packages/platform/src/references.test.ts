import { TurnpikeError } from '@turnpike/core';
import type { RegistryClient, SubjectVersion } from '@turnpike/schema';
import { describe, expect, it } from 'vitest';
import { referredTo, versionOf } from './references.ts';

const reference = (name: string) => ({ name, subject: name, version: 1 });

describe('what a schema refers to', () => {
  it('is of those before it what its text names, in full or short, and nothing else', () => {
    const before = [reference('acme.Money'), reference('acme.Tail'), reference('Unit')];
    expect(
      referredTo('{"type":"record","name":"R","fields":[{"name":"a","type":"acme.Money"},{"name":"b","type":"Unit"}]}', before).map((r) => r.name),
    ).toEqual(['acme.Money', 'Unit']);
    expect(referredTo('{"type":"array","items":"Tail"}', before).map((r) => r.name)).toEqual(['acme.Tail']);
    expect(referredTo('"string"', before)).toEqual([]);
  });

  it('is the version that was locked, though newer ones came and older ones were deleted', async () => {
    const ids = new Map([
      [1, 10],
      [3, 30],
      [4, 40],
    ]);
    const version = async (_subject: string, n: number): Promise<SubjectVersion> => {
      const id = ids.get(n);
      if (id === undefined) throw new TurnpikeError('SCHEMA_UNKNOWN', 'deleted');
      return { subject: 's', version: n, id, text: '', format: 'avro', references: [] };
    };
    const registry: Pick<RegistryClient, 'latest' | 'version'> = { latest: (s) => version(s, 4), version };
    expect(await Promise.all([40, 30, 10].map((id) => versionOf(registry, 's', id)))).toEqual([4, 3, 1]);
    await expect(versionOf(registry, 's', 20)).rejects.toMatchObject({ code: 'SCHEMA_UNKNOWN' });
  });
});
