import { TurnpikeError } from '@turnpike/core';

/** Variables as `node --env-file` and a shell's `.` both read them: quoted where a value is more than a plain word. */
export function envText(env: Readonly<Record<string, string>>): string {
  return Object.entries(env)
    .map(([name, value]) => `${name}=${quoted(name, value)}\n`)
    .join('');
}

function quoted(name: string, value: string): string {
  if (/^[\w./:@%+,=-]*$/.test(value)) return value;
  // Neither reader knows an escape between single quotes.
  if (/['\n\r]/.test(value))
    throw new TurnpikeError('CONFIG_INVALID', `${name} is ${JSON.stringify(value)}: a path may hold neither "'" nor a line break. Work in another folder.`);
  return `'${value}'`;
}
