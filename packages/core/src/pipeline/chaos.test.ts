import { describe, expect, it } from 'vitest';
import { TurnpikeError } from '../errors.ts';
import { MemoryCluster } from '../memory/cluster.ts';
import { ManualClock } from '../memory/manual-clock.ts';
import { memoryTransport } from '../memory/transport.ts';
import type { Serde } from '../spi/codec.ts';
import type { Identity } from '../spi/identity.ts';
import { silentLogger } from '../spi/logger.ts';
import { type DrainGate, openGate } from '../spi/policy.ts';
import { noTelemetry } from '../spi/telemetry.ts';
import { compileProducerOptions } from './options.ts';
import { TopicProducer } from './producer.ts';
import { Scratch } from './scratch.ts';
import { type RecordMetadata, settleRecords } from './sent-record.ts';
import { StickyPartition } from './sticky.ts';

const text: Serde<unknown> = {
  encodeInto(value, dst, pos) {
    const length = Buffer.byteLength(String(value));
    if (pos + length > dst.length) return -1;
    return pos + dst.write(String(value), pos);
  },
  ready: async () => {},
  prepare: () => undefined,
  decode: (src) => src.toString(),
};

const random = (seed: number) => () => {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
  return seed / 2 ** 32;
};

/** A broker that fails at every turn, a quota that holds, memory that is full, signals that abort: and a caller who is told the truth. */
describe.each(Array.from({ length: 25 }, (_, seed) => seed + 1))('a producer in a storm (seed %i)', (seed) => {
  it('acknowledges what is written, once and in order; what it refuses as "no" is not there; close() leaves nothing open', async () => {
    const next = random(seed);
    const clock = new ManualClock();
    const cluster = new MemoryCluster();
    cluster.createTopic('t', 3, { 'max.message.bytes': '3000' });
    let calm = false;
    cluster.fault = async ({ operation }) => {
      if (calm) return;
      const dice = next();
      if (dice < 0.1) await new Promise<void>((resolve) => clock.after(next() * 400, resolve));
      if (operation === 'acknowledge' && dice < 0.25) throw new TurnpikeError('BROKER_UNAVAILABLE', 'cut', { retriable: true });
      if (operation === 'produce' && dice < 0.3) throw new TurnpikeError('BROKER_UNAVAILABLE', 'no leader', { retriable: true });
      if (operation === 'produce' && dice < 0.33) throw new TurnpikeError('BROKER_REJECTED', 'refused');
    };
    const gate: DrainGate = {
      ...openGate,
      admit: () => (!calm && next() < 0.3 ? next() * 300 : 0),
      burst: () => (next() < 0.5 ? { records: 5, bytes: 1e9 } : undefined),
    };
    const link = await memoryTransport({ cluster }).connect({
      cluster: { name: 'c', bootstrap: [] },
      identity: { kind: 'none', principal: 'svc' } as Identity,
      clientId: 'svc',
      connectTimeoutMs: 1000,
      clock,
      logger: silentLogger,
      gate,
      fetchGate: openGate,
      events: settleRecords(noTelemetry),
    });
    const options = compileProducerOptions({
      maxBatchBytes: 4096,
      maxRecordBytes: 4096,
      maxBufferBytes: 8192,
      deliveryTimeoutMs: 2_000,
      requestTimeoutMs: 500,
    });
    const producer = new TopicProducer({
      topic: 't',
      keyOf: undefined,
      key: text,
      value: text,
      stages: [],
      access: { produce: () => {}, consume: () => {} },
      gate,
      telemetry: noTelemetry,
      clock,
      port: await link.producer(options),
      scratch: new Scratch(),
      sticky: new StickyPartition({ random: next, switchBytes: 500 }),
      options,
    });

    const total = 300;
    const outcomes: Promise<{ readonly n: number; readonly at?: RecordMetadata; readonly error?: TurnpikeError }>[] = [];
    for (let n = 0; n < total; n++) {
      const abort = new AbortController();
      if (next() < 0.1) clock.after(next() * 500, () => abort.abort());
      const key = next() < 0.8 ? `k${Math.floor(next() * 7)}` : null;
      outcomes.push(
        producer.send(`${n}:${'x'.repeat(next() < 0.03 ? 3_500 : next() * 600)}`, { key, signal: abort.signal }).then(
          (at) => ({ n, at }),
          (error: TurnpikeError) => ({ n, error }),
        ),
      );
      if (next() < 0.3) await clock.advance(next() * 60);
      if (next() < 0.02) void producer.flush().catch(() => {});
      if (n === 200) calm = next() < 0.5;
    }
    const closed = producer.close().then(() => link[Symbol.asyncDispose]());
    let open = true;
    void closed.finally(() => {
      open = false;
    });
    for (let i = 0; open && i < 100; i++) await clock.advance(100);
    expect(open).toBe(false);

    const told = await Promise.all(outcomes);
    const logs = (cluster.topics.get('t')?.partitions ?? []).map((log) =>
      log.map((r) => ({ n: Number(String(r.value).split(':')[0]), key: r.key && String(r.key) })),
    );
    const places = Map.groupBy(
      logs.flatMap((log, partition) => log.map(({ n }, offset) => ({ n, partition, offset: BigInt(offset) }))),
      (p) => p.n,
    );
    for (const { n, at, error } of told) {
      const found = places.get(n) ?? [];
      if (at) expect({ n, found }).toEqual({ n, found: [{ n, partition: at.partition, offset: at.offset }] });
      else if (error?.written === 'no') expect({ n, code: error.code, found }).toEqual({ n, code: error.code, found: [] });
      else
        expect({ n, written: error?.written, times: found.length }).toEqual({ n, written: 'unknown', times: found.length > 1 ? 'at most once' : found.length });
    }
    for (const log of logs)
      for (const [, of] of Map.groupBy(log, (r) => r.key)) {
        const order = of.map((r) => r.n);
        if (of[0]?.key !== null) expect(order).toEqual([...order].sort((a, b) => a - b));
      }
    expect(told.filter((o) => o.at).length).toBeGreaterThan(20);
    await clock.advance(1_000); // The test's own timers.
    expect(clock.pending).toBe(0);
  });
});
