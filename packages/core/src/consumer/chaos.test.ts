import { describe, expect, it } from 'vitest';
import { TurnpikeError } from '../errors.ts';
import { MemoryCluster } from '../memory/cluster.ts';
import { ManualClock } from '../memory/manual-clock.ts';
import { memoryTransport } from '../memory/transport.ts';
import type { Serde } from '../spi/codec.ts';
import type { Identity } from '../spi/identity.ts';
import { silentLogger } from '../spi/logger.ts';
import { openGate } from '../spi/policy.ts';
import { noTelemetry } from '../spi/telemetry.ts';
import { GroupConsumer } from './consumer.ts';
import { compileConsumerOptions } from './options.ts';

const text: Serde<unknown> = { encodeInto: () => -1, ready: async () => {}, prepare: () => undefined, decode: (src) => src.toString() };

const random = (seed: number) => () => {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
  return seed / 2 ** 32;
};

/** Members that come, go, fail and are put out; handlers that are slow; fetches and commits that fail: and not one record that is passed over. */
describe.each(Array.from({ length: 20 }, (_, seed) => seed + 1))('a group in a storm (seed %i)', (seed) => {
  it('hands every record to a handler, and never commits past one that is not done', async () => {
    const next = random(seed);
    const clock = new ManualClock();
    const cluster = new MemoryCluster({ topics: { t: 4 } });
    let calm = false;
    cluster.fault = async ({ operation }) => {
      const dice = calm ? 1 : next();
      if (dice < 0.1) await new Promise<void>((resolve) => clock.after(next() * 200, resolve));
      if ((operation === 'fetch' || operation === 'commit') && dice < 0.2) throw new TurnpikeError('BROKER_UNAVAILABLE', 'gone', { retriable: true });
    };
    const done = new Map<string, number>();
    const members: { readonly consumer: GroupConsumer; readonly running: Promise<unknown> }[] = [];
    const start = async () => {
      const link = await memoryTransport({ cluster }).connect({
        cluster: { name: 'c', bootstrap: [] },
        identity: { kind: 'none', principal: 'svc' } as Identity,
        clientId: 'svc',
        connectTimeoutMs: 1000,
        clock,
        logger: silentLogger,
        gate: openGate,
        fetchGate: openGate,
        events: { settled: () => {}, retried: () => {}, wrote: () => {}, throttled: () => {} },
      });
      const options = compileConsumerOptions('g', { commitIntervalMs: 50, drainTimeoutMs: 300, maxQueuedRecords: 10, maxPrefetchBytes: 8_192 });
      const consumer = new GroupConsumer({
        topics: new Map([['t', { key: text, value: text }]]),
        access: { produce: () => {}, consume: () => {} },
        telemetry: noTelemetry,
        clock,
        logger: silentLogger,
        port: link.consumer(options),
        options,
      });
      const running = consumer
        .run(async ({ partition, offset }, { signal }) => {
          const dice = calm ? 1 : next();
          if (dice < 0.3) await new Promise<void>((resolve) => clock.after(next() * (dice < 0.03 ? 800 : 40), resolve));
          if (dice > 0.995 && dice < 1) throw new Error('the database is down');
          if (!signal.aborted) done.set(`${partition}/${offset}`, (done.get(`${partition}/${offset}`) ?? 0) + 1);
        })
        .catch((error: TurnpikeError) => expect(error.code).toBe('HANDLER_FAILED'));
      members.push({ consumer, running });
    };
    const check = () => {
      for (const { partition, offset } of cluster.group('g').committed.values())
        for (let o = 0n; o < offset; o++) if (!done.has(`${partition}/${o}`)) expect.unreachable(`committed ${partition}@${offset}, but ${o} is not done`);
    };
    const closing: Promise<void>[] = [];
    for (let step = 0; step < 120; step++) {
      const dice = next();
      if (members.length === 0 || (dice < 0.08 && members.length < 4)) void start();
      else if (dice < 0.12) closing.push(members.splice(Math.floor(next() * members.length), 1)[0]?.consumer.close() ?? Promise.resolve());
      else if (dice < 0.14) closing.push(members.splice(Math.floor(next() * members.length), 1)[0]?.consumer.abandon() ?? Promise.resolve());
      else if (dice < 0.17) {
        const [zombie] = [...cluster.group('g').members.values()].sort(() => next() - 0.5);
        if (zombie) closing.push(cluster.group('g').expire(zombie));
      } else if (dice < 0.8) {
        const records = Array.from({ length: 1 + Math.floor(next() * 6) }, () => ({
          key: null,
          value: Buffer.alloc(next() * 900),
          headers: undefined,
          timestampMs: 1,
        }));
        cluster.append('t', Math.floor(next() * 4), records);
      }
      await clock.advance(next() * 80);
      check();
    }
    calm = true;
    await start();
    const ends = () => (cluster.topics.get('t')?.partitions ?? []).map((log) => BigInt(log.length));
    const committed = () => ends().map((_, p) => cluster.group('g').committed.get(`t/${p}`)?.offset ?? 0n);
    for (let i = 0; i < 200 && String(committed()) !== String(ends()); i++) await clock.advance(100);
    expect(committed()).toEqual(ends());
    check();
    for (const { consumer } of members) closing.push(consumer.close());
    for (let i = 0; i < 20; i++) await clock.advance(100);
    await Promise.all([...closing, ...members.map((m) => m.running)]);
    expect(cluster.group('g').members.size).toBe(0);
  });
});
