import { TurnpikeError } from '@turnpike/core';
import { expect, it } from 'vitest';
import { exitCodeOf } from './exit.ts';

it('a command ends with 3 where something is stale, 4 where something is incompatible, else with 1', () => {
  const of = (code: TurnpikeError['code']) => exitCodeOf(new TurnpikeError(code, 'x'));
  expect([of('LOCK_STALE'), of('SCHEMA_INCOMPATIBLE'), of('MANIFEST_INVALID'), exitCodeOf(new TypeError('x')), exitCodeOf('x')]).toEqual([3, 4, 1, 1, 1]);
});
