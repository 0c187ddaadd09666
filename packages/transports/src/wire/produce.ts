import { createAPI, initProducerIdV4, produceV9, Writer } from '@platformatic/kafka';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type CompiledProducerOptions, type LinkContext, type ProduceBatch, type ProduceDriver, type ProduceOutcome, pause } from '@turnpike/core/spi';
import type { Connections } from './connections.ts';
import { brokerError, isKafkaError, responseIn } from './errors.ts';
import type { Metadata } from './metadata.ts';
import { encodeBatch, type ProducerState } from './record-batch.ts';

/** How the wait between two tries of a batch grows, in ms. */
const BACKOFF_MS = { first: 50, most: 1_000 };
const MAX_EPOCH = 32_767;
const TOO_LATE = new TurnpikeError('BROKER_UNAVAILABLE', 'The broker did not answer before the delivery timeout.', { retriable: true });

/** A batch on its way: what is kept of it between tries. */
interface Attempt {
  readonly batch: ProduceBatch;
  /** Encoded once: a retry must be the same bytes, so that the broker knows it again. */
  bytes: Buffer | undefined;
  attempts: number;
  /** A request went out whose answer never came. */
  maybeWritten: boolean;
  outcome: ProduceOutcome | undefined;
  lastError: TurnpikeError | undefined;
}

interface PartitionState {
  producerId: bigint;
  epoch: number;
  sequence: number;
}

type Response = ReturnType<typeof produceV9.parseResponse>;
type PartitionResponse = Response['responses'][number]['partitionResponses'][number];

interface TopicData {
  readonly topic: string;
  readonly partitions: readonly { readonly partition: number; readonly records: Buffer }[];
}

const produce = createAPI<[acks: number, timeoutMs: number, data: readonly TopicData[]], Response>(0, 9, produceRequest, produceV9.parseResponse);

function produceRequest(acks: number, timeoutMs: number, data: readonly TopicData[]): Writer {
  const writer = Writer.create()
    .appendString(null)
    .appendInt16(acks)
    .appendInt32(timeoutMs)
    .appendArray([...data], (w, { topic, partitions }) => {
      w.appendString(topic).appendArray([...partitions], (w, { partition, records }) => {
        w.appendInt32(partition)
          .appendUnsignedVarInt(records.length + 1)
          .append(records);
      });
    })
    .appendTaggedFields();
  if (acks === 0) writer.context.noResponse = true;
  return writer;
}

/** Produce over the wire: one request a flush and leader; retries each batch within its deadline. Idempotent: a partition has one batch under way and a
 *  sequence of its own, so a retry is known again; when a batch's fate stays unknown the partition's epoch is raised, which fences a late write of it. */
export class WireProduceDriver implements ProduceDriver {
  readonly #context: LinkContext;
  readonly #metadata: Metadata;
  readonly #connections: Connections;
  readonly #options: CompiledProducerOptions;
  readonly #states = new Map<string, PartitionState>();
  /** Broker -> monotonic ms: it hears nothing from us before (KIP-219). */
  readonly #throttledUntil = new Map<number, number>();
  readonly #closed = new AbortController();
  #producerId: Promise<bigint> | undefined;

  constructor(context: LinkContext, metadata: Metadata, connections: Connections, options: CompiledProducerOptions) {
    this.#context = context;
    this.#metadata = metadata;
    this.#connections = connections;
    this.#options = options;
  }

  warm(topics: readonly string[]): Promise<void> {
    return this.#metadata.require(topics);
  }

  partitions(topic: string): number | undefined {
    return this.#metadata.topic(topic)?.partitions.length;
  }

  lane(topic: string, partition: number): number {
    return this.#metadata.leader(topic, partition);
  }

  async produce(_lane: number, batches: readonly ProduceBatch[]): Promise<readonly ProduceOutcome[]> {
    const attempts: Attempt[] = batches.map((batch) => ({
      batch,
      bytes: undefined,
      attempts: 0,
      maybeWritten: false,
      outcome: undefined,
      lastError: undefined,
    }));
    let backoffMs = BACKOFF_MS.first;
    for (;;) {
      const open = attempts.filter((a) => a.outcome === undefined);
      if (open.length === 0) break;
      await this.#round(open);
      const left = open.filter((a) => a.outcome === undefined);
      if (left.length === 0) break;
      await this.#beforeRetry(left, backoffMs);
      backoffMs = Math.min(backoffMs * 2, BACKOFF_MS.most);
    }
    return attempts.map((a) => a.outcome as ProduceOutcome);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort();
    await this.#connections[Symbol.asyncDispose]();
  }

  /** One try of each batch: those of one leader go in one request. */
  async #round(open: readonly Attempt[]): Promise<void> {
    const byLeader = Map.groupBy(open, ({ batch }) => this.#metadata.leader(batch.topic, batch.partition));
    await Promise.all([...byLeader].map(([leader, attempts]) => this.#send(leader, attempts)));
  }

  async #send(leader: number, attempts: readonly Attempt[]): Promise<void> {
    const where = { doing: `produce to ${topicsOf(attempts)}` } as const;
    const broker = this.#metadata.broker(leader);
    if (!broker) {
      const error = new TurnpikeError('BROKER_UNAVAILABLE', `${topicsOf(attempts)}: the partition has no leader at the moment.`, { retriable: true });
      for (const attempt of attempts) attempt.lastError = error;
      return;
    }
    let connection: Awaited<ReturnType<Connections['get']>>;
    try {
      for (const attempt of attempts) attempt.bytes ??= await this.#encode(attempt.batch);
      connection = await this.#before(attempts, this.#connections.get(broker, 'produce', where));
    } catch (error) {
      for (const attempt of attempts) this.#failed(attempt, asTurnpikeError(error, 'INTERNAL', 'the batch could not be sent.'));
      return;
    }
    const { acks, requestTimeoutMs } = this.#options;
    await this.#unthrottled(leader);
    try {
      for (const attempt of attempts) attempt.attempts++;
      const request = this.#connections.request(connection, produce, [acks === 'all' ? -1 : acks, requestTimeoutMs, dataOf(attempts)], where);
      const response = await this.#before(attempts, request).catch((error: unknown) => {
        // A late answer must find nobody: the batch's fate is settled without it.
        if (error === TOO_LATE) void connection.close().catch(() => {});
        throw error;
      });
      if (acks === 0) for (const attempt of attempts) attempt.outcome = { baseOffset: -1n, attempts: attempt.attempts };
      else this.#settle(leader, attempts, response);
    } catch (error) {
      const response = responseIn<Response>(error);
      if (response !== undefined) this.#settle(leader, attempts, response);
      else
        for (const attempt of attempts) {
          attempt.maybeWritten = true;
          this.#failed(attempt, asTurnpikeError(error, 'INTERNAL', 'the request failed.'));
        }
    }
  }

  /** The first deadline among the batches bounds the wait. */
  async #before<T>(attempts: readonly Attempt[], work: Promise<T>): Promise<T> {
    const { clock } = this.#context;
    const leftMs = Math.min(...attempts.map((a) => a.batch.deadlineMs)) - clock.monotonic();
    const done = new AbortController();
    const late = pause(clock, Math.max(leftMs, 0), done.signal).then(() => {
      if (!done.signal.aborted) throw TOO_LATE;
      return work;
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      done.abort();
    }
  }

  async #unthrottled(leader: number): Promise<void> {
    const { clock } = this.#context;
    const waitMs = (this.#throttledUntil.get(leader) ?? 0) - clock.monotonic();
    if (waitMs > 0) await pause(clock, waitMs, this.#closed.signal);
  }

  #settle(leader: number, attempts: readonly Attempt[], response: Response): void {
    if (response.throttleTimeMs > 0) {
      this.#context.events.throttled(leader, response.throttleTimeMs);
      this.#throttledUntil.set(leader, this.#context.clock.monotonic() + response.throttleTimeMs);
    }
    for (const attempt of attempts) {
      const { topic, partition } = attempt.batch;
      const answer = response.responses.find((r) => r.name === topic)?.partitionResponses.find((p) => p.index === partition);
      if (!answer)
        this.#failed(attempt, new TurnpikeError('INTERNAL', `${topic}/${partition} is missing in the broker's answer; report this.`, { topic, partition }));
      else this.#answered(attempt, answer);
    }
  }

  #answered(attempt: Attempt, answer: PartitionResponse): void {
    const { batch } = attempt;
    const { topic, partition } = batch;
    if (answer.errorCode === 0) {
      this.#advance(batch);
      attempt.outcome = {
        baseOffset: answer.baseOffset,
        attempts: attempt.attempts,
        wireBytes: attempt.bytes?.length ?? batch.bytes,
        ...(answer.logAppendTimeMs >= 0n ? { logAppendTimeMs: Number(answer.logAppendTimeMs) } : {}),
      };
      return;
    }
    const { principal } = this.#context.identity;
    const error = brokerError(answer.errorCode, { doing: `produce to ${topic}`, topic, partition, principal }, answer.errorMessage);
    // Already there, too long ago for the broker to know the offset.
    if (isKafkaError(error, 'DUPLICATE_SEQUENCE_NUMBER')) {
      this.#advance(batch);
      attempt.outcome = { baseOffset: -1n, attempts: attempt.attempts, wireBytes: attempt.bytes?.length ?? batch.bytes };
      return;
    }
    // Written to the leader's log, and perhaps to stay there.
    if (isKafkaError(error, 'NOT_ENOUGH_REPLICAS_AFTER_APPEND', 'REQUEST_TIMED_OUT')) attempt.maybeWritten = true;
    this.#failed(attempt, error);
  }

  /** Ends the batch, unless the error may pass. */
  #failed(attempt: Attempt, error: TurnpikeError): void {
    attempt.lastError = error;
    if (error.retriable && !this.#closed.signal.aborted) return;
    this.#end(attempt, error.withWritten(attempt.maybeWritten ? 'unknown' : 'no'));
  }

  #end(attempt: Attempt, error: TurnpikeError): void {
    const { topic, partition } = attempt.batch;
    const placed = error.facts.topic === undefined ? withPlace(error, topic, partition) : error;
    attempt.outcome = { baseOffset: -1n, attempts: attempt.attempts, error: placed };
    const sequenceLost = isKafkaError(error, 'OUT_OF_ORDER_SEQUENCE_NUMBER', 'UNKNOWN_PRODUCER_ID', 'INVALID_PRODUCER_EPOCH');
    if (attempt.maybeWritten || sequenceLost) this.#raiseEpoch(attempt.batch);
  }

  async #beforeRetry(left: readonly Attempt[], backoffMs: number): Promise<void> {
    const { clock, events } = this.#context;
    for (const attempt of left) {
      if (clock.monotonic() + backoffMs < attempt.batch.deadlineMs) {
        events.retried(attempt.batch.topic, attempt.batch.bytes);
        continue;
      }
      const { topic, partition } = attempt.batch;
      const written = attempt.maybeWritten ? 'unknown' : 'no';
      const last = attempt.lastError;
      const text = `${topic}/${partition}: not acknowledged within the delivery timeout, after ${attempt.attempts} tries; the last: ${last?.message ?? 'no answer'}`;
      this.#end(attempt, new TurnpikeError('DELIVERY_TIMEOUT', text, { cause: last, topic, partition, retriable: true, written }));
    }
    if (left.every((a) => a.outcome !== undefined)) return;
    await pause(clock, backoffMs, this.#closed.signal);
    const waiting = left.filter((a) => a.outcome === undefined);
    const refreshed = this.#metadata.refresh([...new Set(waiting.map((a) => a.batch.topic))]);
    await this.#before(waiting, refreshed).catch(() => {}); // It is asked again at the next try.
  }

  async #encode(batch: ProduceBatch): Promise<Buffer> {
    const state = this.#options.idempotent ? await this.#state(batch) : undefined;
    return encodeBatch(batch.records, this.#options.compression, state);
  }

  async #state({ topic, partition }: ProduceBatch): Promise<ProducerState> {
    const key = `${topic}/${partition}`;
    const known = this.#states.get(key);
    if (known) return known;
    const state = { producerId: await this.#initProducerId(), epoch: 0, sequence: 0 };
    this.#states.set(key, state);
    return state;
  }

  #initProducerId(): Promise<bigint> {
    this.#producerId ??= this.#askProducerId().catch((error: unknown) => {
      this.#producerId = undefined;
      throw error;
    });
    return this.#producerId;
  }

  async #askProducerId(): Promise<bigint> {
    let last: TurnpikeError | undefined;
    for (const address of this.#metadata.addresses()) {
      try {
        const args: Parameters<typeof initProducerIdV4.createRequest> = [null as unknown as string, 0];
        const where = { doing: 'get a producer id', written: 'no' } as const;
        return (await this.#connections.call(address, 'produce', initProducerIdV4.api, args, where)).producerId;
      } catch (error) {
        last = asTurnpikeError(error, 'INTERNAL', 'no producer id');
        if (!last.retriable) throw last;
      }
    }
    throw last ?? new TurnpikeError('BROKER_UNAVAILABLE', 'No broker is known to get a producer id from.', { retriable: true, written: 'no' });
  }

  #advance(batch: ProduceBatch): void {
    const state = this.#states.get(`${batch.topic}/${batch.partition}`);
    // Sequences wrap at 2^31 (KIP-98).
    if (state) state.sequence = (state.sequence + batch.records.length) % 0x8000_0000;
  }

  /** The broker refuses what comes late with the older epoch; the partition begins anew at sequence 0 (KIP-360). */
  #raiseEpoch({ topic, partition }: ProduceBatch): void {
    const key = `${topic}/${partition}`;
    const state = this.#states.get(key);
    if (!state) return;
    if (state.epoch === MAX_EPOCH) {
      this.#producerId = undefined;
      this.#states.delete(key);
      return;
    }
    state.epoch++;
    state.sequence = 0;
  }
}

const topicsOf = (attempts: readonly Attempt[]): string => [...new Set(attempts.map((a) => a.batch.topic))].join(', ');

function dataOf(attempts: readonly Attempt[]): TopicData[] {
  const byTopic = Map.groupBy(attempts, (a) => a.batch.topic);
  return [...byTopic].map(([topic, of]) => ({ topic, partitions: of.map((a) => ({ partition: a.batch.partition, records: a.bytes as Buffer })) }));
}

function withPlace(error: TurnpikeError, topic: string, partition: number): TurnpikeError {
  return new TurnpikeError(error.code, error.message.slice(error.code.length + 3), {
    ...error.facts,
    topic,
    partition,
    cause: error.cause ?? error,
    retriable: error.retriable,
    ...(error.written ? { written: error.written } : {}),
  });
}
