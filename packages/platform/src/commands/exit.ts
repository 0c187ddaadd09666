import { isTurnpikeError } from '@turnpike/core';

/** The exit codes of every command. */
export const Exit = { clean: 0, error: 1, usage: 2, changes: 3, blocked: 4 } as const;

export function exitCodeOf(error: unknown): number {
  if (!isTurnpikeError(error)) return Exit.error;
  if (error.code === 'LOCK_STALE') return Exit.changes;
  if (error.code === 'SCHEMA_INCOMPATIBLE') return Exit.blocked;
  return Exit.error;
}
