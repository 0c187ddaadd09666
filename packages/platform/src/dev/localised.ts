import { type Manifest, type TopicResource, topicNames } from '../manifest/model.ts';

const MIN_IN_SYNC = 'min.insync.replicas';

/** The manifest for a cluster of so many brokers, whoever owns the topics. */
export function localised(manifest: Manifest, brokers: number): Manifest {
  const used = new Set(manifest.services.flatMap(topicNames));
  const most = (n: number | undefined) => (n === undefined ? undefined : Math.min(n, brokers));
  const topics = [...manifest.topics, ...manifest.imported.topics.filter((t) => used.has(t.name))].map((topic): TopicResource => {
    const inSync = topic.configs[MIN_IN_SYNC];
    return {
      ...topic,
      replicationFactor: most(topic.replicationFactor),
      configs: { ...topic.configs, ...(inSync === undefined ? {} : { [MIN_IN_SYNC]: String(most(Number(inSync))) }) },
    };
  });
  const clusters = [...manifest.clusters, ...manifest.imported.clusters].map((c) => ({ ...c, replicationFactor: most(c.replicationFactor) }));
  return { ...manifest, topics, clusters, imported: { topics: manifest.imported.topics.filter((t) => !used.has(t.name)), clusters: [] } };
}
