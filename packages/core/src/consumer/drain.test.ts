import { describe, expect, it } from 'vitest';
import { TurnpikeError } from '../errors.ts';
import { RecordHeaders } from '../headers.ts';
import { ManualClock } from '../memory/manual-clock.ts';
import type { Serde } from '../spi/codec.ts';
import { silentLogger } from '../spi/logger.ts';
import { noTelemetry } from '../spi/telemetry.ts';
import type { AssignmentListener, CommitOffset, ConsumerPort, FetchedBatch, TopicPartition } from '../spi/transport.ts';
import { type ConsumedEvent, GroupConsumer, type Handler } from './consumer.ts';
import { type ConsumerOptions, compileConsumerOptions } from './options.ts';

const text: Serde<unknown> = { encodeInto: () => -1, ready: async () => {}, prepare: () => undefined, decode: (src) => src.toString() };
const P0 = { topic: 't', partition: 0 };

/** A port whose records, assignments and commits come when the test says so. */
class HeldPort implements ConsumerPort {
  listener: AssignmentListener | undefined;
  readonly #joined: Promise<void>;
  readonly commits: (readonly CommitOffset[])[] = [];
  readonly paused: string[] = [];
  committing: () => Promise<void> = async () => {};
  closed = false;
  #next = Promise.withResolvers<readonly FetchedBatch[]>();
  #offset = 0;

  constructor(joined: Promise<void>) {
    this.#joined = joined;
  }

  subscribe(_topics: readonly string[], listener: AssignmentListener): Promise<void> {
    this.listener = listener;
    return this.#joined;
  }
  poll(_maxWaitMs: number, signal?: AbortSignal): Promise<readonly FetchedBatch[]> {
    return new Promise((resolve) => {
      void this.#next.promise.then(resolve);
      signal?.addEventListener('abort', () => resolve([]));
    });
  }
  /** The next poll brings these. */
  bring(values: readonly string[], tp: TopicPartition = P0): void {
    const records = values.map((value) => ({
      ...tp,
      offset: BigInt(this.#offset++),
      timestampMs: 1,
      key: null,
      value: Buffer.from(value),
      headers: new RecordHeaders(),
    }));
    const next = this.#next;
    this.#next = Promise.withResolvers();
    next.resolve([{ ...tp, records, nextOffset: BigInt(this.#offset), highWatermark: 0n, bytes: 1, fetchedAtMs: 0 }]);
  }
  pause(tps: readonly TopicPartition[]): void {
    this.paused.push(...tps.map((tp) => `pause ${tp.partition}`));
  }
  resume(tps: readonly TopicPartition[]): void {
    this.paused.push(...tps.map((tp) => `resume ${tp.partition}`));
  }
  async seek(): Promise<void> {}
  async commit(offsets: readonly CommitOffset[]): Promise<void> {
    await this.committing();
    this.commits.push(offsets);
  }
  committed = async () => [];
  endOffsets = async () => [];
  async [Symbol.asyncDispose](): Promise<void> {
    this.closed = true;
  }
}

function setUp(handler: Handler<ConsumedEvent>, options: ConsumerOptions = {}, joined: Promise<void> = Promise.resolve()) {
  const port = new HeldPort(joined);
  const clock = new ManualClock();
  const consumer = new GroupConsumer({
    topics: new Map([['t', { key: text, value: text }]]),
    access: { produce: () => {}, consume: () => {} },
    telemetry: noTelemetry,
    clock,
    logger: silentLogger,
    port,
    options: compileConsumerOptions('g', options),
  });
  const running = consumer.run(handler);
  return { port, clock, consumer, running };
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
const microtasks = async (n: number) => {
  for (let i = 0; i < n; i++) await undefined;
};

describe('GroupConsumer: hand-over, revocation, close', () => {
  // A batch that came between the handler's end and the lane's own notice of it was put into a lane that nobody worked on any more, and lay there until the next batch.
  it.each(Array.from({ length: 16 }, (_, n) => [n]))('leaves no batch lying that arrives %i microtasks after the handler has finished', async (n) => {
    const seen: string[] = [];
    const first = Promise.withResolvers<void>();
    const { port, consumer, running } = setUp(async (event) => {
      seen.push(String(event.value));
      if (event.value === 'a') await first.promise;
    });
    await turn();
    port.listener?.assigned([P0]);
    port.bring(['a']);
    await turn();
    expect(seen).toEqual(['a']);
    first.resolve();
    await microtasks(n);
    port.bring(['b']);
    await turn();
    expect(seen).toEqual(['a', 'b']);
    await consumer.close();
    await running;
    expect(port.commits.at(-1)).toEqual([{ ...P0, offset: 2n }]);
  });

  it('close() ends a join that has not come to an end, and run() with it, without an error', async () => {
    const { port, consumer, running } = setUp(() => {}, {}, new Promise(() => {}));
    await turn();
    await consumer.close();
    await expect(running).resolves.toBeUndefined();
    expect(port.closed).toBe(true);
  });

  it('does not commit what was handled of a partition that was lost before its turn to commit came', async () => {
    const { port, clock, consumer, running } = setUp(() => {}, { commitIntervalMs: 100 });
    await turn();
    port.listener?.assigned([P0, { topic: 't', partition: 1 }]);
    port.bring(['a']);
    await turn();
    const slow = Promise.withResolvers<void>();
    port.committing = () => slow.promise;
    await clock.advance(100); // The first commit is under way: the next waits for it.
    port.bring(['b']);
    await turn();
    const revoked = port.listener?.revoking([P0]);
    await turn();
    port.listener?.lost([P0]);
    slow.resolve();
    await revoked;
    await consumer.close();
    await running;
    expect(port.commits).toEqual([[{ ...P0, offset: 1n }]]);
  });

  it('stops polling while what the handlers have not seen yet takes maxPrefetchBytes, and goes on when it is handled', async () => {
    const seen: string[] = [];
    let go = Promise.withResolvers<void>();
    const { port, consumer, running } = setUp(
      async (event) => {
        seen.push(String(event.value)[0] ?? '');
        await go.promise;
      },
      { maxPrefetchBytes: 10_000 },
    );
    await turn();
    port.listener?.assigned([P0, { topic: 't', partition: 1 }]);
    let polls = 0;
    const poll = port.poll.bind(port);
    port.poll = (ms, signal) => {
      polls++;
      return poll(ms, signal);
    };
    port.bring(['a'.repeat(6_000), 'b'.repeat(6_000)]);
    await turn();
    expect({ seen, polls }).toEqual({ seen: ['a'], polls: 0 });
    go.resolve();
    go = Promise.withResolvers();
    await turn();
    expect({ seen, polls }).toEqual({ seen: ['a', 'b'], polls: 1 });
    go.resolve();
    await consumer.close();
    await running;
  });

  it('pauses a partition whose records that wait take more than maxPartitionFetchBytes, however few they are', async () => {
    const go = Promise.withResolvers<void>();
    const { port, consumer, running } = setUp(() => go.promise, { maxPartitionFetchBytes: 1024 });
    await turn();
    port.listener?.assigned([P0]);
    port.bring(['a'.repeat(3_000), 'b'.repeat(3_000)]);
    await turn();
    expect(port.paused).toEqual(['pause 0']);
    go.resolve();
    await turn();
    expect(port.paused).toEqual(['pause 0', 'resume 0']);
    await consumer.close();
    await running;
  });

  it('a commit that is refused for good ends the consumer with that error', async () => {
    const { port, clock, running } = setUp(() => {}, { commitIntervalMs: 100 });
    await turn();
    port.listener?.assigned([P0]);
    port.bring(['a']);
    await turn();
    port.committing = () => Promise.reject(new TurnpikeError('AUTHORIZATION_FAILED', 'withdrawn'));
    const ended = expect(running).rejects.toMatchObject({ code: 'AUTHORIZATION_FAILED' });
    await clock.advance(100);
    await ended;
    expect(port.closed).toBe(true);
  });
});
