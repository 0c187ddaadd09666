import assert from 'node:assert/strict';
import { define } from './frame.ts';

export const records = [
  define({
    row: 'Produce and consume',
    name: 'brings what was sent to whoever reads, in order, at the offset that the producer was told',
    quick: true,
    run: async (bench) => {
      const topic = await bench.topic();
      const link = await bench.link();
      const producer = await link.producer();
      const sent = await producer.sendAll(Array.from({ length: 100 }, (_, i) => ({ topic, key: `k${i}`, value: `v${i}` })));
      const offsets = sent.map((s) => (s.status === 'fulfilled' ? s.value.offset : s.reason));
      assert.deepEqual(
        offsets,
        Array.from({ length: 100 }, (_, i) => BigInt(i)),
      );
      const consumer = await link.consumer();
      await consumer.join([topic], 1);
      await consumer.untilCount(100);
      assert.deepEqual(
        consumer.values,
        Array.from({ length: 100 }, (_, i) => `v${i}`),
      );
    },
  }),
];
