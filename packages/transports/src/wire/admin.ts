import {
  AclOperations,
  AclPermissionTypes,
  alterClientQuotasV1,
  type ClientQuotaKey,
  ConfigResourceTypes,
  ConfigSources,
  createAclsV3,
  createPartitionsV3,
  createTopicsV7,
  deleteAclsV3,
  deleteGroupsV2,
  deleteTopicsV6,
  describeAclsV3,
  describeClientQuotasV1,
  describeConfigsV4,
  describeGroupsV5,
  IncrementalAlterConfigOperationTypes,
  incrementalAlterConfigsV1,
  type API as LibraryApi,
  listGroupsV4,
  ResourcePatternTypes,
  ResourceTypes,
} from '@platformatic/kafka';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import {
  type AclBinding,
  type AclOperation,
  type AclResourceType,
  type AdminPort,
  aclKey,
  type ClientQuota,
  type ConfigEntry,
  type GroupDescription,
  type ItemResult,
  type LinkContext,
  type QuotaKey,
  type TopicDescription,
} from '@turnpike/core/spi';
import { decodeAssignment } from './assignor.ts';
import type { Connections } from './connections.ts';
import { Coordinator } from './coordinator.ts';
import { brokerError, responseIn, type Where } from './errors.ts';
import type { Metadata, TopicMetadata } from './metadata.ts';
import { listOffsets } from './offsets.ts';
import { Visibility } from './visible.ts';

const TIMEOUT_MS = 15_000;
const QUOTA_KEYS: readonly QuotaKey[] = ['producer_byte_rate', 'consumer_byte_rate', 'request_percentage', 'controller_mutation_rate'];

const RESOURCES: Readonly<Record<AclResourceType, (typeof ResourceTypes)[keyof typeof ResourceTypes]>> = {
  topic: ResourceTypes.TOPIC,
  group: ResourceTypes.GROUP,
  cluster: ResourceTypes.CLUSTER,
  transactionalId: ResourceTypes.TRANSACTIONAL_ID,
};
const OPERATIONS: Readonly<Record<AclOperation, (typeof AclOperations)[keyof typeof AclOperations]>> = {
  all: AclOperations.ALL,
  read: AclOperations.READ,
  write: AclOperations.WRITE,
  create: AclOperations.CREATE,
  delete: AclOperations.DELETE,
  alter: AclOperations.ALTER,
  describe: AclOperations.DESCRIBE,
  clusterAction: AclOperations.CLUSTER_ACTION,
  describeConfigs: AclOperations.DESCRIBE_CONFIGS,
  alterConfigs: AclOperations.ALTER_CONFIGS,
  idempotentWrite: AclOperations.IDEMPOTENT_WRITE,
};
const nameOf = <K extends string>(table: Readonly<Record<K, number>>, value: number): K | undefined =>
  (Object.entries(table) as [K, number][]).find(([, v]) => v === value)?.[0];

/** A broker answers in an order of its own, those that it refuses last or first. */
const inOrder = (names: readonly string[], results: readonly ItemResult[]): readonly ItemResult[] =>
  names.flatMap((name) => results.find((r) => r.name === name) ?? []);

/** Administration over one connection: any broker forwards to the controller (KIP-590); groups are asked of their coordinators, offsets of the leaders. What is made or removed here is so at
 *  every broker when the call resolves. */
export function wireAdmin(context: LinkContext, metadata: Metadata, connections: Connections): AdminPort {
  const { principal } = context.identity;
  const visible = new Visibility(context, metadata, connections);

  const call = async <Args extends unknown[], R>(api: LibraryApi<Args, R>, args: Args, doing: string): Promise<R> => {
    const where: Where = { doing, principal };
    let last: TurnpikeError | undefined;
    for (const address of metadata.addresses()) {
      try {
        return await connections.call(address, 'admin', api, args, where);
      } catch (error) {
        const response = responseIn<R>(error);
        if (response !== undefined && itemised(response)) return response;
        last = asTurnpikeError(error, 'INTERNAL', doing);
        if (!last.retriable || response !== undefined) throw last;
      }
    }
    throw last ?? new TurnpikeError('BROKER_UNAVAILABLE', `No broker is known to ${doing}.`, { retriable: true });
  };
  const item = (name: string, errorCode: number, doing: string, message?: string | null): ItemResult =>
    errorCode === 0 ? { name } : { name, error: brokerError(errorCode, { doing, principal, topic: name }, message) };
  const must = (errorCode: number, doing: string, message?: string | null): void => {
    if (errorCode !== 0) throw brokerError(errorCode, { doing, principal }, message);
  };

  return {
    async cluster() {
      await metadata.refresh();
      return { id: metadata.clusterId ?? '', controller: metadata.controller, brokers: metadata.brokers() };
    },
    listTopics: () => metadata.list(),
    async describeTopics(names) {
      if (names.length === 0) return [];
      const { topics, errors } = await metadata.describe(names);
      const refused = [...errors.values()].find((e) => e.code !== 'TOPIC_UNKNOWN');
      if (refused) throw refused;
      return topics.map(describe);
    },
    async createTopics(topics) {
      const request = topics.map((t) => ({
        name: t.name,
        numPartitions: t.partitions,
        replicationFactor: t.replicationFactor,
        assignments: [],
        configs: Object.entries(t.configs ?? {}).map(([name, value]) => ({ name, value })),
      }));
      const response = await call(createTopicsV7.api, [request, TIMEOUT_MS, false], 'create topics');
      await visible.topics(new Map(response.topics.flatMap((t) => (t.errorCode === 0 ? [[t.name, t.numPartitions] as const] : []))));
      return inOrder(
        topics.map((t) => t.name),
        response.topics.map((t) => item(t.name, t.errorCode, `create ${t.name}`, t.errorMessage)),
      );
    },
    async createPartitions(counts) {
      const request = counts.map(({ topic, partitions }) => ({ name: topic, count: partitions, assignments: null }));
      const response = await call(createPartitionsV3.api, [request, TIMEOUT_MS, false], 'add partitions');
      const made = counts.filter(({ topic }) => response.results.some((r) => r.name === topic && r.errorCode === 0));
      await visible.topics(new Map(made.map(({ topic, partitions }) => [topic, partitions])));
      return inOrder(
        counts.map((c) => c.topic),
        response.results.map((r) => item(r.name, r.errorCode, `add partitions to ${r.name}`, r.errorMessage)),
      );
    },
    async deleteTopics(names) {
      const response = await call(deleteTopicsV6.api, [names.map((name) => ({ name, topicId: null })), TIMEOUT_MS], 'delete topics');
      await visible.noTopics(response.responses.flatMap((r) => (r.errorCode === 0 && r.name ? [r.name] : [])));
      return inOrder(
        names,
        response.responses.map((r) => item(r.name ?? '', r.errorCode, `delete ${r.name}`, r.errorMessage)),
      );
    },
    async topicConfigs(names) {
      if (names.length === 0) return new Map();
      const resources = names.map((resourceName) => ({ resourceType: ConfigResourceTypes.TOPIC, resourceName, configurationKeys: null }));
      const { results } = await call(describeConfigsV4.api, [resources, false, false], 'read topic configurations');
      const configs = new Map<string, readonly ConfigEntry[]>();
      for (const r of results) {
        must(r.errorCode, `read the configuration of ${r.resourceName}`, r.errorMessage);
        configs.set(
          r.resourceName,
          r.configs.map((c) => ({ name: c.name, value: c.value ?? null, own: c.configSource === ConfigSources.DYNAMIC_TOPIC_CONFIG })),
        );
      }
      return configs;
    },
    async alterTopicConfigs(changes) {
      const resources = changes.map(({ topic, set }) => ({
        resourceType: ConfigResourceTypes.TOPIC,
        resourceName: topic,
        configs: Object.entries(set).map(([name, value]) =>
          value === null
            ? { name, configOperation: IncrementalAlterConfigOperationTypes.DELETE }
            : { name, configOperation: IncrementalAlterConfigOperationTypes.SET, value },
        ),
      }));
      const { responses } = await call(incrementalAlterConfigsV1.api, [resources, false], 'alter topic configurations');
      return inOrder(
        changes.map((c) => c.topic),
        responses.map((r) => item(r.resourceName, r.errorCode, `alter the configuration of ${r.resourceName}`, r.errorMessage)),
      );
    },
    async acls() {
      const any = { resourceType: ResourceTypes.ANY, resourceName: null, resourcePatternType: ResourcePatternTypes.ANY };
      const filter = { ...any, principal: null, host: null, operation: AclOperations.ANY, permissionType: AclPermissionTypes.ANY };
      const { resources } = await call(describeAclsV3.api, [filter as Parameters<typeof describeAclsV3.createRequest>[0]], 'read the ACLs');
      return bindingsOf(resources);
    },
    async createAcls(bindings) {
      if (bindings.length === 0) return;
      const { results } = await call(createAclsV3.api, [bindings.map(aclOf)], 'create ACLs');
      for (const r of results) must(r.errorCode, 'create an ACL', r.errorMessage);
      await visible.acls(principalsOf(bindings), (acls) => bindings.every(isAmong(acls)));
    },
    async deleteAcls(bindings) {
      if (bindings.length === 0) return;
      const { filterResults } = await call(deleteAclsV3.api, [bindings.map(aclOf)], 'delete ACLs');
      for (const r of filterResults) must(r.errorCode, 'delete an ACL', r.errorMessage);
      await visible.acls(principalsOf(bindings), (acls) => !bindings.some(isAmong(acls)));
    },
    async quotas() {
      const component = { entityType: 'user', matchType: 2, match: null };
      const request = [component] as unknown as Parameters<typeof describeClientQuotasV1.createRequest>[0];
      const { entries } = await call(describeClientQuotasV1.api, [request, true], 'read the client quotas');
      return (entries ?? []).flatMap((e): ClientQuota[] => {
        const user = e.entity.find((x) => x.entityType === 'user')?.entityName;
        const values = e.values.filter((v) => QUOTA_KEYS.includes(v.key as QuotaKey)).map((v) => [v.key, v.value] as const);
        return user ? [{ user, values: Object.fromEntries(values) }] : [];
      });
    },
    async alterQuotas(quotas) {
      if (quotas.length === 0) return;
      const request = quotas.map(({ user, values }) => ({
        entities: [{ entityType: 'user' as const, entityName: user }],
        ops: Object.entries(values).map(([key, value]) =>
          value === null ? { key: key as ClientQuotaKey, remove: true as const } : { key: key as ClientQuotaKey, value, remove: false as const },
        ),
      }));
      const { entries } = await call(alterClientQuotasV1.api, [request, false], 'alter client quotas');
      for (const e of entries) must(e.errorCode, 'alter a client quota', e.errorMessage);
    },
    async listGroups() {
      await metadata.refresh();
      const lists = await Promise.all(
        metadata.brokers().map((broker) => connections.call(broker, 'admin', listGroupsV4.api, [[], []], { doing: 'list groups', principal })),
      );
      return [...new Set(lists.flatMap((l) => l.groups.map((g) => g.groupId)))].sort();
    },
    async describeGroups(groups) {
      return Promise.all(
        groups.map(async (group) => {
          const coordinator = new Coordinator(group, context, metadata, connections);
          const args: Parameters<typeof describeGroupsV5.createRequest> = [[group], false];
          const response = await coordinator.persist('offsets', describeGroupsV5.api, () => args, { doing: `describe the group ${group}`, forMs: TIMEOUT_MS });
          return groupOf(group, response.groups[0]);
        }),
      );
    },
    async deleteGroups(groups) {
      return Promise.all(
        groups.map(async (group): Promise<ItemResult> => {
          const coordinator = new Coordinator(group, context, metadata, connections);
          try {
            await coordinator.persist('offsets', deleteGroupsV2.api, (): [string[]] => [[group]], { doing: `delete the group ${group}`, forMs: TIMEOUT_MS });
            return { name: group };
          } catch (error) {
            return { name: group, error: asTurnpikeError(error, 'INTERNAL', `the group ${group} could not be deleted.`) };
          }
        }),
      );
    },
    groupOffsets: (group) => new Coordinator(group, context, metadata, connections).committed(null, TIMEOUT_MS),
    async offsets(partitions, target) {
      await metadata.require([...new Set(partitions.map((tp) => tp.topic))]);
      return listOffsets({ context, metadata, connections, readCommitted: false }, partitions, target, TIMEOUT_MS);
    },
  };
}

/** An answer with an outcome for each item is an answer, though some are errors; the library throws it. */
const itemised = (response: unknown): boolean =>
  ['topics', 'results', 'responses', 'filterResults', 'entries'].some((k) => Array.isArray((response as Record<string, unknown>)[k]));

function describe({ name, id, internal, partitions }: TopicMetadata): TopicDescription {
  return { name, id, internal, partitions: partitions.map((p) => ({ partition: p.partition, leader: p.leader, replicas: p.replicas, isr: p.isr })) };
}

type LibraryAcl = Parameters<typeof createAclsV3.createRequest>[0][number];

function aclOf(binding: AclBinding): LibraryAcl {
  return {
    resourceType: RESOURCES[binding.resourceType],
    resourceName: binding.resourceName,
    resourcePatternType: binding.pattern === 'prefixed' ? ResourcePatternTypes.PREFIXED : ResourcePatternTypes.LITERAL,
    principal: binding.principal,
    host: binding.host,
    operation: OPERATIONS[binding.operation],
    permissionType: binding.permission === 'deny' ? AclPermissionTypes.DENY : AclPermissionTypes.ALLOW,
  } as LibraryAcl;
}

const principalsOf = (bindings: readonly AclBinding[]): string[] => [...new Set(bindings.map((b) => b.principal))];

/** Whether a binding is one of those that a broker has shown. */
function isAmong(acls: readonly Described[]): (binding: AclBinding) => boolean {
  const shown = new Set(bindingsOf(acls).map(aclKey));
  return (binding) => shown.has(aclKey(binding));
}

const bindingsOf = (resources: readonly Described[]): AclBinding[] => resources.flatMap((r) => r.acls.flatMap((acl) => bindingOf(r, acl) ?? []));

type Described = Awaited<ReturnType<typeof describeAclsV3.api.async>>['resources'][number];

/** undefined = of a kind that isn't ours to manage (a delegation token, a user). */
function bindingOf(resource: Described, acl: Described['acls'][number]): AclBinding | undefined {
  const resourceType = nameOf(RESOURCES, resource.resourceType);
  const operation = nameOf(OPERATIONS, acl.operation);
  if (!resourceType || !operation) return undefined;
  return {
    resourceType,
    resourceName: resource.resourceName ?? '',
    pattern: resource.resourcePatternType === ResourcePatternTypes.PREFIXED ? 'prefixed' : 'literal',
    principal: acl.principal ?? '',
    host: acl.host ?? '*',
    operation,
    permission: acl.permissionType === AclPermissionTypes.DENY ? 'deny' : 'allow',
  };
}

function groupOf(group: string, described: Awaited<ReturnType<typeof describeGroupsV5.api.async>>['groups'][number] | undefined): GroupDescription {
  return {
    group,
    state: described?.groupState ?? 'Dead',
    members: (described?.members ?? []).map((m) => ({
      memberId: m.memberId,
      clientId: m.clientId,
      host: m.clientHost,
      partitions: decodeAssignment(m.memberAssignment),
    })),
  };
}
