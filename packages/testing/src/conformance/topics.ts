import assert from 'node:assert/strict';
import { isTurnpikeError } from '@turnpike/core';
import { assertRefusal } from './assertions.ts';
import { type CaseDefinition, define } from './frame.ts';
import type { Sent } from './producer-bench.ts';

/** How soon a cause must be known, in ms. */
const CAUSE_MS = 5_000;
/** The metadata's age, and what it takes to ask, on a machine under load, in ms. */
const NOTICED_MS = 15_000;

export const topics: readonly CaseDefinition[] = [
  define({
    row: 'Unknown topic',
    name: 'tells a producer within 5 s that a topic does not exist, and creates none',
    quick: true,
    run: async (bench) => {
      const nowhere = bench.unique('nowhere');
      await bench.allow('topic', nowhere, ['read', 'write', 'create']);
      const producer = await (await bench.link()).producer();
      const error = await assertRefusal(producer.port.warm([nowhere]), 'TOPIC_UNKNOWN', CAUSE_MS);
      assert.equal(error.facts.topic, nowhere);
      assert.equal(error.retriable, false);
      assert.equal(producer.port.partitions(nowhere), undefined);
      assert.ok(!(await bench.admin.listTopics()).includes(nowhere), 'a topic that is asked for is not made');
    },
  }),

  define({
    row: 'Unknown topic',
    name: 'tells a consumer within 5 s that a topic does not exist, and creates none',
    run: async (bench) => {
      const nowhere = bench.unique('nowhere');
      await bench.allow('topic', nowhere, ['read', 'write', 'create']);
      const consumer = await (await bench.link()).consumer();
      const error = await assertRefusal(consumer.subscribe([nowhere]), 'TOPIC_UNKNOWN', CAUSE_MS);
      assert.equal(error.facts.topic, nowhere);
      assert.ok(!(await bench.admin.listTopics()).includes(nowhere), 'a topic that is asked for is not made');
    },
  }),

  define({
    row: 'Topic deleted',
    name: 'ends the records of a topic that is deleted with the cause, within their deadline; another topic goes on',
    run: async (bench) => {
      const doomed = await bench.topic('doomed');
      const other = await bench.topic('other');
      const producer = await (await bench.link()).producer({ deliveryTimeoutMs: 4_000, requestTimeoutMs: 2_000 });
      await producer.send({ topic: doomed, value: 'before' });
      await producer.send({ topic: other, value: 'before' });
      await bench.admin.deleteTopics([doomed]);
      const refused = await bench.eventually(
        NOTICED_MS,
        async () => {
          const [lost, kept] = await Promise.allSettled([
            bench.within(8_000, producer.send({ topic: doomed, value: 'after' }), 'a record of the deleted topic settles'),
            bench.within(4_000, producer.send({ topic: other, value: 'after' }), 'a record of the other topic is acknowledged'),
          ]);
          assert.equal(kept.status, 'fulfilled', 'the other topic goes on');
          return lost;
        },
        (lost): boolean => lost.status === 'rejected',
        'a record of the deleted topic fails',
      );
      const reason: unknown = (refused as PromiseRejectedResult).reason;
      assert.ok(isTurnpikeError(reason), `it is an error of ours: ${String(reason)}`);
      assert.ok(['TOPIC_UNKNOWN', 'PARTITION_UNKNOWN', 'DELIVERY_TIMEOUT'].includes(reason.code), reason.message);
      assert.equal(reason.facts.topic, doomed);
      assert.notEqual(reason.written, undefined);
    },
  }),

  define({
    row: 'Topic deleted',
    name: "goes on with a consumer's other topics when one is deleted",
    run: async (bench) => {
      const doomed = await bench.topic('doomed');
      const other = await bench.topic('other');
      const link = await bench.link();
      const producer = await link.producer();
      await producer.send({ topic: doomed, value: 'doomed' });
      await producer.send({ topic: other, value: '0' });
      const consumer = await link.consumer();
      await consumer.join([doomed, other], 2);
      await consumer.untilCount(2);
      await bench.admin.deleteTopics([doomed]);
      // Nothing is committed here: a transport whose group rebalances eagerly may bring a record again, but none may be missing.
      const seen = () => [...new Set(consumer.records.filter((r) => r.topic === other).map((r) => r.value?.toString()))];
      for (let n = 1; n <= 5; n++) {
        await producer.send({ topic: other, value: `${n}` });
        await consumer.until(() => seen().includes(`${n}`), { what: `record ${n} of the other topic` });
        await consumer.pollFor(100);
      }
      assert.equal(consumer.failure, undefined);
      assert.deepEqual(seen(), ['0', '1', '2', '3', '4', '5']);
    },
  }),

  define({
    row: 'Partitions added',
    name: 'finds partitions that are added: the producer sends to them, the consumer reads them',
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 1 });
      const link = await bench.link();
      const producer = await link.producer();
      await producer.send({ topic, value: 'first' });
      const consumer = await link.consumer();
      await consumer.join([topic], 1);
      await bench.admin.createPartitions([{ topic, partitions: 3 }]);
      await bench.eventually(
        NOTICED_MS,
        () => producer.port.partitions(topic),
        (n) => n === 3,
        'the producer knows 3 partitions',
      );
      const sent: Sent[] = [];
      for (const partition of [0, 1, 2]) sent.push(await producer.send({ topic, partition, value: `in ${partition}` }));
      assert.deepEqual(
        sent.map((s) => s.partition),
        [0, 1, 2],
      );
      await consumer.until(() => consumer.assigned.size === 3, { withinMs: NOTICED_MS, what: 'the consumer has 3 partitions' });
      // Nothing is committed here: where the group rebalances eagerly, a record may come again.
      const seen = () => [...new Set(consumer.values)].sort();
      await consumer.until(() => seen().length === 4, { what: 'what is in them' });
      assert.deepEqual(seen(), ['first', 'in 0', 'in 1', 'in 2']);
    },
  }),
];
