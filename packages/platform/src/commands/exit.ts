import { accessSync, existsSync, constants as fileModes } from 'node:fs';
import path from 'node:path';
import { isTurnpikeError } from '@turnpike/core';

/** The exit codes of every command. */
export const Exit = { clean: 0, error: 1, usage: 2, changes: 3, blocked: 4 } as const;

export function exitCodeOf(error: unknown): number {
  if (!isTurnpikeError(error)) return Exit.error;
  if (error.code === 'LOCK_STALE') return Exit.changes;
  if (error.code === 'SCHEMA_INCOMPATIBLE') return Exit.blocked;
  return Exit.error;
}

/** An option that names what a command writes, as it was given. */
export interface OutputOption {
  /** "--out" */
  readonly name: string;
  readonly value: string;
}

/** What a command says of its failure: ours as it is; one of the file system with its path, in words, and what to do. */
export function messageOf(error: unknown, outputs: readonly OutputOption[] = []): string {
  if (isFileError(error)) return fileMessage(error, outputs);
  return error instanceof Error ? error.message : String(error);
}

interface FileError extends Error {
  readonly code: string;
  readonly syscall: string;
  readonly path: string;
}

const VERBS: Readonly<Record<string, string>> = {
  mkdir: 'made',
  mkdtemp: 'made',
  open: 'written',
  write: 'written',
  rm: 'removed',
  unlink: 'removed',
  chmod: 'changed',
  scandir: 'read',
  stat: 'read',
  lstat: 'read',
};

function isFileError(error: unknown): error is FileError {
  const { code, syscall, path: at } = (error ?? {}) as Partial<Record<keyof FileError, unknown>>;
  return error instanceof Error && !isTurnpikeError(error) && typeof code === 'string' && typeof at === 'string' && Object.hasOwn(VERBS, String(syscall));
}

const elsewhere = 'Choose another place';
const freeSome = 'Free some';
/** By code: why, and what to do. */
const REASONS: Readonly<Record<string, readonly [reason: string, remedy: string]>> = {
  EROFS: ['the file system is read-only', elsewhere],
  EACCES: ['permission is denied', `Make it writable, or ${elsewhere.toLowerCase()}`],
  EPERM: ['permission is denied', `Make it writable, or ${elsewhere.toLowerCase()}`],
  ENOENT: ['there is no such file or folder', 'Make it first'],
  EEXIST: ['there is a file by that name', elsewhere],
  ENOTDIR: ['a part of the path is a file, not a folder', elsewhere],
  EISDIR: ['it is a folder', 'Name a file'],
  ENAMETOOLONG: ['the name is too long', elsewhere],
  ENOSPC: ['no space is left', freeSome],
  EDQUOT: ['the disk quota is used up', freeSome],
};

function fileMessage(error: FileError, outputs: readonly OutputOption[]): string {
  const code = causeOf(error);
  const [reason, remedy] = REASONS[code] ?? [code, elsewhere];
  const within = (folder: string) =>
    `${path.resolve(error.path)}/`.startsWith(`${path.resolve(folder)}/`) || path.resolve(error.path) === path.dirname(path.resolve(folder));
  const option = outputs.find((o) => within(o.value));
  return `[CONFIG_INVALID] ${error.path} can't be ${VERBS[error.syscall]}: ${code === 'ENOENT' ? missing(error.path) : reason}. ${remedy}${option && remedy !== freeSome ? ` (${option.name})` : ''}.`;
}

/** Of a folder that can't be made in a read-only one, Node says ENOENT. */
function causeOf({ code, syscall, path: at }: FileError): string {
  if (code !== 'ENOENT' || syscall !== 'mkdir') return code;
  let above = path.resolve(at);
  while (!existsSync(above) && path.dirname(above) !== above) above = path.dirname(above);
  try {
    accessSync(above, fileModes.W_OK);
    return code;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? code;
  }
}

function missing(at: string): string {
  const folder = path.dirname(at);
  return existsSync(folder) ? 'there is no such file' : `there is no folder ${folder}`;
}
