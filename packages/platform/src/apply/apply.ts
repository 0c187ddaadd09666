import { isTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type AdminPort, aclKey } from '@turnpike/core/spi';
import type { RegistryClient, RegistryReference } from '@turnpike/schema';
import type { Manifest, TopicResource } from '../manifest/model.ts';
import { placeOf } from '../manifest/problems.ts';
import { referredTo, versionOf } from '../references.ts';
import { type DesiredCluster, desiredClusters } from './desired.ts';
import { topicRefused } from './refused.ts';

export interface ApplyInit {
  readonly environment: string;
  /** Administration of a logical cluster, as an identity that may do it. */
  readonly admin: (cluster: string) => AdminPort;
  readonly registry: RegistryClient;
  /** Told of each change as it is made. */
  readonly onChange?: (line: string) => void;
}

/** Makes topics, ACLs, quotas and subjects as the manifest says, and nothing that is there already: a second run changes nothing. It removes nothing. Subjects come first, since a service may not
 *  start without its schema. Returns the lines of what was changed.
 *  @throws TurnpikeError AUTHORIZATION_FAILED, SCHEMA_INCOMPATIBLE, BROKER_REJECTED, ...; what was made until then stays, and another run goes on from there. */
export async function applyManifest(manifest: Manifest, init: ApplyInit): Promise<readonly string[]> {
  const changes: string[] = [];
  const changed = (line: string) => {
    changes.push(line);
    init.onChange?.(line);
  };
  await applySubjects(manifest, init.registry, changed);
  for (const desired of desiredClusters(manifest, init.environment)) {
    const admin = init.admin(desired.name);
    await applyTopics(desired, admin, changed);
    await applyAcls(desired, admin, changed);
    await applyQuotas(desired, admin, changed);
  }
  return changes;
}

type Changed = (line: string) => void;

async function applySubjects(manifest: Manifest, registry: RegistryClient, changed: Changed): Promise<void> {
  for (const { value } of manifest.topics) {
    const references: RegistryReference[] = [];
    for (const { text, ...names } of value.references) {
      const own = referredTo(text, references);
      const id = await register(registry, { subject: names.subject, text, references: own }, changed);
      references.push({ ...names, version: await versionOf(registry, names.subject, id) });
    }
    if ((await registry.compatibility(value.subject)) !== value.compatibility) {
      await registry.setCompatibility(value.subject, value.compatibility);
      changed(`subject ${value.subject}: compatibility ${value.compatibility}`);
    }
    await register(registry, { subject: value.subject, text: value.text, references }, changed);
  }
}

interface Registration {
  readonly subject: string;
  readonly text: string;
  readonly references: readonly RegistryReference[];
}

async function register(registry: RegistryClient, { subject, text, references }: Registration, changed: Changed): Promise<number> {
  try {
    return await registry.lookupId(subject, text, { references });
  } catch (error) {
    if (!isTurnpikeError(error) || error.code !== 'SCHEMA_UNKNOWN') throw error;
    const id = await registry.register(subject, text, { references });
    changed(`subject ${subject}: registered as id ${id}`);
    return id;
  }
}

async function applyTopics({ topics }: DesiredCluster, admin: AdminPort, changed: Changed): Promise<void> {
  if (topics.length === 0) return;
  const { brokers } = await admin.cluster();
  const existing = new Map((await existingTopics(admin, topics)).map((t) => [t.name, t]));
  const missing = topics.filter((t) => !existing.has(t.name));
  const present = topics.filter((t) => existing.has(t.name));
  for (const topic of present) refuseFewer(topic, existing.get(topic.name)?.partitions.length ?? 0);
  if (missing.length > 0) {
    const specs = missing.map((t) => ({
      name: t.name,
      partitions: t.partitions,
      replicationFactor: t.replicationFactor ?? Math.min(3, brokers.length),
      configs: configsOf(t),
    }));
    for (const { name, error } of await admin.createTopics(specs)) {
      const topic = missing.find((t) => t.name === name);
      if (error) throw topic ? topicRefused(error, topic) : error;
      changed(`topic ${name}: created with ${specs.find((s) => s.name === name)?.partitions} partitions`);
    }
  }
  for (const topic of present) {
    const has = existing.get(topic.name)?.partitions.length ?? 0;
    if (has < topic.partitions) {
      const [result] = await admin.createPartitions([{ topic: topic.name, partitions: topic.partitions }]);
      if (result?.error) throw topicRefused(result.error, topic);
      changed(`topic ${topic.name}: ${has} -> ${topic.partitions} partitions; keys go to other partitions from now on`);
    }
  }
  await applyConfigs(present, admin, changed);
}

/** Before anything of the cluster is changed. */
function refuseFewer({ name, partitions, where }: TopicResource, has: number): void {
  const place = placeOf(where('spec', 'partitions'));
  if (has > partitions)
    throw new TurnpikeError(
      'BROKER_REJECTED',
      `${name} has ${has} partitions and ${place} says ${partitions}; partitions can't be taken away. Correct the number there.`,
      { topic: name, path: place },
    );
}

async function existingTopics(
  admin: AdminPort,
  topics: readonly TopicResource[],
): Promise<readonly { readonly name: string; readonly partitions: readonly unknown[] }[]> {
  const names = new Set(await admin.listTopics());
  return admin.describeTopics(topics.filter((t) => names.has(t.name)).map((t) => t.name));
}

async function applyConfigs(topics: readonly TopicResource[], admin: AdminPort, changed: Changed): Promise<void> {
  const current = await admin.topicConfigs(topics.map((t) => t.name));
  for (const topic of topics) {
    const own = new Map((current.get(topic.name) ?? []).map((c) => [c.name, c]));
    const set = Object.fromEntries(Object.entries(configsOf(topic)).filter(([name, value]) => own.get(name)?.value !== value));
    if (Object.keys(set).length === 0) continue;
    const [result] = await admin.alterTopicConfigs([{ topic: topic.name, set }]);
    if (result?.error) throw topicRefused(result.error, topic, [...own.keys()]);
    changed(
      `topic ${topic.name}: ${Object.entries(set)
        .map(([k, v]) => `${k}=${v}`)
        .join(', ')}`,
    );
  }
}

function configsOf(topic: TopicResource): Record<string, string> {
  return { ...topic.configs, ...(topic.retentionMs === undefined ? {} : { 'retention.ms': String(topic.retentionMs) }) };
}

async function applyAcls({ acls }: DesiredCluster, admin: AdminPort, changed: Changed): Promise<void> {
  const existing = new Set((await admin.acls()).map(aclKey));
  const missing = acls.filter((a) => !existing.has(aclKey(a)));
  await admin.createAcls(missing);
  for (const { principal, operation, resourceType, resourceName } of missing) changed(`acl ${principal} may ${operation} ${resourceType} ${resourceName}`);
}

async function applyQuotas({ quotas }: DesiredCluster, admin: AdminPort, changed: Changed): Promise<void> {
  if (quotas.length === 0) return;
  const existing = new Map((await admin.quotas()).map((q) => [q.user, q.values]));
  const differing = quotas.filter(({ user, values }) =>
    Object.entries(values).some(([key, value]) => existing.get(user)?.[key as keyof typeof values] !== value),
  );
  await admin.alterQuotas(differing);
  for (const { user, values } of differing)
    changed(
      `quota ${user}: ${Object.entries(values)
        .map(([k, v]) => `${k}=${v}`)
        .join(', ')} on each broker`,
    );
}
