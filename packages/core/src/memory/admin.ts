import { asTurnpikeError, type TurnpikeError } from '../errors.ts';
import { type AdminPort, aclKey, type ItemResult } from '../spi/admin.ts';
import type { MemoryCluster } from './cluster.ts';

/** Administration of a memory cluster, with the outcomes that a broker would give. */
export function memoryAdmin(cluster: MemoryCluster): AdminPort {
  const each = <T>(items: readonly T[], name: (item: T) => string, act: (item: T) => void): ItemResult[] =>
    items.map((item) => {
      try {
        act(item);
        return { name: name(item) };
      } catch (error) {
        return { name: name(item), error: asTurnpikeError(error, 'BROKER_REJECTED', 'the request failed') as TurnpikeError };
      }
    });
  return {
    cluster: async () => ({ id: cluster.id, controller: 0, brokers: [{ id: 0, host: 'memory', port: 0 }] }),
    listTopics: async () => [...cluster.topics.keys()],
    describeTopics: async (names) =>
      names.flatMap((name) => {
        const topic = cluster.topics.get(name);
        return topic
          ? [{ name, internal: false, partitions: topic.partitions.map((_, partition) => ({ partition, leader: 0, replicas: [0], isr: [0] })) }]
          : [];
      }),
    createTopics: async (topics) =>
      each(
        topics,
        (t) => t.name,
        (t) => cluster.createTopic(t.name, t.partitions, t.configs),
      ),
    createPartitions: async (counts) =>
      each(
        counts,
        (c) => c.topic,
        (c) => cluster.addPartitions(c.topic, c.partitions),
      ),
    deleteTopics: async (names) =>
      each(
        names,
        (n) => n,
        (n) => cluster.deleteTopic(n),
      ),
    topicConfigs: async (names) =>
      new Map(
        names.flatMap((name) => {
          const topic = cluster.topics.get(name);
          return topic ? [[name, [...topic.configs].map(([key, value]) => ({ name: key, value, own: true }))] as const] : [];
        }),
      ),
    alterTopicConfigs: async (changes) =>
      each(
        changes,
        (c) => c.topic,
        (c) => {
          const { configs } = cluster.topic(c.topic);
          for (const [name, value] of Object.entries(c.set)) value === null ? configs.delete(name) : configs.set(name, value);
        },
      ),
    acls: async () => [...cluster.acls],
    createAcls: async (bindings) => {
      for (const binding of bindings) if (!cluster.acls.some((a) => aclKey(a) === aclKey(binding))) cluster.acls.push(binding);
    },
    deleteAcls: async (bindings) => {
      const gone = new Set(bindings.map(aclKey));
      const kept = cluster.acls.filter((a) => !gone.has(aclKey(a)));
      cluster.acls.splice(0, cluster.acls.length, ...kept);
      cluster.changed(); // Consumers that wait are refused.
    },
    quotas: async () => [...cluster.quotas].map(([user, values]) => ({ user, values })),
    alterQuotas: async (quotas) => {
      for (const { user, values } of quotas) {
        const kept = Object.entries({ ...cluster.quotas.get(user), ...values }).filter(([, value]) => value !== null);
        if (kept.length === 0) cluster.quotas.delete(user);
        else cluster.quotas.set(user, Object.fromEntries(kept));
      }
    },
    listGroups: async () => [...cluster.groups.keys()],
    describeGroups: async (names) =>
      names.flatMap((name) => {
        const group = cluster.groups.get(name);
        if (!group) return [];
        const members = [...group.members.values()].map((m) => ({ memberId: m.id, clientId: m.clientId, host: 'memory', partitions: [...m.owned.values()] }));
        return [{ group: name, state: members.length > 0 ? 'Stable' : 'Empty', members }];
      }),
    deleteGroups: async (names) =>
      each(
        names,
        (n) => n,
        (n) => void cluster.groups.delete(n),
      ),
    groupOffsets: async (name) => [...(cluster.groups.get(name)?.committed.values() ?? [])],
    offsets: async (partitions, target) =>
      partitions.map((tp) => {
        const log = cluster.topic(tp.topic).partitions[tp.partition] ?? [];
        if (typeof target === 'bigint') return { ...tp, offset: target };
        if (target === 'beginning') return { ...tp, offset: 0n };
        if (target === 'end') return { ...tp, offset: BigInt(log.length) };
        const at = log.findIndex((r) => r.timestampMs >= target.timestampMs);
        return { ...tp, offset: BigInt(at < 0 ? log.length : at) };
      }),
  };
}
