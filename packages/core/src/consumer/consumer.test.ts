import { describe, expect, it } from 'vitest';
import { TurnpikeError } from '../errors.ts';
import { MemoryCluster } from '../memory/cluster.ts';
import { memoryTransport } from '../memory/transport.ts';
import { systemClock } from '../spi/clock.ts';
import type { Serde } from '../spi/codec.ts';
import type { Identity } from '../spi/identity.ts';
import { silentLogger } from '../spi/logger.ts';
import { type AccessPolicy, type FetchGate, openGate } from '../spi/policy.ts';
import { noTelemetry, type Telemetry } from '../spi/telemetry.ts';
import type { ConsumerPort } from '../spi/transport.ts';
import { GroupConsumer } from './consumer.ts';
import type { ConsumedEvent, Handler } from './event.ts';
import { iterate } from './iterate.ts';
import { type ConsumerOptions, compileConsumerOptions } from './options.ts';

const text: Serde<unknown> = {
  encodeInto: () => -1,
  ready: async () => {},
  prepare: () => undefined,
  decode: (src) => src.toString(),
};

interface SetUp {
  cluster: MemoryCluster;
  options?: ConsumerOptions;
  value?: Serde<unknown>;
  access?: AccessPolicy;
  fetchGate?: FetchGate;
  telemetry?: Telemetry;
  topics?: string[];
}

async function member(o: SetUp): Promise<{ consumer: GroupConsumer; port: ConsumerPort }> {
  const link = await memoryTransport({ cluster: o.cluster }).connect({
    cluster: { name: 'c', bootstrap: [] },
    identity: { kind: 'none', principal: 'svc' } as Identity,
    clientId: 'svc',
    connectTimeoutMs: 1000,
    clock: systemClock,
    logger: silentLogger,
    gate: openGate,
    fetchGate: o.fetchGate ?? openGate,
    events: { settled: () => {}, retried: () => {}, wrote: () => {}, throttled: () => {} },
  });
  const options = compileConsumerOptions('g', { commitIntervalMs: 10, ...o.options });
  const port = link.consumer(options);
  const topics = new Map((o.topics ?? ['t']).map((t) => [t, { key: text, value: o.value ?? text }]));
  const consumer = new GroupConsumer({
    topics,
    access: o.access ?? { produce: () => {}, consume: () => {} },
    telemetry: o.telemetry ?? noTelemetry,
    clock: systemClock,
    logger: silentLogger,
    port,
    options,
  });
  return { consumer, port };
}

function filled(partitions: number, perPartition: number): MemoryCluster {
  const cluster = new MemoryCluster({ topics: { t: partitions } });
  for (let p = 0; p < partitions; p++) {
    const records = Array.from({ length: perPartition }, (_, i) => ({
      key: Buffer.from(`k${p}`),
      value: Buffer.from(`${p}:${i}`),
      headers: undefined,
      timestampMs: i,
    }));
    if (records.length > 0) cluster.append('t', p, records);
  }
  return cluster;
}

/** Waits for a condition, with a deadline that fails the test. */
async function until(condition: () => boolean, what: string): Promise<void> {
  const end = performance.now() + 5000;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`not within 5 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const committed = (cluster: MemoryCluster, partition = 0) => cluster.group('g').committed.get(`t/${partition}`)?.offset;

describe('GroupConsumer', () => {
  it('hands every record to the handler, decoded, in order within its partition, and commits what was handled', async () => {
    const cluster = filled(3, 700);
    const { consumer } = await member({ cluster });
    const seen: ConsumedEvent[] = [];
    const running = consumer.run((e) => void seen.push(e));
    await until(() => seen.length === 2100, '2100 records');
    await consumer.close();
    await running;
    for (let p = 0; p < 3; p++) {
      expect(seen.filter((e) => e.partition === p).map((e) => e.value)).toEqual(Array.from({ length: 700 }, (_, i) => `${p}:${i}`));
      expect(committed(cluster, p)).toBe(700n);
    }
    expect(seen[0]).toMatchObject({ topic: 't', key: expect.stringMatching(/^k\d$/) });
  });

  it('handles partitions side by side, records of a partition one after another', async () => {
    const cluster = filled(2, 2);
    const { consumer } = await member({ cluster });
    const running = new Set<string>();
    let together = 0;
    let overlap = false;
    let handled = 0;
    const run = consumer.run(async (e) => {
      const id = String(e.partition);
      overlap ||= running.has(id);
      running.add(id);
      together = Math.max(together, running.size);
      if (handled === 0) await until(() => running.size === 2 || handled > 0, 'the other partition');
      running.delete(id);
      handled++;
    });
    await until(() => handled === 4, '4 handled');
    await consumer.close();
    await run;
    expect({ together, overlap }).toEqual({ together: 2, overlap: false });
  });

  it('a handler that throws ends the consumer; its record is not committed and comes again', async () => {
    const cluster = filled(1, 10);
    const first = await member({ cluster });
    const failing = first.consumer.run((e) => {
      if (e.offset === 4n) throw new Error('database is down');
    });
    await expect(failing).rejects.toMatchObject({ code: 'HANDLER_FAILED', facts: { topic: 't', partition: 0, offset: 4n, group: 'g' } });
    expect(committed(cluster)).toBe(4n);
    const second = await member({ cluster });
    const again: bigint[] = [];
    const running = second.consumer.run((e) => void again.push(e.offset));
    await until(() => again.length === 6, '6 records');
    await second.consumer.close();
    await running;
    expect(again[0]).toBe(4n);
  });

  it('refuses what is no function as a handler, and runs with one after that', async () => {
    const { consumer } = await member({ cluster: filled(1, 1) });
    await expect(consumer.run('x' as never)).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: '[CONFIG_INVALID] g: run() takes a function that handles one event, got string.',
    });
    const seen: ConsumedEvent[] = [];
    const running = consumer.run((e) => void seen.push(e));
    await until(() => seen.length === 1, 'the record');
    await consumer.close();
    await running;
  });

  it('close() waits for the running handler, commits it, and hands out no further record', async () => {
    const cluster = filled(1, 10);
    const { consumer } = await member({ cluster });
    const { promise: gate, resolve: open } = Promise.withResolvers<void>();
    let started = 0;
    const running = consumer.run(async () => {
      started++;
      await gate;
    });
    await until(() => started === 1, 'the first handler');
    const closing = consumer.close();
    open();
    await closing;
    await running;
    expect(started).toBe(1);
    expect(committed(cluster)).toBe(1n);
  });

  it('a handler past the drain deadline gets its signal, and what it does then is not committed', async () => {
    const cluster = filled(1, 10);
    const { consumer } = await member({ cluster, options: { drainTimeoutMs: 20 } });
    let signal: AbortSignal | undefined;
    const { promise: stuck, resolve: release } = Promise.withResolvers<void>();
    const running = consumer.run(async (_e, context) => {
      signal = context.signal;
      await stuck;
    });
    await until(() => signal !== undefined, 'the handler');
    await consumer.close();
    await running;
    expect(signal?.aborted).toBe(true);
    release();
    await new Promise((resolve) => setImmediate(resolve));
    expect(committed(cluster)).toBeUndefined();
  });

  it('on revoke it drains and commits before the partition moves: the new owner reads on without a gap or a repeat', async () => {
    const cluster = filled(4, 300);
    const seen: string[] = [];
    const slow: Handler<ConsumedEvent> = async (e) => {
      seen.push(`${e.partition}:${e.offset}`);
      await new Promise((resolve) => setImmediate(resolve));
    };
    const a = await member({ cluster });
    const runA = a.consumer.run(slow);
    await until(() => seen.length > 100, 'the first member at work');
    const b = await member({ cluster });
    const runB = b.consumer.run(slow);
    await until(() => seen.length >= 1200, 'all records');
    await Promise.all([a.consumer.close(), b.consumer.close()]);
    await Promise.all([runA, runB]);
    expect(new Set(seen).size).toBe(1200);
    expect(seen).toHaveLength(1200);
  });

  it('a member put out of its group commits nothing any more and the handler’s signal fires', async () => {
    const cluster = filled(1, 5);
    const { consumer } = await member({ cluster });
    let signal: AbortSignal | undefined;
    const { promise: held, resolve: release } = Promise.withResolvers<void>();
    const running = consumer.run(async (_e, c) => {
      signal ??= c.signal;
      await held;
    });
    await until(() => signal !== undefined, 'the handler');
    const [zombie] = cluster.group('g').members.values();
    if (zombie) await cluster.group('g').expire(zombie);
    expect(signal?.aborted).toBe(true);
    release();
    await consumer.close();
    await running;
    expect(committed(cluster)).toBeUndefined();
  });

  it('pauses a partition whose queue is over its bound, and goes on when the handler has caught up', async () => {
    const cluster = filled(1, 3000);
    const { consumer, port } = await member({ cluster, options: { maxQueuedRecords: 100 } });
    const calls: string[] = [];
    const { pause, resume } = port;
    port.pause = (tps) => {
      calls.push('pause');
      pause.call(port, tps);
    };
    port.resume = (tps) => {
      calls.push('resume');
      resume.call(port, tps);
    };
    let handled = 0;
    const running = consumer.run(async () => {
      handled++;
      if (handled % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
    });
    await until(() => handled === 3000, 'all records');
    await consumer.close();
    await running;
    expect(calls.slice(0, 2)).toEqual(['pause', 'resume']);
  });

  it('holds a partition while its schema can’t be read, lets the others go on, and is not poison', async () => {
    const cluster = filled(2, 3);
    let known = false;
    const value: Serde<unknown> = {
      ...text,
      prepare: (src) =>
        known || !src.toString().startsWith('0:') ? undefined : Promise.reject(new TurnpikeError('SCHEMA_UNAVAILABLE', 'registry down', { retriable: true })),
    };
    const { consumer } = await member({ cluster, value });
    const seen: string[] = [];
    const running = consumer.run((e) => void seen.push(String(e.value)));
    await until(() => seen.length === 3, 'the other partition');
    expect(seen.every((v) => v.startsWith('1:'))).toBe(true);
    known = true;
    await until(() => seen.length === 6, 'the held partition');
    await consumer.close();
    await running;
  });

  it('a record that can’t be decoded ends the consumer with its coordinates, uncommitted', async () => {
    const cluster = filled(1, 5);
    const value: Serde<unknown> = {
      ...text,
      decode: (src) => {
        if (src.toString() === '0:2') throw new TurnpikeError('DECODE_FAILED', 'wrong magic byte');
        return src.toString();
      },
    };
    const { consumer } = await member({ cluster, value });
    await expect(consumer.run(() => {})).rejects.toMatchObject({
      code: 'DECODE_FAILED',
      message: '[DECODE_FAILED] t/0@2: wrong magic byte',
      facts: { offset: 2n },
    });
    expect(committed(cluster)).toBe(2n);
  });

  it('a refusal by the grant comes before the group is joined', async () => {
    const cluster = filled(1, 1);
    const access: AccessPolicy = {
      produce: () => {},
      consume: (topic, group) => {
        throw new TurnpikeError('GRANT_DENIED', `${topic} ${group}`);
      },
    };
    const { consumer } = await member({ cluster, access });
    await expect(consumer.run(() => {})).rejects.toMatchObject({ code: 'GRANT_DENIED' });
    expect(cluster.groups.size).toBe(0);
  });

  it('no permit, no fetch', async () => {
    const cluster = filled(1, 5);
    let waitMs = 30_000;
    const charges: number[] = [];
    const fetchGate: FetchGate = { permit: () => waitMs, charge: (_t, _g, records) => void charges.push(records) };
    const { consumer } = await member({ cluster, fetchGate });
    let handled = 0;
    const running = consumer.run(() => void handled++);
    await until(() => cluster.group('g').members.size === 1, 'joined');
    expect(charges).toEqual([]);
    waitMs = 0;
    cluster.changed();
    await until(() => handled === 5, 'records');
    expect(charges).toEqual([5]);
    await consumer.close();
    await running;
  });

  it('a fetch that fails in passing is tried again', async () => {
    const cluster = filled(1, 5);
    let failures = 2;
    cluster.fault = ({ operation }) => {
      if (operation === 'fetch' && failures-- > 0) throw new TurnpikeError('BROKER_UNAVAILABLE', 'gone', { retriable: true });
    };
    const { consumer } = await member({ cluster });
    let handled = 0;
    const running = consumer.run(() => void handled++);
    await until(() => handled === 5, 'records');
    await consumer.close();
    await running;
  });

  it('runs each handler inside telemetry’s process span', async () => {
    const cluster = filled(1, 2);
    const seen: string[] = [];
    const telemetry: Telemetry = {
      ...noTelemetry,
      process: async (records, group, run) => {
        seen.push(`begin ${group} ${records[0]?.offset}`);
        const result = await run();
        seen.push('end');
        return result;
      },
    };
    const { consumer } = await member({ cluster, telemetry });
    const running = consumer.run((e) => void seen.push(`handle ${e.offset}`));
    await until(() => seen.length === 6, 'two records');
    await consumer.close();
    await running;
    expect(seen.slice(0, 3)).toEqual(['begin g 0', 'handle 0', 'end']);
  });

  it('can’t run twice', async () => {
    const { consumer } = await member({ cluster: filled(1, 0) });
    const running = consumer.run(() => {});
    await expect(consumer.run(() => {})).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await consumer.close();
    await running;
  });
});

describe('iterate', () => {
  it('commits an event when the next is asked for; the one in hand when the loop is left comes again', async () => {
    const cluster = filled(1, 5);
    const { consumer } = await member({ cluster });
    const seen: bigint[] = [];
    for await (const event of iterate(consumer)) {
      seen.push(event.offset);
      if (seen.length === 3) break;
    }
    expect(seen).toEqual([0n, 1n, 2n]);
    expect(committed(cluster)).toBe(2n);
  });

  it('throws in the loop what ended the consumer', async () => {
    const cluster = filled(1, 1);
    const { consumer } = await member({ cluster, topics: ['t', 'missing'] });
    await expect(
      (async () => {
        for await (const _ of iterate(consumer));
      })(),
    ).rejects.toMatchObject({ code: 'TOPIC_UNKNOWN' });
  });

  it('ends when the consumer is closed', async () => {
    const { consumer } = await member({ cluster: filled(1, 1) });
    const seen: unknown[] = [];
    for await (const event of iterate(consumer)) {
      seen.push(event);
      queueMicrotask(() => void consumer.close());
    }
    expect(seen).toHaveLength(1);
  });
});

describe('compileConsumerOptions', () => {
  it.each([
    [{ drainTimeoutMs: 60_000 }, /consumer\.drainTimeoutMs is 60000, not under rebalanceTimeoutMs/],
    [{ heartbeatIntervalMs: 20_000 }, /more than a third of sessionTimeoutMs/],
    [{ isolation: 1 } as object, /consumer\.isolation is 1; it must be one of "read_committed"/],
    [{ fromBeginning: true } as object, /consumer\.fromBeginning is not an option/],
  ])('refuses %o', (raw, message) => {
    expect(() => compileConsumerOptions('g', raw as ConsumerOptions)).toThrow(message);
  });
});
