import { type AclBinding, aclKey, type ClientQuota } from '@turnpike/core/spi';
import { clusterOf, environmentOf, type Manifest, type TopicResource, topicOf } from '../manifest/model.ts';

/** What a physical cluster should hold, of one manifest in one environment. */
export interface DesiredCluster {
  readonly name: string;
  readonly topics: readonly TopicResource[];
  readonly acls: readonly AclBinding[];
  /** Bytes per second, on each broker: Kafka's quotas know no fleet. */
  readonly quotas: readonly ClientQuota[];
}

/** Compiles a manifest to what enforces it at the brokers: the backstop of what grants enforce in the client. */
export function desiredClusters(manifest: Manifest, environment: string): readonly DesiredCluster[] {
  const used = manifest.services.flatMap((s) => [...s.produces, ...s.consumes].flatMap((e) => topicOf(manifest, e.topic)?.cluster ?? []));
  const names = [...new Set([...manifest.topics.map((t) => t.cluster), ...used])].sort();
  return names.map((name) => ({
    name,
    topics: manifest.topics
      .filter((t) => t.cluster === name)
      .map((t) => ({ ...t, replicationFactor: t.replicationFactor ?? clusterOf(manifest, name)?.replicationFactor })),
    acls: acls(manifest, environment, name),
    quotas: quotas(manifest, environment, name),
  }));
}

function acls(manifest: Manifest, environment: string, cluster: string): readonly AclBinding[] {
  const bindings = new Map<string, AclBinding>();
  const on = (topic: string) => topicOf(manifest, topic)?.cluster === cluster;
  const allow = (principal: string, resourceType: AclBinding['resourceType'], resourceName: string, operation: AclBinding['operation']) => {
    const binding: AclBinding = { resourceType, resourceName, pattern: 'literal', principal: `User:${principal}`, host: '*', operation, permission: 'allow' };
    bindings.set(aclKey(binding), binding);
  };
  for (const service of manifest.services)
    for (const principal of environmentOf(service, environment)?.principals ?? []) {
      // Read and write each imply describe.
      for (const { topic } of service.produces) if (on(topic)) allow(principal, 'topic', topic, 'write');
      for (const { topic, group } of service.consumes)
        if (on(topic)) {
          allow(principal, 'topic', topic, 'read');
          allow(principal, 'group', group, 'read');
        }
    }
  return [...bindings.values()];
}

function quotas(manifest: Manifest, environment: string, cluster: string): readonly ClientQuota[] {
  const on = (entry: { readonly topic: string }) => topicOf(manifest, entry.topic)?.cluster === cluster;
  return manifest.services.flatMap((service) => {
    const out = total(service.produces.filter(on).map((p) => p.quota?.bytesPerSecond));
    const into = total(service.consumes.filter(on).map((c) => c.quota?.bytesPerSecond));
    if (out === undefined && into === undefined) return [];
    const values = { ...(out === undefined ? {} : { producer_byte_rate: out }), ...(into === undefined ? {} : { consumer_byte_rate: into }) };
    return (environmentOf(service, environment)?.principals ?? []).map((user) => ({ user, values }));
  });
}

/** A principal has one rate for all its topics; where one of them has no limit, the principal has none. */
function total(rates: readonly (number | undefined)[]): number | undefined {
  return rates.length === 0 || rates.includes(undefined) ? undefined : rates.reduce<number>((sum, r) => sum + (r ?? 0), 0);
}
