import assert from 'node:assert/strict';
import { type AclBinding, type AdminPort, aclKey } from '@turnpike/core/spi';
import { assertRefusal } from './assertions.ts';
import type { Bench } from './bench.ts';
import { eachSent, numbered } from './data.ts';
import { type CaseDefinition, define } from './frame.ts';

/** How long the brokers may take to know what the controller has done, in ms. */
const SETTLE_MS = 10_000;

export const admin: readonly CaseDefinition[] = [
  define({
    row: 'Administration',
    name: 'creates, describes, alters, grows and deletes topics, with an outcome for each',
    quick: true,
    capability: (c) => c.admin,
    run: async (bench) => {
      const port = await adminOf(bench);
      const [a, b] = [bench.unique('a'), bench.unique('b')];
      const spec = { partitions: 2, replicationFactor: 1, configs: { 'retention.ms': '3600000', 'cleanup.policy': 'compact' } };
      assert.deepEqual(await port.createTopics([{ ...spec, name: a }]), [{ name: a }]);
      const [again, created] = await port.createTopics([
        { ...spec, name: a },
        { ...spec, name: b },
      ]);
      assert.equal(again?.error?.facts.kafkaError, 'TOPIC_ALREADY_EXISTS');
      assert.deepEqual(created, { name: b }, 'one that fails leaves the others alone');
      const described = await bench.eventually(
        SETTLE_MS,
        () => port.describeTopics([a, b, bench.unique('nowhere')]),
        (t) => t.length === 2,
        'both are described',
      );
      assert.deepEqual(described.map((t) => [t.name, t.internal, t.partitions.map((p) => p.partition)]).sort(), [
        [a, false, [0, 1]],
        [b, false, [0, 1]],
      ]);
      const names = await port.listTopics();
      assert.ok(names.includes(a) && names.includes(b));
      const own = async (name: string) =>
        Object.fromEntries(((await port.topicConfigs([name])).get(name) ?? []).filter((e) => e.own).map((e) => [e.name, e.value]));
      assert.deepEqual(await own(a), spec.configs);
      await port.alterTopicConfigs([{ topic: a, set: { 'retention.ms': '7200000', 'cleanup.policy': null, 'max.message.bytes': '5000' } }]);
      await bench.eventually(
        SETTLE_MS,
        () => own(a),
        (c) => c['retention.ms'] === '7200000' && c['max.message.bytes'] === '5000' && !('cleanup.policy' in c),
        'the changes',
      );
      assert.deepEqual(await port.createPartitions([{ topic: a, partitions: 5 }]), [{ name: a }]);
      const [fewer] = await port.createPartitions([{ topic: a, partitions: 1 }]);
      assert.equal(fewer?.error?.facts.kafkaError, 'INVALID_PARTITIONS');
      await bench.eventually(
        SETTLE_MS,
        () => port.describeTopics([a]),
        ([t]) => t?.partitions.length === 5,
        'the partitions',
      );
      const [gone, missing] = await port.deleteTopics([a, bench.unique('nowhere')]);
      assert.deepEqual(gone, { name: a });
      assert.equal(missing?.error?.code, 'TOPIC_UNKNOWN');
      await bench.eventually(
        SETTLE_MS,
        () => port.listTopics(),
        (all) => !all.includes(a),
        'the topic is gone',
      );
      assert.ok((await port.listTopics()).includes(b));
    },
  }),

  define({
    row: 'Administration',
    name: 'creates, lists and deletes ACLs and quotas',
    capability: (c) => c.admin,
    run: async (bench) => {
      const port = await adminOf(bench);
      const principal = `User:${bench.unique('someone')}`;
      const binding = (init: Partial<AclBinding>): AclBinding => ({
        resourceType: 'topic',
        resourceName: bench.name,
        pattern: 'literal',
        principal,
        host: '*',
        operation: 'read',
        permission: 'allow',
        ...init,
      });
      const bindings = [
        binding({}),
        binding({ pattern: 'prefixed', operation: 'write' }),
        binding({ resourceType: 'group', permission: 'deny' }),
        binding({ resourceType: 'transactionalId', operation: 'describe' }),
        binding({ resourceType: 'cluster', resourceName: 'kafka-cluster', operation: 'idempotentWrite' }),
      ];
      const its = async () =>
        (await port.acls())
          .filter((a) => a.principal === principal)
          .map(aclKey)
          .sort();
      await port.createAcls(bindings);
      await port.createAcls(bindings.slice(0, 1));
      await bench.eventually(SETTLE_MS, its, (found) => found.length === 5, 'the ACLs');
      assert.deepEqual(await its(), bindings.map(aclKey).sort(), 'each once');
      await port.deleteAcls(bindings.slice(1));
      await bench.eventually(SETTLE_MS, its, (found) => found.length === 1, 'one ACL is left');
      assert.deepEqual(await its(), [aclKey(binding({}))]);
      await port.deleteAcls(bindings);
      await bench.eventually(SETTLE_MS, its, (found) => found.length === 0, 'none is left');

      const user = bench.unique('someone');
      const quotas = async () => (await port.quotas()).find((q) => q.user === user)?.values;
      await port.alterQuotas([{ user, values: { producer_byte_rate: 1_000, consumer_byte_rate: 2_000 } }]);
      await bench.eventually(SETTLE_MS, quotas, (v) => v?.producer_byte_rate === 1_000 && v.consumer_byte_rate === 2_000, 'the quotas');
      await port.alterQuotas([{ user, values: { producer_byte_rate: null, consumer_byte_rate: 3_000 } }]);
      await bench.eventually(SETTLE_MS, quotas, (v) => v?.producer_byte_rate === undefined && v?.consumer_byte_rate === 3_000, 'one removed, one changed');
      await port.alterQuotas([{ user, values: { consumer_byte_rate: null } }]);
      await bench.eventually(SETTLE_MS, quotas, (v) => v === undefined, 'no quota is left');
    },
  }),

  define({
    row: 'Administration',
    name: 'tells of the cluster, of groups and of offsets, and deletes a group',
    capability: (c) => c.admin,
    run: async (bench) => {
      const port = await adminOf(bench);
      const cluster = await port.cluster();
      assert.equal(cluster.id, (await bench.link()).link.clusterId);
      assert.ok(cluster.brokers.length > 0 && cluster.brokers.some((b) => b.id === cluster.controller));
      const topic = await bench.topic('t', { partitions: 2 });
      const link = await bench.link({ clientId: 'a-member' });
      const producer = await link.producer();
      const t0 = Date.now() - 10_000;
      eachSent(await producer.sendAll(numbered(10).map((n) => ({ topic, value: `${n}`, timestampMs: t0 + n * 1_000 }))));
      const tp = { topic, partition: 0 };
      const at = async (target: Parameters<AdminPort['offsets']>[1]) => (await port.offsets([tp], target))[0]?.offset;
      assert.deepEqual(
        [await at('beginning'), await at('end'), await at({ timestampMs: t0 + 4_500 }), await at({ timestampMs: t0 + 60_000 })],
        [0n, 10n, 5n, 10n],
      );
      const consumer = await link.consumer();
      await consumer.join([topic], 2);
      await consumer.untilCount(10);
      await consumer.commit();
      const { group } = consumer;
      assert.ok((await port.listGroups()).includes(group));
      const [described] = await bench.eventually(
        SETTLE_MS,
        () => port.describeGroups([group]),
        ([g]) => g?.state === 'Stable',
        'the group is stable',
      );
      assert.deepEqual(
        described?.members.map((m) => [m.clientId, m.partitions.map((p) => p.partition).sort()]),
        [['a-member', [0, 1]]],
      );
      assert.deepEqual(
        (await port.groupOffsets(group)).map((o) => [o.topic, o.partition, o.offset]),
        [[topic, 0, 10n]],
      );
      if (bench.under.platform) assert.equal((await port.deleteGroups([group]))[0]?.error?.facts.kafkaError, 'NON_EMPTY_GROUP');
      await consumer[Symbol.asyncDispose]();
      assert.deepEqual(await port.deleteGroups([group]), [{ name: group }]);
      await bench.eventually(
        SETTLE_MS,
        () => port.listGroups(),
        (all) => !all.includes(group),
        'the group is gone',
      );
    },
  }),

  define({
    row: 'Administration',
    name: 'refuses who has no right to it, topic by topic, and does nothing',
    needs: 'broker',
    capability: (c) => c.admin,
    run: async (bench) => {
      const topic = await bench.topic('t', { principals: [] });
      const { link } = await bench.link();
      assert.ok(link.admin);
      const mine = bench.unique('mine');
      const spec = { partitions: 1, replicationFactor: 1 };
      const [created] = await link.admin.createTopics([{ ...spec, name: mine }]);
      const [deleted] = await link.admin.deleteTopics([topic]);
      const [altered] = await link.admin.alterTopicConfigs([{ topic, set: { 'retention.ms': '1' } }]);
      assert.deepEqual(
        [created, deleted, altered].map((r) => [r?.name, r?.error?.code]),
        [mine, topic, topic].map((name) => [name, 'AUTHORIZATION_FAILED']),
      );
      await assertRefusal(link.admin.acls(), 'AUTHORIZATION_FAILED');
      const all = await bench.admin.listTopics();
      assert.deepEqual([all.includes(mine), all.includes(topic)], [false, true]);
    },
  }),
];

/** The link's own administration, as the super user. */
async function adminOf(bench: Bench): Promise<AdminPort> {
  const { link } = await bench.link({ principal: 'platform-admin' });
  assert.ok(link.admin, 'a transport whose capabilities say "admin" has it');
  return link.admin;
}
