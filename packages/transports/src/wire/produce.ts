import type { Connection } from '@platformatic/kafka';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type CompiledProducerOptions, type LinkContext, type ProduceBatch, type ProduceDriver, type ProduceOutcome, pause } from '@turnpike/core/spi';
import { type Attempt, failedWith, flush, isMisfit, leaderless, mayHaveAppended, placed, timeoutOf, withinDeadlines } from './attempts.ts';
import { type BatchSequence, compressBatch, sealBatch } from './batch-writer.ts';
import type { Connections } from './connections.ts';
import { brokerError, final, isKafkaError } from './errors.ts';
import type { Metadata } from './metadata.ts';
import { type ProducedPartition, type ProduceResponse, produceApi } from './produce-request.ts';
import { Sequences } from './sequences.ts';
import type { WireTransactions } from './transaction.ts';

const TOO_LATE = new TurnpikeError('BROKER_UNAVAILABLE', 'The broker did not answer before the delivery timeout.', { retriable: true });

interface WireState {
  /** As it goes out; undefined = it must be sealed first. */
  sealed: Buffer | undefined;
  /** How often the quota was charged for it beyond its first try. */
  charges: number;
  sequence: BatchSequence | undefined;
  before: WireAttempt | undefined;
}

type WireAttempt = Attempt & WireState;

const newState = (): WireState => ({ sealed: undefined, charges: 0, sequence: undefined, before: undefined });

/** Produce over the wire: one request a flush and leader; what fails in passing is tried again by itself, within its deadline. Idempotent: a partition's batches have sequences, so a retry is known again, and
 *  several may be under way: whatever becomes of one, none comes to stand before it. */
export class WireProduceDriver implements ProduceDriver {
  readonly copies = true;
  readonly transaction?: WireTransactions;
  readonly #context: LinkContext;
  readonly #metadata: Metadata;
  readonly #connections: Connections;
  readonly #options: CompiledProducerOptions;
  readonly #sequences: Sequences<WireAttempt>;
  /** Broker -> monotonic ms: it hears nothing from us before (KIP-219). */
  readonly #throttledUntil = new Map<number, number>();
  readonly #closed = new AbortController();

  constructor(context: LinkContext, metadata: Metadata, connections: Connections, options: CompiledProducerOptions, transaction?: WireTransactions) {
    if (transaction) this.transaction = transaction;
    this.#context = context;
    this.#metadata = metadata;
    this.#connections = connections;
    this.#options = options;
    this.#sequences = new Sequences(metadata, connections);
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

  prepare(batch: ProduceBatch): number | Promise<number> {
    return compressBatch(batch, this.#options.compression);
  }

  pipelines(topic: string, partition: number, underWay: number): boolean {
    return this.#isSequenced && this.#sequences.at(topic, partition).pipelines(underWay);
  }

  produce(_lane: number, batches: readonly ProduceBatch[]): Promise<readonly (ProduceOutcome | Promise<ProduceOutcome>)[]> {
    return flush(
      batches,
      newState,
      (attempts) => this.#round(attempts),
      (attempt, backoffMs) => this.#again(attempt, backoffMs),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort();
    this.transaction?.close();
    await this.#connections[Symbol.asyncDispose]();
  }

  get #isSequenced(): boolean {
    return this.#options.idempotent || this.transaction !== undefined;
  }

  /** One try of each batch: those of one leader go in one request. Never rejects. */
  async #round(open: readonly WireAttempt[]): Promise<void> {
    const byLeader = Map.groupBy(open, ({ batch }) => this.#metadata.leader(batch.topic, batch.partition));
    await Promise.all([...byLeader].map(([leader, attempts]) => this.#send(leader, attempts)));
  }

  async #again(attempt: WireAttempt, backoffMs: number): Promise<void> {
    const { before } = attempt;
    this.#sequences.at(attempt.batch.topic, attempt.batch.partition).trouble();
    if (before) {
      await before.done.promise;
      if (attempt.outcome !== undefined) return;
      // Nothing can be written behind a gap; in which sequence it goes now, only the next try knows.
      if (leftGap(before) && (!attempt.maybeWritten || isUnwritten(before))) return this.#displaced(attempt);
    }
    await this.#beforeRetry(attempt, backoffMs);
    if (attempt.outcome === undefined) await this.#round([attempt]);
  }

  async #send(leader: number, all: readonly WireAttempt[]): Promise<void> {
    const where = { doing: `produce to ${topicsOf(all)}` } as const;
    const broker = this.#metadata.broker(leader);
    if (!broker) {
      for (const attempt of all) this.#failed(attempt, leaderless(attempt.batch, this.#metadata.gone(attempt.batch.topic)));
      return;
    }
    const unready = all.filter((attempt) => !this.#seal(attempt));
    if (unready.length > 0) await Promise.all(unready.map((attempt) => this.#sealLater(attempt)));
    const patient = this.#throttledUntil.has(leader) ? await this.#unthrottled(leader, all) : all;
    const attempts = patient.filter((a) => a.sealed !== undefined && a.outcome === undefined);
    if (attempts.length === 0) return;
    let connection: Connection;
    try {
      connection = await this.#within(attempts, this.#connections.get(broker, 'produce', { doing: 'produce' }));
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
    const { requestTimeoutMs, transactionalId } = this.#options;
    const acks = this.transaction ? 'all' : this.#options.acks;
    const batches = () => {
      const open = attempts.filter((a) => a.outcome === undefined);
      if (open.length === 0) throw TOO_LATE;
      return open.map(({ batch: { topic, partition }, sealed }) => ({ topic, partition, sealed: sealed as Buffer }));
    };
    try {
      const request = { acks: acks === 'all' ? -1 : acks, timeoutMs: requestTimeoutMs, transactionalId, batches };
      const response = await this.#within(attempts, this.#connections.request(connection, produceApi, [request], where));
      if (acks !== 0) this.#settle(leader, attempts, response);
      else for (const attempt of attempts) if (attempt.outcome === undefined) this.#conclude(attempt, { baseOffset: -1n, attempts: attempt.attempts });
    } catch (error) {
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
    if (waitMs <= 0) {
      this.#throttledUntil.delete(leader);
      return attempts;
    }
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

  #settle(leader: number, attempts: readonly WireAttempt[], response: ProduceResponse): void {
    if (response.throttleTimeMs > 0) {
      this.#context.events.throttled(leader, response.throttleTimeMs);
      this.#throttledUntil.set(leader, this.#context.clock.monotonic() + response.throttleTimeMs);
    }
    for (const [i, attempt] of attempts.entries()) {
      if (attempt.outcome !== undefined) continue; // Its deadline came first.
      const { topic, partition } = attempt.batch;
      const about = (p: ProducedPartition | undefined) => p?.partition === partition && p.topic === topic;
      // Nearly always in the order of the request.
      const answer = about(response.partitions[i]) ? response.partitions[i] : response.partitions.find(about);
      if (answer) this.#answered(attempt, answer);
      else {
        attempt.maybeWritten = true;
        this.#failed(attempt, new TurnpikeError('INTERNAL', `${topic}/${partition} is missing in the broker's answer; report this.`, { topic, partition }));
      }
    }
  }

  #answered(attempt: WireAttempt, answer: ProducedPartition): void {
    attempt.inFlight = false;
    const { batch, attempts, sealed } = attempt;
    const wireBytes = sealed?.length ?? batch.bytes;
    if (answer.errorCode === 0) {
      const logAppendTime = answer.logAppendTimeMs >= 0 ? { logAppendTimeMs: answer.logAppendTimeMs } : {};
      this.#written(attempt, { baseOffset: answer.baseOffset, attempts, wireBytes, ...logAppendTime });
      return;
    }
    const { topic, partition } = batch;
    const { principal } = this.#context.identity;
    const error = brokerError(answer.errorCode, { doing: `produce to ${topic}`, topic, partition, principal }, answer.message);
    // Already there, too long ago for the broker to know the offset.
    if (isKafkaError(error, 'DUPLICATE_SEQUENCE_NUMBER')) this.#written(attempt, { baseOffset: -1n, attempts, wireBytes });
    else if (this.transaction && error.code === 'PRODUCER_FENCED') this.#failed(attempt, this.transaction.seen(error));
    else if (isMisfit(error)) this.#misfit(attempt, error);
    else {
      if (mayHaveAppended(error)) attempt.maybeWritten = true;
      this.#failed(attempt, error, answer.rejected);
    }
  }

  #written(attempt: WireAttempt, outcome: ProduceOutcome): void {
    this.#sequences.at(attempt.batch.topic, attempt.batch.partition).written(attempt);
    this.#conclude(attempt, outcome);
  }

  /** The broker finds its sequence or epoch wrong. */
  #misfit(attempt: WireAttempt, error: TurnpikeError): void {
    const { before } = attempt;
    if (before && before.outcome === undefined)
      attempt.lastError = error; // It came before the one that stands before it: it goes again after that.
    else if (before && leftGap(before) && (!attempt.maybeWritten || isUnwritten(before))) this.#displaced(attempt);
    else if (attempt.maybeWritten || this.transaction) this.#failed(attempt, error);
    else this.#startAnew(attempt, error);
  }

  /** The broker has forgotten this producer, or knows less of it than we do (an unclean election), and nothing of the batch is there: it goes again at the head of a new sequence. */
  #startAnew(attempt: WireAttempt, error: TurnpikeError): void {
    attempt.lastError = error;
    attempt.misfits++;
    this.#sequences.startAnew(attempt, attempt.misfits > 1);
  }

  /** Not written, since the one before it was not: it goes again behind what becomes of that. */
  #displaced(attempt: WireAttempt): void {
    this.#sequences.at(attempt.batch.topic, attempt.batch.partition).unwritten(attempt);
    this.#conclude(attempt, { baseOffset: -1n, attempts: attempt.attempts, again: true });
    attempt.onLate();
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
    const hasLostItsPlace = attempt.maybeWritten || attempt.inFlight || isMisfit(error);
    if (hasLostItsPlace && this.transaction) this.transaction.spoil(error);
    else if (hasLostItsPlace) this.#sequences.raiseEpoch(batch);
    else this.#sequences.at(batch.topic, batch.partition).unwritten(attempt);
    this.#conclude(attempt, { baseOffset: -1n, attempts, error: placed(error, batch), ...(rejected.length > 0 ? { rejected } : {}) });
    attempt.onLate();
  }

  #conclude(attempt: WireAttempt, outcome: ProduceOutcome): void {
    const { batch, charges } = attempt;
    if (charges > 0 && (outcome.again || outcome.error?.written === 'no'))
      this.#context.gate.refund(batch.topic, batch.count * charges, (batch.compressed?.length ?? batch.bytes) * charges);
    this.#sequences.at(batch.topic, batch.partition).left(attempt);
    attempt.outcome = outcome;
    attempt.before = undefined; // What ended long ago must not be kept by those that came after it.
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
    await this.#charge(attempt);
    if (attempt.outcome === undefined) events.retried(topic, bytes);
  }

  /** Each try goes out over the network, and is paid for. */
  async #charge(attempt: WireAttempt): Promise<void> {
    const { clock, gate } = this.#context;
    const { topic, count, compressed, bytes, deadlineMs } = attempt.batch;
    while (attempt.outcome === undefined && !this.#closed.signal.aborted) {
      const waitMs = gate.admit(topic, count, compressed?.length ?? bytes);
      if (waitMs === 0) {
        attempt.charges++;
        return;
      }
      const leftMs = deadlineMs - clock.monotonic();
      await pause(clock, Math.min(waitMs, Math.max(leftMs, 0)), this.#closed.signal);
      if (leftMs <= waitMs) this.#timedOut(attempt);
    }
  }

  /** Seals the batch where that can be done at once; false = its producer id isn't known yet. */
  #seal(attempt: WireAttempt): boolean {
    const { batch } = attempt;
    if (!this.#isSequenced) {
      attempt.sealed ??= this.#sealed(attempt);
      return true;
    }
    const sequence = this.#sequences.at(batch.topic, batch.partition);
    if (this.transaction) {
      const producer = this.transaction.producerOf(batch.topic, batch.partition);
      if (!producer) return false;
      sequence.adopt(producer.producerId, producer.epoch);
    } else if (sequence.producerId === undefined) return false;
    if (sequence.place(attempt) || attempt.sealed === undefined) attempt.sealed = this.#sealed(attempt);
    return true;
  }

  async #sealLater(attempt: WireAttempt): Promise<void> {
    const { topic, partition } = attempt.batch;
    try {
      await this.#within<unknown>([attempt], this.transaction?.enter(topic, partition) ?? this.#sequences.open(topic, partition));
      if (attempt.outcome === undefined) this.#seal(attempt);
    } catch (error) {
      if (attempt.outcome === undefined) this.#failed(attempt, asTurnpikeError(error, 'INTERNAL', `${topic}: no producer id could be had.`));
    }
  }

  #sealed(attempt: WireAttempt): Buffer | undefined {
    const { batch, sequence } = attempt;
    try {
      return sealBatch(batch, this.#options.compression, sequence, this.#options.transactionalId !== undefined);
    } catch (error) {
      this.#failed(attempt, asTurnpikeError(error, 'INTERNAL', `${batch.topic}: the batch could not be compressed; report this.`));
      return undefined;
    }
  }
}

/** It ended without an acknowledgement: what went behind it may stand behind a gap. */
const leftGap = ({ outcome }: WireAttempt): boolean => outcome?.error !== undefined || outcome?.again === true;
/** It certainly isn't there: neither is what went behind it. */
const isUnwritten = ({ outcome }: WireAttempt): boolean => outcome?.error?.written === 'no' || outcome?.again === true;
const topicsOf = (attempts: readonly WireAttempt[]): string => [...new Set(attempts.map((a) => a.batch.topic))].join(', ');
