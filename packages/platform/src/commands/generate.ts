import { TurnpikeError } from '@turnpike/core';
import { generatedFiles, writeFiles } from '../generate/generate.ts';
import { loadManifest } from '../manifest/load.ts';

export function generate({ file, check }: { readonly file: string; readonly check?: boolean }): void {
  const files = generatedFiles(loadManifest(file));
  const stale = files.filter((f) => !f.current);
  if (check && stale.length > 0)
    throw new TurnpikeError(
      'LOCK_STALE',
      `${stale.map((f) => f.file).join(', ')} ${stale.length === 1 ? 'is' : 'are'} not what ${file} makes. Run turnpike generate and commit the result.`,
    );
  if (!check) writeFiles(files);
  for (const f of files) console.log(`${f.current ? 'unchanged' : 'written  '}  ${f.file}`);
}
