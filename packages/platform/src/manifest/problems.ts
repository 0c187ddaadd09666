import { TurnpikeError } from '@turnpike/core';

/** Where something stands; line and column from 1. */
export interface Location {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

/** A location with what stands there: `spec.produces[0]`. */
export interface Place extends Location {
  readonly path: string;
}

/** Something wrong in a manifest, and what to do about it. */
export interface Problem extends Place {
  readonly message: string;
}

export const placeOf = ({ file, line, column }: Location): string => `${file}:${line}:${column}`;

/** All problems at once: a person who mends one shouldn't be told of the next only then. */
export function manifestError(problems: readonly Problem[]): TurnpikeError {
  const sorted = [...problems].sort((a, b) => (a.file < b.file ? -1 : a.file > b.file ? 1 : a.line - b.line || a.column - b.column));
  const lines = sorted.map((p) => `${placeOf(p)} ${p.path ? `${p.path} ` : ''}${p.message}`);
  const [first] = sorted;
  return new TurnpikeError('MANIFEST_INVALID', `${problems.length === 1 ? 'one problem' : `${problems.length} problems`}:\n${lines.join('\n')}`, {
    ...(first ? { path: placeOf(first) } : {}),
  });
}
