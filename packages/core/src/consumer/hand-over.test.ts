import { describe, expect, it } from 'vitest';
import { TurnpikeError } from '../errors.ts';
import { noTelemetry } from '../spi/telemetry.ts';
import type { ConsumedEvent } from './event.ts';
import { P0, running, runningBatches, text, turn } from './held-port.ts';

const P1 = { topic: 't', partition: 1 };
const values = (events: readonly ConsumedEvent[]) => events.map((e) => e.value);

describe('handing over', () => {
  // Handlers that return nothing are run without a promise, and handlers that only look asynchronous go on in microtasks, which all come before a timer: heartbeats would have been late by as much.
  it.each([
    ['a handler that returns at once', () => {}],
    ['one whose promise is fulfilled at once', async () => {}],
  ])('leaves timers their turn while a million records go by %s', async (_name, handle) => {
    const count = 1_000_000;
    let seen = 0;
    const member = running(
      () => {
        seen++;
        return handle();
      },
      { options: { maxPrefetchBytes: 2 ** 40 } },
    );
    await turn();
    member.port.listener?.assigned([P0]);
    member.port.bring(Array(count).fill('x'));
    const seenByTimer: number[] = [];
    const timer = setInterval(() => seenByTimer.push(seen), 1);
    await expect.poll(() => seen, { timeout: 20_000, interval: 5 }).toBe(count);
    clearInterval(timer);
    const under = seenByTimer.filter((n) => n > 0 && n < count);
    expect(under.length).toBeGreaterThan(10);
    await member.consumer.close();
    await member.running;
    expect(member.port.commits.at(-1)).toEqual([{ ...P0, offset: BigInt(count) }]);
  });

  it('gives the other partitions their turn while one has many records', async () => {
    const seen: number[] = [];
    const member = running(({ partition }) => void seen.push(partition));
    await turn();
    member.port.listener?.assigned([P0, P1]);
    member.port.bring(Array(10_000).fill('x'));
    await turn();
    member.port.bring(['y'], P1);
    await expect.poll(() => seen.length).toBe(10_001);
    expect(seen.indexOf(1)).toBeLessThan(5_000);
    await member.consumer.close();
    await member.running;
  });

  it('hands out nothing more of a partition that is revoked between two turns, and commits what was handled', async () => {
    let seen = 0;
    const member = running(() => void seen++);
    await turn();
    member.port.listener?.assigned([P0]);
    member.port.bring(Array(50_000).fill('x'));
    await turn();
    expect(seen).toBeGreaterThan(0);
    const before = seen;
    await member.port.listener?.revoking([P0]);
    expect(member.port.commits.at(-1)).toEqual([{ ...P0, offset: BigInt(before) }]);
    await turn();
    await turn();
    expect(seen).toBe(before);
    await member.consumer.close();
    await member.running;
  });

  it('awaits what the telemetry makes of a handler that returns at once', async () => {
    const span = Promise.withResolvers<void>();
    const seen: string[] = [];
    const member = running((e) => void seen.push(String(e.value)), {
      telemetry: {
        ...noTelemetry,
        process: async (_records, _group, run) => {
          const result = await run();
          await span.promise;
          return result;
        },
      },
    });
    await turn();
    member.port.listener?.assigned([P0]);
    member.port.bring(['a', 'b']);
    await turn();
    expect(seen).toEqual(['a']);
    span.resolve();
    await turn();
    expect(seen).toEqual(['a', 'b']);
    await member.consumer.close();
    await member.running;
  });

  it('asks a serde that always waits once for each record, and goes on', async () => {
    const seen: unknown[] = [];
    const member = running((e) => void seen.push(e.value), { value: { ...text, prepare: () => Promise.resolve() } });
    await turn();
    member.port.listener?.assigned([P0]);
    member.port.bring(['a', 'b', 'c']);
    await turn();
    expect(seen).toEqual(['a', 'b', 'c']);
    await member.consumer.close();
    await member.running;
  });

  it('gives an event that may be spread, and whose offset is a bigint', async () => {
    const seen: ConsumedEvent[] = [];
    const member = running((e) => void seen.push({ ...e }));
    await turn();
    member.port.listener?.assigned([P0]);
    member.port.bring(['a']);
    await turn();
    expect(seen).toMatchObject([{ topic: 't', partition: 0, offset: 0n, timestampMs: 1, key: null, value: 'a', headers: { size: 0 } }]);
    await member.consumer.close();
    await member.running;
  });
});

describe('runBatch', () => {
  it('gives what is there of one partition, in order and at most maxBatchRecords, and commits all of it when it is handled', async () => {
    const seen: (readonly [number, unknown])[] = [];
    const go = Promise.withResolvers<void>();
    const member = runningBatches(
      async (events) => {
        seen.push([events[0]?.partition ?? -1, values(events)]);
        await go.promise;
      },
      { batch: { maxBatchRecords: 2 } },
    );
    await turn();
    member.port.listener?.assigned([P0, P1]);
    member.port.bring(['a', 'b', 'c']);
    await turn();
    member.port.bring(['x'], P1);
    await turn();
    expect(seen).toEqual([
      [0, ['a', 'b']],
      [1, ['x']],
    ]);
    go.resolve();
    await turn();
    expect(seen.slice(2)).toEqual([[0, ['c']]]);
    await member.consumer.close();
    await member.running;
    expect(member.port.commits.at(-1)).toEqual([
      { ...P0, offset: 3n },
      { ...P1, offset: 4n },
    ]);
  });

  it('fills a batch from several fetches', async () => {
    const seen: unknown[] = [];
    let go = Promise.withResolvers<void>();
    const member = runningBatches(async (events) => {
      seen.push(values(events));
      await go.promise;
    });
    await turn();
    member.port.listener?.assigned([P0]);
    member.port.bring(['a']);
    await turn();
    for (const value of ['b', 'c', 'd']) {
      member.port.bring([value]);
      await turn();
    }
    go.resolve();
    go = Promise.withResolvers();
    await turn();
    expect(seen).toEqual([['a'], ['b', 'c', 'd']]);
    go.resolve();
    await member.consumer.close();
    await member.running;
    expect(member.port.commits.at(-1)).toEqual([{ ...P0, offset: 4n }]);
  });

  it('a throw ends the consumer with HANDLER_FAILED and the batch’s first offset; none of it is committed, what came before is', async () => {
    const member = runningBatches(
      (events) => {
        if (events.some((e) => e.value === 'd')) throw new Error('the database is down');
      },
      { batch: { maxBatchRecords: 2 } },
    );
    await turn();
    member.port.listener?.assigned([P0]);
    member.port.bring(['a', 'b', 'c', 'd', 'e']);
    await expect(member.running).rejects.toMatchObject({
      code: 'HANDLER_FAILED',
      message: '[HANDLER_FAILED] t/0@2-3: the handler threw: the database is down. None of these records is committed; they come again.',
      facts: { topic: 't', partition: 0, offset: 2n },
    });
    expect(member.port.commits).toEqual([[{ ...P0, offset: 2n }]]);
  });

  it('a rejection does the same', async () => {
    const member = runningBatches(() => Promise.reject(new Error('no')));
    await turn();
    member.port.listener?.assigned([P0]);
    member.port.bring(['a', 'b']);
    await expect(member.running).rejects.toMatchObject({ code: 'HANDLER_FAILED' });
    expect(member.port.commits).toEqual([]);
  });

  it('hands over what can be decoded before it ends with the record that can’t', async () => {
    const seen: unknown[] = [];
    const member = runningBatches((events) => void seen.push(values(events)), {
      value: {
        ...text,
        decode: (src) => {
          if (src.toString() === 'bad') throw new TurnpikeError('DECODE_FAILED', 'wrong magic byte');
          return src.toString();
        },
      },
    });
    await turn();
    member.port.listener?.assigned([P0]);
    member.port.bring(['a', 'b', 'bad', 'c']);
    await expect(member.running).rejects.toMatchObject({ code: 'DECODE_FAILED', facts: { offset: 2n } });
    expect(seen).toEqual([['a', 'b']]);
    expect(member.port.commits.at(-1)).toEqual([{ ...P0, offset: 2n }]);
  });

  it('a schema that isn’t known yet begins a batch of its own', async () => {
    const known = Promise.withResolvers<void>();
    let isKnown = false;
    const seen: unknown[] = [];
    const member = runningBatches((events) => void seen.push(values(events)), {
      value: { ...text, prepare: (src) => (src.toString() === 'new' && !isKnown ? known.promise : undefined) },
    });
    await turn();
    member.port.listener?.assigned([P0]);
    member.port.bring(['a', 'new', 'b']);
    await turn();
    expect(seen).toEqual([['a']]);
    isKnown = true;
    known.resolve();
    await turn();
    expect(seen).toEqual([['a'], ['new', 'b']]);
    await member.consumer.close();
    await member.running;
  });

  it('on revoke waits for the batch in hand, commits it, and hands out nothing of the rest', async () => {
    const seen: unknown[] = [];
    const go = Promise.withResolvers<void>();
    const member = runningBatches(
      async (events) => {
        seen.push(values(events));
        await go.promise;
      },
      { batch: { maxBatchRecords: 2 } },
    );
    await turn();
    member.port.listener?.assigned([P0]);
    member.port.bring(['a', 'b', 'c']);
    await turn();
    const revoked = member.port.listener?.revoking([P0]);
    await turn();
    expect(member.port.commits).toEqual([]);
    go.resolve();
    await revoked;
    expect(member.port.commits).toEqual([[{ ...P0, offset: 2n }]]);
    await turn();
    expect(seen).toEqual([['a', 'b']]);
    await member.consumer.close();
    await member.running;
  });

  it('commits nothing of a batch that is in hand when its partition is lost, and tells the handler', async () => {
    let signal: AbortSignal | undefined;
    const go = Promise.withResolvers<void>();
    const member = runningBatches(async (_events, context) => {
      signal = context.signal;
      await go.promise;
    });
    await turn();
    member.port.listener?.assigned([P0]);
    member.port.bring(['a', 'b', 'c']);
    await turn();
    member.port.listener?.lost([P0]);
    expect(signal?.reason).toMatchObject({ code: 'MEMBERSHIP_LOST' });
    go.resolve();
    await turn();
    await member.consumer.close();
    await member.running;
    expect(member.port.commits).toEqual([]);
  });

  it.each([
    [{ maxBatchRecords: 0 }, /runBatch\.maxBatchRecords is 0/],
    [{ maxRecords: 5 } as object, /runBatch\.maxRecords is not an option; there are maxBatchRecords/],
  ])('refuses %o', async (batch, message) => {
    const { running: run, consumer } = runningBatches(() => {}, { batch });
    await expect(run).rejects.toThrow(message);
    await consumer.close();
  });
});
