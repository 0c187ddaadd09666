import { asTurnpikeError, TurnpikeError, withoutCode } from '../errors.ts';
import type { RecordHeaders } from '../headers.ts';
import { type Clock, pause } from '../spi/clock.ts';
import type { Serde } from '../spi/codec.ts';
import type { Logger } from '../spi/logger.ts';
import type { AccessPolicy } from '../spi/policy.ts';
import type { Telemetry } from '../spi/telemetry.ts';
import type { AssignmentListener, ConsumerPort, FetchedBatch, InboundRecord, TopicPartition } from '../spi/transport.ts';
import { Lane, laneKey } from './lane.ts';
import type { CompiledConsumer } from './options.ts';

/** A record as its handler sees it. Safe to keep. */
export interface ConsumedEvent<Topic extends string = string, Value = unknown, Key = unknown> {
  readonly topic: Topic;
  readonly partition: number;
  readonly offset: bigint;
  readonly timestampMs: number;
  readonly key: Key | null;
  /** null = a tombstone. */
  readonly value: Value | null;
  readonly headers: RecordHeaders;
}

export interface HandlerContext {
  /** Fires when the partition is lost, or its drain deadline has passed: what the handler does from then on is not committed. */
  readonly signal: AbortSignal;
}

/** Handles one record. Records of a partition come one after another, partitions side by side. A handler that throws ends the consumer; its record is not committed. */
export type Handler<E> = (event: E, context: HandlerContext) => void | Promise<void>;

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

/** permit -> fetch -> charge (the port's) -> trace -> decode -> handler -> commit. Commits only what handlers have finished. */
export class GroupConsumer implements AssignmentListener {
  readonly #layers: ConsumeLayers;
  readonly #lanes = new Map<string, Lane>();
  readonly #stop = new AbortController();
  #handler: Handler<ConsumedEvent> | undefined;
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
    const { group } = this.#layers.options;
    if (typeof handler !== 'function')
      return Promise.reject(new TurnpikeError('CONFIG_INVALID', `${group}: run() takes a function that handles one event, got ${typeof handler}.`, { group }));
    if (this.#running)
      return Promise.reject(new TurnpikeError('CONFIG_INVALID', `${group}: this consumer runs already; get another from the client.`, { group }));
    this.#handler = handler;
    this.#running = this.#stop.signal.aborted ? Promise.reject(new TurnpikeError('CLOSED', `${group}: the consumer is closed.`, { group })) : this.#run();
    return this.#running;
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
      lane.stopped = true;
      lane.working = undefined;
      lane.abort.abort(new TurnpikeError('ABORTED', `${lane.topic}/${lane.partition}: the loop was left.`, lane));
    }
    await this.close();
  }

  assigned(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) this.#lanes.set(laneKey(tp), new Lane(tp));
  }

  async revoking(partitions: readonly TopicPartition[]): Promise<void> {
    const lanes = partitions.flatMap((tp) => this.#lanes.get(laneKey(tp)) ?? []);
    await this.#drain(lanes);
    for (const lane of lanes) if (this.#lanes.get(laneKey(lane)) === lane) this.#lanes.delete(laneKey(lane));
    this.#changed?.resolve();
  }

  lost(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) {
      const lane = this.#lanes.get(laneKey(tp));
      if (!lane) continue;
      lane.stopped = true;
      lane.lost = true;
      lane.abort.abort(new TurnpikeError('MEMBERSHIP_LOST', `${tp.topic}/${tp.partition} was taken over by another member.`, tp));
      this.#lanes.delete(laneKey(tp));
    }
    this.#changed?.resolve();
  }

  failed(error: TurnpikeError): void {
    this.#fail(error);
  }

  async #run(): Promise<void> {
    const { access, port, topics, options } = this.#layers;
    const names = [...topics.keys()];
    for (const topic of names) access.consume(topic, options.group);
    try {
      await this.#subscribe(names);
      this.#scheduleCommit();
      while (!this.#stop.signal.aborted) {
        if (this.#queuedBytes() < options.maxPrefetchBytes) await this.#poll();
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

  #queuedBytes(): number {
    let bytes = 0;
    for (const lane of this.#lanes.values()) bytes += lane.queuedBytes;
    return bytes;
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
    lane.push(batch);
    if (!lane.paused && (lane.queuedRecords > options.maxQueuedRecords || lane.queuedBytes > options.maxPartitionFetchBytes)) {
      lane.paused = true;
      port.pause([lane]);
    }
    if (lane.working) return;
    const over = Promise.withResolvers<void>();
    lane.working = over.promise;
    void this.#work(lane).finally(over.resolve);
  }

  async #work(lane: Lane): Promise<void> {
    const { port, options } = this.#layers;
    try {
      for (let record = lane.next(); record !== undefined && !lane.stopped; record = lane.next()) {
        const handled = await this.#handle(lane, record);
        // Past its deadline the partition is somebody else's: this progress must not be committed.
        if (!handled || lane.abort.signal.aborted) return;
        lane.done(record);
        this.#changed?.resolve();
        const caughtUp = lane.queuedRecords <= options.maxQueuedRecords / 2 && lane.queuedBytes <= options.maxPartitionFetchBytes / 2;
        if (lane.paused && caughtUp && !lane.stopped) {
          lane.paused = false;
          port.resume([lane]);
        }
      }
    } catch (error) {
      this.#fail(error as TurnpikeError);
    } finally {
      // In the same turn in which the lane was found empty: a batch that comes in the next one must start it again.
      lane.working = undefined;
    }
  }

  /** false = the partition was given up before the handler saw the record. */
  async #handle(lane: Lane, record: InboundRecord): Promise<boolean> {
    const { telemetry, options } = this.#layers;
    const event = await this.#decode(lane, record);
    if (event === undefined) return false;
    const where = { topic: record.topic, partition: record.partition, offset: record.offset, group: options.group };
    try {
      await telemetry.process([record], options.group, async () => this.#handler?.(event, { signal: lane.abort.signal }));
      return true;
    } catch (cause) {
      throw new TurnpikeError(
        'HANDLER_FAILED',
        `${record.topic}/${record.partition}@${record.offset}: the handler threw: ${cause instanceof Error ? cause.message : String(cause)}. The record is not committed and comes again.`,
        { ...where, cause },
      );
    }
  }

  /** undefined = the partition was given up while its writer's schema was waited for. */
  async #decode(lane: Lane, record: InboundRecord): Promise<ConsumedEvent | undefined> {
    const serdes = this.#layers.topics.get(record.topic);
    if (!serdes) throw new TurnpikeError('INTERNAL', `${record.topic} was not subscribed to.`, { topic: record.topic });
    const decode = async (serde: Serde<unknown>, bytes: Buffer | null) => {
      if (bytes === null) return null;
      const ready = serde.prepare(bytes, record.headers);
      if (ready) await this.#untilKnown(lane, record, () => serde.prepare(bytes, record.headers) ?? Promise.resolve(), ready);
      return serde.decode(bytes, record.headers);
    };
    try {
      const key = await decode(serdes.key, record.key);
      const value = await decode(serdes.value, record.value);
      if (lane.stopped) return undefined;
      return { topic: record.topic, partition: record.partition, offset: record.offset, timestampMs: record.timestampMs, key, value, headers: record.headers };
    } catch (cause) {
      if (lane.stopped || lane.abort.signal.aborted) return undefined;
      const error = asTurnpikeError(cause, 'DECODE_FAILED', 'it could not be decoded.');
      const text = withoutCode(error);
      throw new TurnpikeError(error.code, `${record.topic}/${record.partition}@${record.offset}: ${text}`, {
        ...error.facts,
        cause: error.cause ?? error,
        topic: record.topic,
        partition: record.partition,
        offset: record.offset,
        group: this.#layers.options.group,
      });
    }
  }

  /** A registry that can't be reached is never poison: the partition waits, the others go on. */
  async #untilKnown(lane: Lane, record: InboundRecord, retry: () => Promise<void>, first: Promise<void>): Promise<void> {
    const { clock, logger } = this.#layers;
    let attempt = first;
    for (;;) {
      try {
        return await attempt;
      } catch (cause) {
        const error = asTurnpikeError(cause, 'DECODE_FAILED', 'its schema could not be read.');
        if (!error.retriable || lane.stopped) throw error;
        logger.warn('consumer.schema_unavailable', { topic: record.topic, partition: record.partition, offset: String(record.offset), message: error.message });
        await pause(clock, RETRY_MS, lane.abort.signal);
        if (lane.stopped || lane.abort.signal.aborted) throw error;
        attempt = retry();
      }
    }
  }

  /** Running handlers get drainTimeoutMs, then their signal; what is handled by then is committed. */
  async #drain(lanes: readonly Lane[]): Promise<void> {
    const { clock, options, logger } = this.#layers;
    for (const lane of lanes) lane.stopped = true;
    const working = lanes.flatMap((lane) => lane.working ?? []);
    if (working.length > 0) {
      const deadline = new AbortController();
      await Promise.race([Promise.allSettled(working), pause(clock, options.drainTimeoutMs, deadline.signal)]);
      deadline.abort();
      for (const lane of lanes) {
        if (!lane.working) continue;
        logger.warn('consumer.drain_timeout', { topic: lane.topic, partition: lane.partition, group: options.group, drainTimeoutMs: options.drainTimeoutMs });
        lane.abort.abort(
          new TurnpikeError(
            'ABORTED',
            `${lane.topic}/${lane.partition}: the handler did not finish within consumer.drainTimeoutMs (${options.drainTimeoutMs} ms).`,
            lane,
          ),
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
    const offsets = due.map((lane) => ({ topic: lane.topic, partition: lane.partition, offset: lane.handled as bigint }));
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
