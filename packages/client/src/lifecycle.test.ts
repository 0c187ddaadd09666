import { TurnpikeError } from '@turnpike/core';
import { MemoryCluster, memoryTransport } from '@turnpike/core/memory';
import { type Logger, silentLogger, type Transport } from '@turnpike/core/spi';
import { describe, expect, it } from 'vitest';
import { connect } from './connect.ts';
import { type Departed, flights } from './flights.fixture.ts';
import type { ConnectOptions } from './settings.ts';

const departed = (n: number, origin = 'JFK'): Departed => ({ id: `f-${n}`, origin, delayMinutes: n });

function local(options: ConnectOptions = {}) {
  const cluster = new MemoryCluster({ topics: { 'flights.departed': 3, 'flights.landed': 2 } });
  const connecting = connect(flights, {
    environment: 'dev',
    transport: memoryTransport({ cluster }),
    env: {},
    logger: silentLogger,
    telemetry: 'off',
    shutdownSignals: [],
    ...options,
  });
  return { cluster, connecting };
}

const committed = (cluster: MemoryCluster, group: string): bigint => [...cluster.group(group).committed.values()].reduce((sum, c) => sum + c.offset, 0n);
const errorOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (e: unknown) => e,
  );

describe('close()', () => {
  it('may be called as often as one likes: it happens once', async () => {
    const kafka = await local().connecting;
    const [first, second] = [kafka.close(), kafka.close()];
    expect(second).toBe(first);
    await first;
    await kafka.close();
    await kafka[Symbol.asyncDispose]();
  });

  it('waits for a running handler and commits what it has done', async () => {
    const { connecting, cluster } = local();
    const kafka = await connecting;
    await kafka.producer('flights.departed').send(departed(1));
    const [entered, leave] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const running = kafka.consumer(['flights.departed'], { group: 'ops.audit' }).run(async () => {
      entered.resolve();
      await leave.promise;
    });
    await entered.promise;
    const closing = kafka.close();
    leave.resolve();
    await Promise.all([closing, running]);
    expect(committed(cluster, 'ops.audit')).toBe(1n);
  });

  it('cuts a handler that hangs at drainTimeoutMs: its signal fires with the reason, nothing of it is committed', async () => {
    const { connecting, cluster } = local({ consumer: { drainTimeoutMs: 50 } });
    const kafka = await connecting;
    await kafka.producer('flights.departed').send(departed(1));
    const entered = Promise.withResolvers<AbortSignal>();
    void kafka.consumer(['flights.departed'], { group: 'ops.audit' }).run((_event, { signal }) => {
      entered.resolve(signal);
      return new Promise(() => {});
    });
    const signal = await entered.promise;
    expect(signal.aborted).toBe(false);
    const started = performance.now();
    await kafka.close();
    expect(performance.now() - started).toBeLessThan(2_000);
    expect(signal.reason).toMatchObject({ code: 'ABORTED', message: expect.stringMatching(/did not finish within consumer\.drainTimeoutMs \(50 ms\)/) });
    expect(committed(cluster, 'ops.audit')).toBe(0n);
  });

  it('gives up on records at their delivery timeout when the broker does not take them', async () => {
    const { connecting, cluster } = local({ producer: { deliveryTimeoutMs: 200 } });
    const kafka = await connecting;
    cluster.fault = ({ operation }) => {
      if (operation === 'produce') throw new TurnpikeError('BROKER_UNAVAILABLE', 'no leader', { retriable: true });
    };
    const sending = errorOf(kafka.producer('flights.departed').send(departed(1)));
    const started = performance.now();
    await kafka.close();
    expect(performance.now() - started).toBeLessThan(2_000);
    expect(await sending).toMatchObject({ code: 'DELIVERY_TIMEOUT' });
  });

  it('closes everything else although one thing fails, and says so in the log and to its caller', async () => {
    const logged: unknown[] = [];
    const closed: string[] = [];
    const { connecting } = local({
      transport: failingToClose('airside', closed),
      logger: { ...silentLogger, error: (...line) => void logged.push(line) } satisfies Logger,
    });
    const kafka = await connecting;
    await expect(kafka.close()).rejects.toThrow('airside hangs');
    expect(new Set(closed)).toEqual(new Set(['airside', 'landside']));
    expect(logged).toEqual([['connection.close_failed', { message: 'airside hangs' }]]);
  });

  it('that fails inside connect() does not hide why that failed', async () => {
    const { connecting } = local({ transport: failingToClose('airside', [], new MemoryCluster({ topics: { 'flights.departed': 1 } })) });
    await expect(connecting).rejects.toMatchObject({ code: 'TOPIC_UNKNOWN' });
  });

  it('comes at the end of an `await using` block, also when that throws', async () => {
    const { connecting, cluster } = local();
    const block = async () => {
      await using kafka = await connecting;
      void kafka.producer('flights.departed').send(departed(1)); // Not awaited: the end of the block does.
      throw new RangeError('mine');
    };
    await expect(block()).rejects.toThrow('mine');
    expect(cluster.records('flights.departed')).toHaveLength(1);
  });
});

/** A memory transport one of whose links can't be closed. */
function failingToClose(which: string, closed: string[], cluster = new MemoryCluster({ topics: { 'flights.departed': 1, 'flights.landed': 1 } })): Transport {
  const memory = memoryTransport({ cluster });
  return {
    ...memory,
    async connect(context) {
      const link = await memory.connect(context);
      const { name } = context.cluster;
      return {
        clusterId: link.clusterId,
        producer: (options) => link.producer(options),
        consumer: (options) => link.consumer(options),
        async [Symbol.asyncDispose]() {
          await link[Symbol.asyncDispose]();
          closed.push(name);
          if (name === which) throw new Error(`${name} hangs`);
        },
      };
    },
  };
}

describe('a producer', () => {
  it('is the same for the same topic, until it is closed; then there is another', async () => {
    await using kafka = await local().connecting;
    const first = kafka.producer('flights.departed');
    expect(kafka.producer('flights.departed')).toBe(first);
    await first.close();
    await expect(first.send(departed(1))).rejects.toMatchObject({
      code: 'CLOSED',
      written: 'no',
      message: expect.stringMatching(/get another from the client/),
    });
    await kafka.producer('flights.departed').send(departed(2));
  });

  it('that is disposed of is flushed and can go on', async () => {
    const { connecting, cluster } = local();
    await using kafka = await connecting;
    {
      await using producer = kafka.producer('flights.departed');
      void producer.send(departed(1));
    }
    expect(cluster.records('flights.departed')).toHaveLength(1);
    await kafka.producer('flights.departed').send(departed(2));
  });

  it('ends with the connection', async () => {
    const kafka = await local().connecting;
    const producer = kafka.producer('flights.departed');
    await kafka.close();
    await expect(producer.send(departed(1))).rejects.toMatchObject({ code: 'CLOSED', written: 'no' });
    await expect(producer.sendBatch([departed(1)])).rejects.toMatchObject({ code: 'CLOSED', written: 'no' });
    expect(() => kafka.producer('flights.departed')).toThrow(/\[CLOSED\] The connection is closed; connect\(\) again/);
  });

  it('is not found under what every object has', async () => {
    await using kafka = await local().connecting;
    for (const name of ['toString', 'constructor', '__proto__']) {
      expect(() => kafka.producer(name as 'flights.departed')).toThrow(expect.objectContaining({ code: 'TOPIC_UNDECLARED' }));
      expect(() => kafka.consumer([name as 'flights.departed'])).toThrow(expect.objectContaining({ code: 'TOPIC_UNDECLARED' }));
    }
  });
});

describe('a consumer', () => {
  it('wants a topic', async () => {
    await using kafka = await local().connecting;
    expect(() => kafka.consumer([])).toThrow(/\[CONFIG_INVALID\] consumer\(\) needs at least one topic/);
  });

  it('ends with the connection, and there is none after it', async () => {
    const kafka = await local().connecting;
    const consumer = kafka.consumer(['flights.landed']);
    await kafka.close();
    await expect(consumer.run(() => {})).rejects.toMatchObject({ code: 'CLOSED' });
    expect(() => kafka.consumer(['flights.landed'])).toThrow(expect.objectContaining({ code: 'CLOSED' }));
  });

  it('runs once: another run is refused, and the first is still closed with the connection', async () => {
    const { connecting } = local();
    const kafka = await connecting;
    const consumer = kafka.consumer(['flights.landed']);
    const running = consumer.run(() => {});
    await expect(consumer.run(() => {})).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringMatching(/runs already/) });
    await kafka.close();
    await running;
  });

  it('whose handler throws ends with HANDLER_FAILED; the record comes again to the next', async () => {
    const { connecting, cluster } = local();
    await using kafka = await connecting;
    await kafka.producer('flights.departed').send(departed(1));
    const failing = kafka.consumer(['flights.departed'], { group: 'ops.audit' }).run(() => {
      throw new RangeError('mine');
    });
    expect(await errorOf(failing)).toMatchObject({
      code: 'HANDLER_FAILED',
      cause: { message: 'mine' },
      facts: { topic: 'flights.departed', group: 'ops.audit' },
    });
    expect(committed(cluster, 'ops.audit')).toBe(0n);
    for await (const event of kafka.consumer(['flights.departed'], { group: 'ops.audit' })) {
      expect(event.value).toEqual(departed(1));
      break;
    }
  });

  it('as a loop: what came before the event in hand is committed when the loop is left, that one comes again', async () => {
    const { connecting, cluster } = local();
    await using kafka = await connecting;
    await kafka.producer('flights.departed').sendBatch([1, 2, 3].map((n) => departed(n))); // One key, so one partition, in order.
    for await (const event of kafka.consumer(['flights.departed'], { group: 'ops.audit' })) if (event.value?.delayMinutes === 2) break;
    expect(committed(cluster, 'ops.audit')).toBe(1n);
    const seen: number[] = [];
    for await (const event of kafka.consumer(['flights.departed'], { group: 'ops.audit' })) {
      seen.push(event.value?.delayMinutes ?? 0);
      if (seen.length === 2) break;
    }
    expect(seen).toEqual([2, 3]);
  });

  it('as a loop: throwing inside leaves it too, with the error of the one who threw', async () => {
    const { connecting, cluster } = local();
    await using kafka = await connecting;
    await kafka.producer('flights.departed').send(departed(1));
    const loop = async () => {
      for await (const _ of kafka.consumer(['flights.departed'], { group: 'ops.audit' })) throw new RangeError('mine');
    };
    await expect(loop()).rejects.toThrow('mine');
    expect(committed(cluster, 'ops.audit')).toBe(0n);
  });

  it('as a loop: ends when the connection is closed elsewhere, after the event in hand', async () => {
    const { connecting, cluster } = local();
    const kafka = await connecting;
    await kafka.producer('flights.departed').send(departed(1));
    let closing: Promise<void> | undefined;
    for await (const _ of kafka.consumer(['flights.departed'], { group: 'ops.audit' })) closing = kafka.close();
    await closing;
    expect(committed(cluster, 'ops.audit')).toBe(1n);
  });
});
