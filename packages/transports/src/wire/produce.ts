import { type Connection, createAPI, initProducerIdV4, produceV9, Writer } from '@platformatic/kafka';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type CompiledProducerOptions, type LinkContext, type ProduceBatch, type ProduceDriver, type ProduceOutcome, pause } from '@turnpike/core/spi';
import { type Attempt, failedWith, flush, isMisfit, leaderless, mayHaveAppended, placed, timeoutOf, withinDeadlines } from './attempts.ts';
import type { Connections } from './connections.ts';
import { brokerError, final, isKafkaError, responseIn } from './errors.ts';
import type { Metadata } from './metadata.ts';
import { encodeBatch, type ProducerState } from './record-batch.ts';

const MAX_EPOCH = 32_767;
const TOO_LATE = new TurnpikeError('BROKER_UNAVAILABLE', 'The broker did not answer before the delivery timeout.', { retriable: true });

interface WireAttempt extends Attempt {
  /** Encoded once: a retry must be the same bytes, so that the broker knows it again. */
  bytes: Buffer | undefined;
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

/** Produce over the wire: one request a flush and leader; what fails in passing is tried again by itself, within its deadline. Idempotent: a partition has one batch under way and a
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

  produce(_lane: number, batches: readonly ProduceBatch[]): Promise<readonly (ProduceOutcome | Promise<ProduceOutcome>)[]> {
    return flush(
      batches,
      () => ({ bytes: undefined as Buffer | undefined }),
      (attempts) => this.#round(attempts),
      async (attempt, backoffMs) => {
        await this.#beforeRetry(attempt, backoffMs);
        if (attempt.outcome === undefined) await this.#round([attempt]);
      },
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort();
    await this.#connections[Symbol.asyncDispose]();
  }

  /** One try of each batch: those of one leader go in one request. Never rejects. */
  async #round(open: readonly WireAttempt[]): Promise<void> {
    const byLeader = Map.groupBy(open, ({ batch }) => this.#metadata.leader(batch.topic, batch.partition));
    await Promise.all([...byLeader].map(([leader, attempts]) => this.#send(leader, attempts)));
  }

  async #send(leader: number, all: readonly WireAttempt[]): Promise<void> {
    const where = { doing: `produce to ${topicsOf(all)}` } as const;
    const broker = this.#metadata.broker(leader);
    if (!broker) {
      for (const attempt of all) this.#failed(attempt, leaderless(attempt.batch, this.#metadata.gone(attempt.batch.topic)));
      return;
    }
    await Promise.all(all.map((attempt) => this.#encode(attempt)));
    const attempts = (await this.#unthrottled(leader, all)).filter((a) => a.bytes !== undefined && a.outcome === undefined);
    if (attempts.length === 0) return;
    let connection: Connection;
    try {
      connection = await this.#within(attempts, this.#connections.get(broker, 'produce', where));
    } catch (error) {
      for (const attempt of attempts)
        if (attempt.outcome === undefined) this.#failed(attempt, asTurnpikeError(error, 'INTERNAL', 'the batch could not be sent.'));
      return;
    }
    const sent = attempts.filter((a) => a.outcome === undefined);
    for (const attempt of sent) {
      attempt.attempts++;
      attempt.inFlight = true;
    }
    await this.#exchange(leader, connection, sent, where);
    for (const attempt of sent) attempt.inFlight = false;
  }

  async #exchange(leader: number, connection: Connection, attempts: readonly WireAttempt[], where: { readonly doing: string }): Promise<void> {
    const { acks, requestTimeoutMs } = this.#options;
    try {
      const request = this.#connections.request(connection, produce, [acks === 'all' ? -1 : acks, requestTimeoutMs, dataOf(attempts)], where);
      const response = await this.#within(attempts, request);
      if (acks !== 0) this.#settle(leader, attempts, response);
      else for (const attempt of attempts) if (attempt.outcome === undefined) this.#conclude(attempt, { baseOffset: -1n, attempts: attempt.attempts });
    } catch (error) {
      const response = responseIn<Response>(error);
      if (response !== undefined) {
        this.#settle(leader, attempts, response);
        return;
      }
      // All are too late: what is still on its way to the broker goes no further.
      if (error === TOO_LATE) this.#connections.discard(connection);
      for (const attempt of attempts) {
        attempt.maybeWritten = true;
        if (attempt.outcome === undefined) this.#failed(attempt, asTurnpikeError(error, 'INTERNAL', 'the request failed.'));
      }
    }
  }

  /** Waits for `work`, and ends each batch at its own deadline meanwhile. Rejects with TOO_LATE when none is left. */
  async #within<T>(attempts: readonly WireAttempt[], work: Promise<T>): Promise<T> {
    const answered = await withinDeadlines(this.#context.clock, attempts, work, (attempt) => this.#timedOut(attempt));
    if (answered === undefined) throw TOO_LATE;
    return answered.value;
  }

  /** Waits as long as the broker has asked for (KIP-219); those whose deadline comes first are left out. */
  async #unthrottled(leader: number, attempts: readonly WireAttempt[]): Promise<readonly WireAttempt[]> {
    const { clock } = this.#context;
    const until = this.#throttledUntil.get(leader) ?? 0;
    const waitMs = until - clock.monotonic();
    if (waitMs <= 0) return attempts;
    const patient: WireAttempt[] = [];
    for (const attempt of attempts) {
      if (attempt.batch.deadlineMs > until) patient.push(attempt);
      else
        attempt.lastError = new TurnpikeError(
          'BROKER_UNAVAILABLE',
          `The broker throttles this client for ${Math.ceil(waitMs)} ms: it is over the broker's quota.`,
          { retriable: true },
        );
    }
    if (patient.length > 0) await pause(clock, waitMs, this.#closed.signal);
    return patient;
  }

  #settle(leader: number, attempts: readonly WireAttempt[], response: Response): void {
    if (response.throttleTimeMs > 0) {
      this.#context.events.throttled(leader, response.throttleTimeMs);
      this.#throttledUntil.set(leader, this.#context.clock.monotonic() + response.throttleTimeMs);
    }
    for (const attempt of attempts) {
      if (attempt.outcome !== undefined) continue; // Its deadline came first.
      const { topic, partition } = attempt.batch;
      const answer = response.responses.find((r) => r.name === topic)?.partitionResponses.find((p) => p.index === partition);
      if (answer) this.#answered(attempt, answer);
      else {
        attempt.maybeWritten = true;
        this.#failed(attempt, new TurnpikeError('INTERNAL', `${topic}/${partition} is missing in the broker's answer; report this.`, { topic, partition }));
      }
    }
  }

  #answered(attempt: WireAttempt, answer: PartitionResponse): void {
    attempt.inFlight = false;
    const { batch, attempts } = attempt;
    const { topic, partition } = batch;
    const wireBytes = attempt.bytes?.length ?? batch.bytes;
    if (answer.errorCode === 0) {
      this.#advance(batch);
      const logAppendTimeMs = answer.logAppendTimeMs >= 0n ? { logAppendTimeMs: Number(answer.logAppendTimeMs) } : {};
      this.#conclude(attempt, { baseOffset: answer.baseOffset, attempts, wireBytes, ...logAppendTimeMs });
      return;
    }
    const { principal } = this.#context.identity;
    const reason = answer.errorMessage ?? answer.recordErrors[0]?.batchIndexErrorMessage;
    const error = brokerError(answer.errorCode, { doing: `produce to ${topic}`, topic, partition, principal }, reason);
    if (isKafkaError(error, 'DUPLICATE_SEQUENCE_NUMBER')) {
      // Already there, too long ago for the broker to know the offset.
      this.#advance(batch);
      this.#conclude(attempt, { baseOffset: -1n, attempts, wireBytes });
    } else if (isMisfit(error) && !attempt.maybeWritten) {
      this.#startAnew(attempt, error);
    } else {
      if (mayHaveAppended(error)) attempt.maybeWritten = true;
      this.#failed(
        attempt,
        error,
        answer.recordErrors.map((r) => r.batchIndex),
      );
    }
  }

  /** The broker has forgotten this producer, or knows less of it than we do (an unclean election), and nothing of the batch is there: it goes again at the head of a new sequence. */
  #startAnew(attempt: WireAttempt, error: TurnpikeError): void {
    const { batch } = attempt;
    attempt.lastError = error;
    attempt.bytes = undefined;
    attempt.misfits++;
    if (attempt.misfits === 1) this.#raiseEpoch(batch);
    else this.#forgetProducer(batch);
  }

  /** Ends the batch, unless the error may pass. */
  #failed(attempt: WireAttempt, error: TurnpikeError, rejected: readonly number[] = []): void {
    const { unknownTooLong } = failedWith(attempt, error, this.#context.clock.monotonic());
    if (error.retriable && !unknownTooLong && !this.#closed.signal.aborted) return;
    this.#end(attempt, final(error).withWritten(attempt.maybeWritten ? 'unknown' : 'no'), rejected);
  }

  #timedOut(attempt: WireAttempt): void {
    this.#end(attempt, timeoutOf(attempt, attempt.attempts));
  }

  #end(attempt: WireAttempt, error: TurnpikeError, rejected: readonly number[] = []): void {
    const { batch, attempts } = attempt;
    if (attempt.maybeWritten || attempt.inFlight || isMisfit(error)) this.#raiseEpoch(batch);
    this.#conclude(attempt, { baseOffset: -1n, attempts, error: placed(error, batch), ...(rejected.length > 0 ? { rejected } : {}) });
    attempt.onLate();
  }

  #conclude(attempt: WireAttempt, outcome: ProduceOutcome): void {
    attempt.outcome = outcome;
    attempt.done.resolve(outcome);
  }

  async #beforeRetry(attempt: WireAttempt, backoffMs: number): Promise<void> {
    const { clock, events } = this.#context;
    const { topic, bytes, deadlineMs } = attempt.batch;
    const leftMs = deadlineMs - clock.monotonic();
    await pause(clock, Math.max(0, Math.min(backoffMs, leftMs)), this.#closed.signal);
    if (leftMs <= backoffMs) {
      this.#timedOut(attempt);
      return;
    }
    await this.#within([attempt], this.#metadata.refresh([topic])).catch(() => {}); // It is asked again at the next try.
    if (attempt.outcome === undefined) events.retried(topic, bytes);
  }

  async #encode(attempt: WireAttempt): Promise<void> {
    if (attempt.bytes !== undefined) return;
    const { batch } = attempt;
    try {
      const state = this.#options.idempotent ? await this.#within([attempt], this.#state(batch)) : undefined;
      attempt.bytes = encodeBatch(batch.records, this.#options.compression, state);
    } catch (error) {
      if (attempt.outcome === undefined)
        this.#failed(attempt, asTurnpikeError(error, 'INTERNAL', `${batch.topic}: the batch could not be encoded; report this.`));
    }
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
      this.#forgetProducer({ topic, partition });
      return;
    }
    state.epoch++;
    state.sequence = 0;
  }

  /** The partition's next batch asks for a producer id of its own. */
  #forgetProducer({ topic, partition }: { readonly topic: string; readonly partition: number }): void {
    this.#producerId = undefined;
    this.#states.delete(`${topic}/${partition}`);
  }
}

const topicsOf = (attempts: readonly WireAttempt[]): string => [...new Set(attempts.map((a) => a.batch.topic))].join(', ');

function dataOf(attempts: readonly WireAttempt[]): TopicData[] {
  const byTopic = Map.groupBy(attempts, (a) => a.batch.topic);
  return [...byTopic].map(([topic, of]) => ({ topic, partitions: of.map((a) => ({ partition: a.batch.partition, records: a.bytes as Buffer })) }));
}
