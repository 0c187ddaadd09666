import assert, { AssertionError } from 'node:assert/strict';
import { type ErrorCode, isTurnpikeError, type TurnpikeError } from '@turnpike/core';
import { within } from './within.ts';

/** That it rejects with this code of ours; the error, for more to be asked of it. */
export async function assertRefusal(promise: Promise<unknown>, code: ErrorCode | readonly ErrorCode[], withinMs = 30_000): Promise<TurnpikeError> {
  const codes: readonly string[] = typeof code === 'string' ? [code] : code;
  const error = await within(
    withinMs,
    promise.then(
      () => undefined,
      (e: unknown) => e,
    ),
    `a refusal with ${codes.join(' or ')}`,
  );
  if (error === undefined) throw new AssertionError({ message: `it went through; ${codes.join(' or ')} was expected` });
  if (!isTurnpikeError(error))
    throw new AssertionError({ message: `${codes.join(' or ')} was expected, but an error came that is not ours: ${String(error)}` });
  assert.ok(codes.includes(error.code), `${codes.join(' or ')} was expected, but it is: ${error.message}`);
  return error;
}
