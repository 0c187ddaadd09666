import { writeFileSync } from 'node:fs';
import { TurnpikeError } from '@turnpike/core';
import { clusterDescriptors, requireEnvironment } from '../clusters.ts';
import { loadManifest } from '../manifest/load.ts';

export function clusters({ file, env, out }: { readonly file: string; readonly env: string; readonly out?: string }): void {
  const manifest = loadManifest(file);
  requireEnvironment(manifest, env);
  const descriptors = clusterDescriptors(manifest, env);
  if (descriptors.length === 0)
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `${file} declares no cluster in ${env}; add a resource of kind: Cluster with spec.environments.${env}.bootstrap.`,
    );
  const text = `${JSON.stringify(descriptors, null, 2)}\n`;
  if (out === undefined) {
    process.stdout.write(text);
    return;
  }
  writeFileSync(out, text);
  console.log(`${out}: ${descriptors.map((d) => d.name).join(', ')}; mount it, and set TURNPIKE_CLUSTERS to its path`);
}
