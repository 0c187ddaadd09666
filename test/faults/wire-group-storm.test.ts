import { compileConsumerOptions, compileProducerOptions, GroupConsumer, RecordHeaders } from '@turnpike/core';
import { noTelemetry, type Pending, type Serde, silentLogger, systemClock } from '@turnpike/core/spi';
import { certificateAuthority } from '@turnpike/testing';
import { describe, expect, it } from 'vitest';
import { FakeBroker } from './fake-broker.ts';
import { linkTo, random } from './link.ts';

const text: Serde<unknown> = { encodeInto: () => -1, ready: async () => {}, prepare: () => undefined, decode: (src) => src.toString() };

describe.each([1, 2, 3, 4])('a wire consumer in a storm (seed %i)', (seed) => {
  it('passes over no record, and never commits past one that is not handled', async () => {
    const next = random(seed);
    const ca = await certificateAuthority();
    await using broker = await FakeBroker.open(ca, { nodes: 3, topics: { t: 4 } });
    const link = await linkTo(broker, ca);
    let calm = false;
    const dice = () => (calm ? 1 : next());
    broker.onFetch = ({ partition }) => {
      if (dice() < 0.04) broker.topics.get('t')?.splice(partition, 1, Math.floor(next() * 4) - 1);
      const d = dice();
      return d < 0.1 ? ([6, 3, 5, 75, 78][Math.floor(next() * 5)] ?? 6) : 0;
    };
    broker.onHeartbeat = () => {
      const d = dice();
      return d < 0.05 ? 27 : d < 0.08 ? 25 : d < 0.1 ? 22 : d < 0.15 ? 16 : 0;
    };
    broker.onCommit = (generation, id) => {
      const d = dice();
      if (id !== broker.member) return 25;
      if (generation !== broker.generation) return 22;
      return d < 0.1 ? 'cut' : d < 0.2 ? 16 : d < 0.25 ? 27 : 0;
    };
    broker.onJoin = () => (dice() < 0.1 ? 'cut' : dice() < 0.1 ? 15 : 0);

    const handled = [0, 1, 2, 3].map(() => new Set<bigint>());
    const gaps: string[] = [];
    const options = compileConsumerOptions('g', {
      heartbeatIntervalMs: 30,
      fetchWaitMs: 10,
      requestTimeoutMs: 500,
      commitIntervalMs: 20,
      maxQueuedRecords: 20,
    });
    const consumer = new GroupConsumer({
      topics: new Map([['t', { key: text, value: text }]]),
      access: { produce: () => {}, consume: () => {} },
      telemetry: noTelemetry,
      clock: systemClock,
      logger: silentLogger,
      port: link.consumer(options),
      options,
    });
    const running = consumer.run(async ({ partition, offset }, { signal }) => {
      const of = handled[partition] ?? new Set();
      if (offset > 0n && !of.has(offset - 1n)) gaps.push(`${partition}@${offset}`);
      if (dice() < 0.2) await new Promise((resolve) => setTimeout(resolve, next() * 10));
      if (!signal.aborted) of.add(offset);
    });
    const fill = await link.producer(compileProducerOptions());
    await fill.warm(['t']);
    const until = performance.now() + 2_500;
    const disturb = setInterval(() => {
      const leaders = broker.topics.get('t') ?? [];
      for (const [p, leader] of leaders.entries()) if (leader < 0) leaders[p] = Math.floor(next() * 3);
      if (dice() < 0.1) broker.cut();
    }, 100);
    while (performance.now() < until) {
      const partition = Math.floor(next() * 4);
      const buf = Buffer.from('x');
      const pending: Pending = { deadlineMs: systemClock.monotonic() + 10_000, attempts: 0, span: undefined, acknowledge: () => {}, fail: () => {} };
      fill.append(
        { topic: 't', partition, timestampMs: 1, headers: new RecordHeaders().entries(), buf, keyStart: -1, keyEnd: -1, valueStart: 0, valueEnd: 1 },
        pending,
      );
      await new Promise((resolve) => setTimeout(resolve, next() * 4));
      for (const [p, of] of handled.entries())
        for (let o = 0n; o < (broker.committed.get(`t/${p}`) ?? 0n); o++) if (!of.has(o)) expect.unreachable(`committed past ${p}@${o}, which is not handled`);
    }
    calm = true;
    await fill.flush();
    const ends = () => [0, 1, 2, 3].map((p) => broker.end('t', p));
    await expect.poll(() => [0, 1, 2, 3].map((p) => broker.committed.get(`t/${p}`) ?? 0n), { timeout: 15_000 }).toEqual(ends());
    clearInterval(disturb);
    expect(gaps).toEqual([]);
    await consumer.close();
    await running;
    await link[Symbol.asyncDispose]();
  });
});
