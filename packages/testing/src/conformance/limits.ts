import assert from 'node:assert/strict';
import { openGate } from '@turnpike/core/spi';
import { assertRefusal } from './assertions.ts';
import { eachSent, numbered } from './data.ts';
import { type CaseDefinition, define } from './frame.ts';
import type { Sent } from './producer-bench.ts';
import { aTurn } from './within.ts';

export const limits: readonly CaseDefinition[] = [
  define({
    row: 'Batches over limits',
    name: 'fails a record that is too large for its topic, alone, while its neighbours go, in their order',
    quick: true,
    run: async (bench) => {
      const topic = await bench.topic('small', { configs: { 'max.message.bytes': '20000' } });
      const link = await bench.link();
      const producer = await link.producer();
      // 60 kB in one flush: the broker takes them only in parts.
      const values = numbered(30).map((n) => `${n} `.padEnd(2_000, 'x'));
      const all = [...values.slice(0, 15), 'y'.repeat(40_000), ...values.slice(15)];
      const outcomes = await producer.sendAll(all.map((value) => ({ topic, value })));
      const [large] = outcomes.splice(15, 1);
      eachSent(outcomes);
      const error = await assertRefusal(large?.status === 'rejected' ? Promise.reject(large.reason) : Promise.resolve(), 'RECORD_TOO_LARGE');
      assert.equal(error.written, 'no');
      assert.equal(error.facts.topic, topic);
      const reader = await bench.readBack(topic, 30);
      assert.deepEqual(reader.values, values);
      // And it goes on.
      await producer.send({ topic, value: 'after' });
      assert.equal(producer.settledTwice, 0);
    },
  }),

  define({
    row: 'Batches over limits',
    name: 'waits for room when its memory is full, and loses nothing',
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 2 });
      const link = await bench.link();
      const producer = await link.producer({ maxBatchBytes: 50_000, maxBufferBytes: 100_000 });
      await producer.port.warm([topic]);
      let refused = 0;
      const sent: Promise<Sent>[] = [];
      for (const n of numbered(400)) {
        const record = { topic, partition: n % 2, value: `${n} `.padEnd(5_000, 'x') };
        let appended = producer.append(record);
        while (!appended) {
          refused++;
          await bench.within(10_000, producer.port.drained(), 'room');
          appended = producer.append(record);
        }
        sent.push(appended);
      }
      eachSent(await Promise.allSettled(sent));
      assert.ok(refused > 0, '2 MB do not fit into 100 kB');
      const reader = await bench.readBack(topic, 400);
      for (const partition of [0, 1])
        assert.deepEqual(
          reader.records.filter((r) => r.partition === partition).map((r) => Number.parseInt(`${r.value}`, 10)),
          numbered(400).filter((n) => n % 2 === partition),
        );
    },
  }),

  define({
    row: 'Many sends, few requests',
    name: 'makes few requests of many sends in one turn',
    quick: true,
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 3 });
      const link = await bench.link();
      const producer = await link.producer();
      await producer.send({ topic, value: 'warm' });
      const before = link.events.flushes;
      eachSent(await producer.sendAll(numbered(3_000).map((n) => ({ topic, partition: n % 3, value: `${n}` }))));
      const flushes = link.events.flushes - before;
      assert.ok(flushes <= 10, `3,000 sends of one turn took ${flushes} flushes`);
      const written = link.events.writes.filter((w) => w.topic === topic);
      assert.ok(written.reduce((sum, w) => sum + w.encodedBytes, 0) >= 4_000, 'what is written is told');
    },
  }),

  define({
    row: 'Many sends, few requests',
    name: 'gathers sends, each of its own turn, while a request is under way',
    needs: 'broker',
    run: async (bench) => {
      const topic = await bench.topic('t', { partitions: 3 });
      const link = await bench.link();
      const producer = await link.producer();
      await producer.send({ topic, value: 'warm' });
      const before = link.events.flushes;
      const sent: Promise<Sent>[] = [];
      for (const n of numbered(1_000)) {
        sent.push(producer.send({ topic, partition: n % 3, value: `${n}` }));
        await aTurn();
      }
      eachSent(await Promise.allSettled(sent));
      const flushes = link.events.flushes - before;
      assert.ok(flushes <= 500, `1,000 sends, each of its own turn, took ${flushes} flushes`);
    },
  }),

  define({
    row: 'Flush',
    name: 'resolves a flush when all that was appended before has settled; an aborted one leaves the records under way',
    run: async (bench) => {
      const topic = await bench.topic();
      const producer = await (await bench.link()).producer();
      await producer.port.warm([topic]);
      let settled = 0;
      for (const n of numbered(1_000)) void producer.append({ topic, value: `${n}` })?.then(() => settled++);
      await bench.within(10_000, producer.port.flush(), 'flush');
      await Promise.resolve();
      assert.equal(settled, 1_000);
      const last = producer.append({ topic, value: 'last' });
      await assertRefusal(producer.port.flush(AbortSignal.abort()), 'ABORTED');
      assert.equal((await last)?.offset, 1_000n);
      await bench.within(1_000, producer.port.flush(), 'a flush of nothing');
    },
  }),

  define({
    row: 'Flush',
    name: 'sends everything that was appended before it is closed',
    run: async (bench) => {
      const topic = await bench.topic();
      const producer = await (await bench.link()).producer();
      await producer.port.warm([topic]);
      const sent = numbered(500).map((n) => producer.append({ topic, value: `${n}` }));
      await bench.within(15_000, producer[Symbol.asyncDispose](), 'close');
      eachSent(await Promise.allSettled(sent.map((s) => s ?? Promise.reject(new Error('there is room for all')))));
      assert.throws(() => producer.append({ topic, value: 'late' }), { code: 'CLOSED' });
    },
  }),

  define({
    row: 'Producer quota',
    name: 'asks the quota for every record and byte before it goes, holds what must wait, and gives back what was not written',
    quick: true,
    run: async (bench) => {
      const topic = await bench.topic('small', { configs: { 'max.message.bytes': '20000' } });
      const other = await bench.topic('other');
      let open = false;
      const charged = { records: 0, bytes: 0, most: 0 };
      const link = await bench.link({
        gate: {
          ...openGate,
          burst: () => ({ records: 10, bytes: 50_000 }),
          admit: (of, count, bytes) => {
            if (of !== topic) return 0;
            if (!open) return 20;
            charged.records += count;
            charged.bytes += bytes;
            charged.most = Math.max(charged.most, count);
            return 0;
          },
          refund: (of, count, bytes) => {
            if (of !== topic) return;
            charged.records -= count;
            charged.bytes -= bytes;
          },
        },
      });
      const producer = await link.producer();
      await producer.port.warm([topic, other]);
      let acknowledged = 0;
      const sent = numbered(40).map((n) => producer.append({ topic, value: `${n} `.padEnd(100, 'x') }));
      for (const s of sent) void s?.then(() => acknowledged++);
      await bench.within(5_000, producer.send({ topic: other, value: 'v' }), 'another topic goes on meanwhile');
      await new Promise((resolve) => setTimeout(resolve, 200));
      assert.equal(acknowledged, 0, 'what has no permit is not sent');
      open = true;
      eachSent(await Promise.allSettled(sent.map((s) => s ?? Promise.reject(new Error('there is room for all')))));
      assert.equal(charged.records, 40);
      assert.ok(charged.bytes >= 4_000, `${charged.bytes} bytes were asked for`);
      assert.ok(charged.most <= 10, 'never more at once than the burst');
      const after = charged.bytes;
      await assertRefusal(producer.send({ topic, value: 'y'.repeat(40_000) }), 'RECORD_TOO_LARGE');
      assert.deepEqual([charged.records, charged.bytes], [40, after], 'what was certainly not written is given back');
    },
  }),

  define({
    row: 'Producer quota',
    name: 'is asked for the bytes that go over the network where it says so, else for those before compression',
    quick: true,
    run: async (bench) => {
      const topic = await bench.topic();
      const { quotaBasis, compression } = bench.capabilities;
      const codec = compression.find((c) => c !== 'none');
      if (codec === undefined) return;
      let asked = 0;
      const admit = (_topic: string, _records: number, bytes: number) => {
        asked += bytes;
        return 0;
      };
      const link = await bench.link({ gate: { ...openGate, admit } });
      const producer = await link.producer({ compression: codec });
      await producer.port.warm([topic]);
      await producer.send({ topic, value: 'z'.repeat(100_000) });
      if (quotaBasis === 'wire') assert.ok(asked > 0 && asked < 10_000, `100,000 bytes that compress well were asked for as ${asked}`);
      else assert.ok(asked >= 100_000, `100,000 bytes were asked for as ${asked}`);
    },
  }),

  define({
    row: 'Cancel',
    name: 'takes back what has not been handed over, and nothing of it is written',
    run: async (bench) => {
      const topic = await bench.topic();
      let open = false;
      const link = await bench.link({ gate: { ...openGate, admit: () => (open ? 0 : 20) } });
      const producer = await link.producer();
      await producer.port.warm([topic]);
      const kept = producer.append({ topic, value: 'kept' });
      const before = producer.pendings.length;
      for (const n of numbered(10)) producer.append({ topic, value: `${n}` });
      const asked = new Set(producer.pendings.slice(before));
      assert.deepEqual(producer.port.cancel(asked), asked);
      open = true;
      assert.equal((await kept)?.offset, 0n);
      assert.equal((await producer.send({ topic, value: 'after' })).offset, 1n);
    },
  }),

  define({
    row: 'Throttle time',
    name: "tells of a broker's own quota, waits, and loses nothing",
    needs: 'broker',
    capability: (c) => c.throttleTime,
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await bench.link();
      const producer = await link.producer();
      await producer.send({ topic, value: 'warm' });
      bench.defer(() => bench.admin.alterQuotas([{ user: bench.principal, values: { producer_byte_rate: null } }]));
      await bench.admin.alterQuotas([{ user: bench.principal, values: { producer_byte_rate: 60_000 } }]);
      let sent = 1;
      // A broker counts over several windows of a second: a first burst escapes it.
      while (link.events.throttles.length === 0 && sent < 60) {
        await bench.within(20_000, producer.send({ topic, value: 'x'.repeat(30_000) }), `record ${sent}`);
        sent++;
      }
      const [throttle] = link.events.throttles;
      assert.ok(throttle && throttle.ms > 0 && throttle.broker >= 0, `${sent} records went without a throttle time`);
      await bench.within(30_000, producer.send({ topic, value: 'last' }), 'the record after it');
      const [end] = await bench.admin.offsets([{ topic, partition: 0 }], 'end');
      assert.equal(end?.offset, BigInt(sent + 1));
    },
  }),
];
