import { loadManifest } from '../manifest/load.ts';

export function validate({ file }: { readonly file: string }): void {
  const { topics, services, clusters, imported } = loadManifest(file);
  const count = (n: number, what: string) => `${n} ${what}${n === 1 ? '' : 's'}`;
  console.log(
    `${file}: valid: ${count(services.length, 'service')}, ${count(topics.length, 'topic')}, ${count(clusters.length, 'cluster')}; ${count(imported.topics.length, 'topic')} imported`,
  );
}
