import { asTurnpikeError, TurnpikeError } from '../errors.ts';
import { type Clock, pause } from '../spi/clock.ts';
import type { Serde } from '../spi/codec.ts';
import type { Logger } from '../spi/logger.ts';
import type { AccessPolicy } from '../spi/policy.ts';
import type { Telemetry } from '../spi/telemetry.ts';
import type { AssignmentListener, CommitOffset, ConsumerPort, FetchedBatch, TopicPartition } from '../spi/transport.ts';
import type { BatchHandler, BatchOptions, ConsumedEvent, Handler } from './event.ts';
import { type Delivery, HandOver } from './hand-over.ts';
import { Lane, laneKey } from './lane.ts';
import { type CompiledConsumer, compileBatchOptions } from './options.ts';

/** The layers of one group member, composed once. */
export interface ConsumeLayers {
  readonly topics: ReadonlyMap<string, { readonly key: Serde<unknown>; readonly value: Serde<unknown> }>;
  readonly access: AccessPolicy;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly port: ConsumerPort;
  readonly options: CompiledConsumer;
}

const POLL_MS = 500;
const RETRY_MS = 250;
/** The port is told what waits when that has changed by such a part of `maxPrefetchBytes`. */
const TOLD_PARTS = 64;

/** permit -> fetch -> charge (the port's) -> trace -> decode -> handler -> commit. Commits only what handlers have finished. */
export class GroupConsumer implements AssignmentListener {
  readonly #layers: ConsumeLayers;
  readonly #lanes = new Map<string, Lane>();
  readonly #stop = new AbortController();
  #handOver: HandOver | undefined;
  /** Fetched and not yet handled, in all lanes. */
  #queuedBytes = 0;
  /** The same as the port was last told. */
  #toldBytes = 0;
  #failure: TurnpikeError | undefined;
  #running: Promise<void> | undefined;
  #commits: Promise<void> = Promise.resolve();
  #commitTimer: Disposable | undefined;
  /** There while the handlers have to catch up before more is polled. */
  #changed: PromiseWithResolvers<void> | undefined;

  constructor(layers: ConsumeLayers) {
    this.#layers = layers;
  }

  /** Joins the group and handles records until close(). Rejects with what ended it: HANDLER_FAILED, DECODE_FAILED, GRANT_DENIED, AUTHORIZATION_FAILED, ... */
  run(handler: Handler<ConsumedEvent>): Promise<void> {
    if (typeof handler !== 'function') return this.#refuse(`run() takes a function that handles one event, got ${typeof handler}.`);
    return this.#start({ each: handler });
  }

  /** As run(), with what is there of one partition at a time: the handler is awaited, and then all of its events are handled. */
  runBatch(handler: BatchHandler<ConsumedEvent>, options: BatchOptions = {}): Promise<void> {
    if (typeof handler !== 'function') return this.#refuse(`runBatch() takes a function that handles an array of events, got ${typeof handler}.`);
    try {
      return this.#start({ batches: handler, ...compileBatchOptions(options) });
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** Whether run() or runBatch() has been taken up: a consumer has one. */
  get started(): boolean {
    return this.#running !== undefined;
  }

  /** Lets running handlers finish (drainTimeoutMs), commits, leaves the group. Idempotent; don't await it inside a handler, which it waits for. */
  async close(): Promise<void> {
    this.#stop.abort();
    for (const lane of this.#lanes.values()) lane.stopped = true;
    this.#changed?.resolve();
    await this.#running?.catch(() => {});
    await this.#layers.port[Symbol.asyncDispose]();
  }

  /** As close(), without waiting for handlers: what they have in hand comes again. */
  async abandon(): Promise<void> {
    for (const lane of this.#lanes.values()) {
      lane.abort(new TurnpikeError('ABORTED', `${lane.topic}/${lane.partition}: the loop was left.`, { topic: lane.topic, partition: lane.partition }));
      lane.idle();
    }
    await this.close();
  }

  assigned(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) this.#lanes.set(laneKey(tp), new Lane(tp));
  }

  async revoking(partitions: readonly TopicPartition[]): Promise<void> {
    const lanes = partitions.flatMap((tp) => this.#lanes.get(laneKey(tp)) ?? []);
    await this.#drain(lanes);
    for (const lane of lanes) this.#forget(lane);
  }

  lost(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) {
      const lane = this.#lanes.get(laneKey(tp));
      if (!lane) continue;
      lane.lost = true;
      lane.abort(new TurnpikeError('MEMBERSHIP_LOST', `${tp.topic}/${tp.partition} was taken over by another member.`, tp));
      this.#forget(lane);
    }
  }

  failed(error: TurnpikeError): void {
    this.#fail(error);
  }

  #refuse(text: string): Promise<never> {
    const { group } = this.#layers.options;
    return Promise.reject(new TurnpikeError('CONFIG_INVALID', `${group}: ${text}`, { group }));
  }

  #start(delivery: Delivery): Promise<void> {
    const { topics, telemetry, clock, logger, options } = this.#layers;
    const { group } = options;
    if (this.#running) return this.#refuse('this consumer runs already; get another from the client.');
    this.#handOver = new HandOver({
      topics,
      telemetry,
      clock,
      logger,
      group,
      delivery,
      handled: (lane, bytes) => this.#handled(lane, bytes),
      failed: (error) => this.#fail(error),
    });
    this.#running = this.#stop.signal.aborted ? Promise.reject(new TurnpikeError('CLOSED', `${group}: the consumer is closed.`, { group })) : this.#run();
    return this.#running;
  }

  /** A partition that is given up: what waits in it is another member's. */
  #forget(lane: Lane): void {
    if (this.#lanes.get(laneKey(lane)) === lane) {
      this.#lanes.delete(laneKey(lane));
      this.#queue(-lane.queuedBytes);
    }
    this.#changed?.resolve();
  }

  async #run(): Promise<void> {
    const { access, port, topics, options } = this.#layers;
    const names = [...topics.keys()];
    for (const topic of names) access.consume(topic, options.group);
    try {
      await this.#subscribe(names);
      this.#scheduleCommit();
      while (!this.#stop.signal.aborted) {
        if (this.#queuedBytes < options.maxPrefetchBytes) await this.#poll();
        else await this.#room();
      }
    } catch (error) {
      this.#fail(asTurnpikeError(error, 'INTERNAL', `${options.group}: the consumer stopped.`, { group: options.group }));
    }
    this.#commitTimer?.[Symbol.dispose]();
    await this.#drain([...this.#lanes.values()]);
    await port[Symbol.asyncDispose]();
    this.#lanes.clear();
    if (this.#failure) throw this.#failure;
  }

  /** Joining waits for the other members, who may take long to give up their partitions; closing doesn't wait for it. */
  async #subscribe(topics: readonly string[]): Promise<void> {
    const { signal } = this.#stop;
    const closed = Promise.withResolvers<void>();
    const onAbort = () => closed.resolve();
    signal.addEventListener('abort', onAbort);
    const joined = this.#layers.port.subscribe(topics, this);
    joined.catch(() => {}); // Of interest only while somebody waits for it.
    await Promise.race([joined, closed.promise]).finally(() => signal.removeEventListener('abort', onAbort));
  }

  /** Resolves when a record has been handled, or a partition given up; membership goes on meanwhile, it isn't tied to polling. */
  #room(): Promise<void> {
    this.#changed = Promise.withResolvers();
    return this.#changed.promise;
  }

  async #poll(): Promise<void> {
    const { port, clock, logger, options } = this.#layers;
    try {
      for (const batch of await port.poll(POLL_MS, this.#stop.signal)) this.#dispatch(batch);
    } catch (cause) {
      const error = asTurnpikeError(cause, 'INTERNAL', `${options.group}: fetching failed.`, { group: options.group });
      if (!error.retriable) throw error;
      logger.warn('consumer.fetch_failed', { group: options.group, code: error.code, message: error.message });
      await pause(clock, RETRY_MS, this.#stop.signal);
    }
  }

  #dispatch(batch: FetchedBatch): void {
    const { port, telemetry, options } = this.#layers;
    const lane = this.#lanes.get(laneKey(batch));
    if (!lane || lane.stopped || this.#stop.signal.aborted) return; // Revoked since it was fetched: another member reads it.
    telemetry.received(batch.topic, batch.partition, options.group, batch.records, batch.fetchedAtMs);
    this.#queue(lane.push(batch));
    if (!lane.paused && (lane.queuedRecords > options.maxQueuedRecords || lane.queuedBytes > options.maxPartitionFetchBytes)) {
      lane.paused = true;
      port.pause([lane]);
    }
    this.#handOver?.work(lane);
  }

  #queue(bytes: number): void {
    this.#queuedBytes += bytes;
    const { port, options } = this.#layers;
    if (Math.abs(this.#queuedBytes - this.#toldBytes) * TOLD_PARTS < options.maxPrefetchBytes && this.#queuedBytes > 0) return;
    if (this.#queuedBytes === this.#toldBytes) return;
    this.#toldBytes = this.#queuedBytes;
    port.waiting?.(this.#queuedBytes);
  }

  #handled(lane: Lane, bytes: number): void {
    this.#queue(-bytes);
    this.#changed?.resolve();
    if (!lane.paused || lane.stopped) return;
    const { port, options } = this.#layers;
    const caughtUp = lane.queuedRecords <= options.maxQueuedRecords / 2 && lane.queuedBytes <= options.maxPartitionFetchBytes / 2;
    if (!caughtUp) return;
    lane.paused = false;
    port.resume([lane]);
  }

  /** Running handlers get drainTimeoutMs, then their signal; what is handled by then is committed. */
  async #drain(lanes: readonly Lane[]): Promise<void> {
    const { clock, options, logger } = this.#layers;
    for (const lane of lanes) lane.stopped = true;
    const working = lanes.flatMap((lane) => lane.finished() ?? []);
    if (working.length > 0) {
      const deadline = new AbortController();
      await Promise.race([Promise.allSettled(working), pause(clock, options.drainTimeoutMs, deadline.signal)]);
      deadline.abort();
      for (const lane of lanes) {
        if (!lane.busy) continue;
        logger.warn('consumer.drain_timeout', { topic: lane.topic, partition: lane.partition, group: options.group, drainTimeoutMs: options.drainTimeoutMs });
        const { topic, partition } = lane;
        lane.abort(
          new TurnpikeError('ABORTED', `${topic}/${partition}: the handler did not finish within consumer.drainTimeoutMs (${options.drainTimeoutMs} ms).`, {
            topic,
            partition,
          }),
        );
      }
    }
    await this.#commit(lanes);
  }

  #scheduleCommit(): void {
    const { clock, options } = this.#layers;
    this.#commitTimer = clock.after(options.commitIntervalMs, () => {
      void this.#commit([...this.#lanes.values()]).finally(() => {
        if (!this.#stop.signal.aborted) this.#scheduleCommit();
      });
    });
  }

  /** One after another, so that an older offset never lands on a newer one. */
  #commit(lanes: readonly Lane[]): Promise<void> {
    this.#commits = this.#commits.then(() => this.#commitNow(lanes));
    return this.#commits;
  }

  async #commitNow(lanes: readonly Lane[]): Promise<void> {
    const { port, telemetry, clock, logger, options } = this.#layers;
    const due = lanes.filter((lane) => lane.uncommitted && !lane.lost);
    if (due.length === 0) return;
    const offsets = due.map(nextOffset);
    const startedAtMs = clock.now();
    try {
      await port.commit(offsets);
      for (const [i, lane] of due.entries()) lane.committed = offsets[i]?.offset;
      telemetry.committed(options.group, offsets, startedAtMs);
    } catch (cause) {
      const error = asTurnpikeError(cause, 'INTERNAL', `${options.group}: the commit failed.`, { group: options.group });
      telemetry.committed(options.group, offsets, startedAtMs, error);
      logger.warn('consumer.commit_failed', { group: options.group, code: error.code, message: error.message });
      // Lost membership: another member reads on from the last commit. Retriable: the next interval tries again.
      if (!error.retriable && error.code !== 'MEMBERSHIP_LOST') this.#fail(error);
    }
  }

  #fail(error: TurnpikeError): void {
    this.#failure ??= error;
    for (const lane of this.#lanes.values()) lane.stopped = true;
    this.#stop.abort();
    this.#changed?.resolve();
  }
}

/** With the leader's epoch, by which a member that reads on later sees that the log was cut behind it (KIP-320). */
function nextOffset(lane: Lane): CommitOffset {
  const { topic, partition, handledEpoch } = lane;
  return { topic, partition, offset: lane.handled as bigint, ...(handledEpoch === undefined || handledEpoch < 0 ? {} : { leaderEpoch: handledEpoch }) };
}
