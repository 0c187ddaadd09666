import { RecordHeaders } from '../headers.ts';
import { ManualClock } from '../memory/manual-clock.ts';
import type { Serde } from '../spi/codec.ts';
import { silentLogger } from '../spi/logger.ts';
import { noTelemetry, type Telemetry } from '../spi/telemetry.ts';
import type { AssignmentListener, CommitOffset, ConsumerPort, FetchedBatch, TopicPartition } from '../spi/transport.ts';
import { GroupConsumer } from './consumer.ts';
import type { BatchHandler, BatchOptions, ConsumedEvent, Handler } from './event.ts';
import { type ConsumerOptions, compileConsumerOptions } from './options.ts';

export const text: Serde<unknown> = { encodeInto: () => -1, ready: async () => {}, prepare: () => undefined, decode: (src) => src.toString() };
export const P0 = { topic: 't', partition: 0 };

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

export interface SetUp {
  readonly options?: ConsumerOptions;
  readonly joined?: Promise<void>;
  readonly value?: Serde<unknown>;
  readonly telemetry?: Telemetry;
}

function member({ options = {}, joined = Promise.resolve(), value = text, telemetry = noTelemetry }: SetUp) {
  const port = new HeldPort(joined);
  const clock = new ManualClock();
  const consumer = new GroupConsumer({
    topics: new Map([['t', { key: text, value }]]),
    access: { produce: () => {}, consume: () => {} },
    telemetry,
    clock,
    logger: silentLogger,
    port,
    options: compileConsumerOptions('g', options),
  });
  return { port, clock, consumer };
}

/** A member of a group at work: no partition is its yet. */
export function running(handler: Handler<ConsumedEvent>, init: SetUp = {}) {
  const made = member(init);
  return { ...made, running: made.consumer.run(handler) };
}

export function runningBatches(handler: BatchHandler<ConsumedEvent>, init: SetUp & { readonly batch?: BatchOptions } = {}) {
  const made = member(init);
  return { ...made, running: made.consumer.runBatch(handler, init.batch) };
}

export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
