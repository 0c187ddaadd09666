import { isTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type CompiledProducerOptions, type LinkContext, type ProduceBatch, type ProduceDriver, type ProduceOutcome, pause } from '@turnpike/core/spi';
import { type Attempt, failedWith, flush, isMisfit, leaderless, mayHaveAppended, placed, timeoutOf, withinDeadlines } from '../wire/attempts.ts';
import type { Control } from '../wire/control.ts';
import { brokerError, final, isKafkaError } from '../wire/errors.ts';
import { translateLibrary } from './errors.ts';
import { closedError, Sender, type SenderParts, type Sent } from './sender.ts';
import { KafkajsTransaction } from './transaction.ts';

interface KafkajsAttempt extends Attempt {
  /** Whose sequences its first try took: a retry must be known again. */
  sender: { readonly sender: Sender; readonly done: () => void } | undefined;
}

export interface ProduceParts extends SenderParts {
  readonly control: Control;
}

/** Produce through kafkajs: one request a flush and leader, one try a call, so that deadlines and retries are ours.
 *
 *  kafkajs rejects a request as a whole when one of its partitions is refused, and takes back the sequences of all. So each batch then goes again by itself, with the sequence that it had: the broker answers
 *  what it has already with its offset. A batch whose fate stays unknown ends its sender: a later batch with its sequence would be taken for it, and be lost in silence. Without idempotence a batch
 *  that is sent again stands there twice, so there each batch has a request of its own from the start. */
export class KafkajsProduceDriver implements ProduceDriver {
  readonly transaction?: KafkajsTransaction;
  readonly #parts: ProduceParts;
  readonly #context: LinkContext;
  readonly #control: Control;
  readonly #options: CompiledProducerOptions;
  readonly #closed = new AbortController();
  readonly #senders = new Set<Sender>();
  #sender: Sender | undefined;

  constructor(parts: ProduceParts) {
    this.#parts = parts;
    this.#context = parts.context;
    this.#control = parts.control;
    this.#options = parts.options;
    const { transactionalId } = parts.options;
    if (transactionalId !== undefined)
      this.transaction = new KafkajsTransaction({
        control: parts.control,
        context: parts.context,
        transactionalId,
        timeoutMs: parts.options.requestTimeoutMs,
        sender: () => this.#current(),
        renew: () => this.#renew(),
      });
  }

  warm(topics: readonly string[]): Promise<void> {
    return this.#control.metadata.require(topics);
  }

  partitions(topic: string): number | undefined {
    return this.#control.metadata.topic(topic)?.partitions.length;
  }

  lane(topic: string, partition: number): number {
    return this.#control.metadata.leader(topic, partition);
  }

  produce(_lane: number, batches: readonly ProduceBatch[]): Promise<readonly (ProduceOutcome | Promise<ProduceOutcome>)[]> {
    return flush(
      batches,
      (): Pick<KafkajsAttempt, 'sender'> => ({ sender: undefined }),
      (attempts) => this.#first(attempts),
      async (attempt, backoffMs) => {
        await this.#beforeRetry(attempt, backoffMs);
        if (attempt.outcome === undefined && this.#hasLeader(attempt)) await this.#send(attempt);
      },
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort();
    for (const sender of this.#senders) sender.close();
  }

  async #first(attempts: readonly KafkajsAttempt[]): Promise<void> {
    const { idempotent, transactionalId } = this.#options;
    const open = attempts.filter((a) => this.#hasLeader(a));
    if (open.length > 1 && (idempotent || transactionalId !== undefined)) await this.#sendTogether(open);
    await Promise.all(open.filter((a) => a.outcome === undefined).map((a) => this.#send(a)));
  }

  async #beforeRetry(attempt: KafkajsAttempt, backoffMs: number): Promise<void> {
    const { clock, events } = this.#context;
    const { batch } = attempt;
    if (this.#closed.signal.aborted) return this.#end(attempt, closedError().withWritten(attempt.maybeWritten ? 'unknown' : 'no'));
    const leftMs = batch.deadlineMs - clock.monotonic();
    if (leftMs <= 0) return this.#timedOut(attempt);
    await pause(clock, Math.min(backoffMs, leftMs), this.#closed.signal);
    if (attempt.outcome !== undefined) return;
    if (batch.deadlineMs <= clock.monotonic()) return this.#timedOut(attempt);
    if (this.#closed.signal.aborted) return;
    events.retried(batch.topic, batch.bytes);
    // Most failures that pass mean that the leader is another; without an answer within the deadline the old knowledge has to do.
    await this.#within(
      [attempt],
      this.#control.metadata.refresh([batch.topic]).catch(() => undefined),
    );
  }

  /** Ends this try where there is nobody to send it to. */
  #hasLeader(attempt: KafkajsAttempt): boolean {
    const { topic, partition } = attempt.batch;
    const { metadata } = this.#control;
    if (metadata.leader(topic, partition) >= 0) return true;
    this.#failed(attempt, leaderless(attempt.batch, metadata.gone(topic)));
    return false;
  }

  /** One request for all. Its success is everybody's; after its failure each goes by itself: those that were taken too, since kafkajs has taken back their sequences. */
  async #sendTogether(attempts: readonly KafkajsAttempt[]): Promise<void> {
    const sent = await this.#exchange(attempts);
    if (sent === undefined) return;
    if (sent.error === undefined) {
      for (const attempt of attempts) if (attempt.outcome === undefined) this.#answered(attempt, sent);
      return;
    }
    for (const attempt of attempts) {
      const error = this.#errorOf(attempt, sent);
      attempt.lastError = error ?? attempt.lastError;
      if (sent.left && (error === undefined || leavesOpen(error, sent.code(attempt.batch)))) attempt.maybeWritten = true;
    }
  }

  /** undefined = the broker has taken it, though kafkajs says that the request has failed. */
  #errorOf({ batch: { topic, partition } }: KafkajsAttempt, sent: Sent): TurnpikeError | undefined {
    const where = { doing: `produce to ${topic}`, topic, partition, principal: this.#context.identity.principal };
    const code = sent.code({ topic, partition });
    if (code === 0) return undefined;
    // Before what kafkajs threw, which may be what it met when it then asked for the leaders.
    return code === undefined ? translateLibrary(sent.error, where) : Object.assign(brokerError(code, where), { cause: sent.error });
  }

  async #send(attempt: KafkajsAttempt): Promise<void> {
    const sent = await this.#exchange([attempt]);
    if (sent === undefined || attempt.outcome !== undefined) return;
    if (sent.error === undefined) this.#answered(attempt, sent);
    else this.#refused(attempt, sent);
  }

  /** Hands the batches to kafkajs, once. undefined = all have ended meanwhile, or the sender could not be had. */
  async #exchange(attempts: readonly KafkajsAttempt[]): Promise<Sent | undefined> {
    try {
      const sender = attempts[0]?.sender?.sender ?? this.#current();
      for (const attempt of attempts) attempt.sender ??= { sender, done: sender.use() };
      if (
        (await this.#within(
          attempts,
          sender.ready().then(() => true),
        )) === undefined
      )
        return undefined;
      const via = this.transaction ? this.transaction.open : sender.producer;
      const open = attempts.filter((a) => a.outcome === undefined);
      for (const attempt of open) attempt.inFlight = true;
      const sent = await this.#within(
        open,
        sender.send(
          via,
          open.map(({ batch }) => batch),
        ),
      );
      for (const attempt of open) {
        attempt.inFlight = false;
        if (sent === undefined || sent.left) attempt.attempts++;
      }
      return sent;
    } catch (error) {
      const ours = translateLibrary(error, { doing: 'connect the producer', principal: this.#context.identity.principal });
      // kafkajs masks why it gets no connection.
      const why = ours.retriable || isTurnpikeError(error) ? ours : ((await this.#control.refusal().catch(() => undefined)) ?? ours);
      for (const attempt of attempts) if (attempt.outcome === undefined) this.#failed(attempt, why);
      return undefined;
    }
  }

  /** Waits for `work`, and ends each batch at its own deadline meanwhile; undefined when none is left. */
  async #within<T>(attempts: readonly KafkajsAttempt[], work: Promise<T>): Promise<T | undefined> {
    return (await withinDeadlines(this.#context.clock, attempts, work, (attempt) => this.#timedOut(attempt)))?.value;
  }

  #answered(attempt: KafkajsAttempt, { metadata }: Sent): void {
    const { topic, partition } = attempt.batch;
    const { attempts } = attempt;
    if (this.#options.acks === 0) {
      this.#conclude(attempt, { baseOffset: -1n, attempts });
      return;
    }
    const answer = metadata.find((m) => m.topicName === topic && m.partition === partition);
    if (answer) {
      const logAppendTime = Number(answer.logAppendTime ?? -1);
      this.#conclude(attempt, { baseOffset: BigInt(answer.baseOffset ?? -1), attempts, ...(logAppendTime >= 0 ? { logAppendTimeMs: logAppendTime } : {}) });
      return;
    }
    this.#failed(
      attempt,
      new TurnpikeError('BROKER_UNAVAILABLE', `${topic}/${partition} is missing in the broker's answer.`, { topic, partition, retriable: true }),
    );
  }

  #refused(attempt: KafkajsAttempt, sent: Sent): void {
    const code = sent.code(attempt.batch);
    const error = this.#errorOf(attempt, sent) ?? translateLibrary(sent.error, { doing: `produce to ${attempt.batch.topic}` });
    // What is wrong with the records themselves was so at the first try too.
    const before = attempt.maybeWritten && !isKafkaError(error, ...ALWAYS_REFUSED);
    attempt.maybeWritten = before || (sent.left && leavesOpen(error, code));
    if (isKafkaError(error, 'DUPLICATE_SEQUENCE_NUMBER')) {
      // Already there, too long ago for the broker to know the offset; kafkajs has taken its sequence back.
      this.#retire(attempt);
      this.#conclude(attempt, { baseOffset: -1n, attempts: attempt.attempts });
    } else if (isMisfit(error) && !before && !this.transaction) {
      // Nothing of it is there: it goes again, at the head of a new sequence.
      attempt.maybeWritten = false;
      attempt.misfits++;
      this.#retire(attempt);
      this.#leave(attempt);
      if (attempt.misfits > 2) this.#end(attempt, error.withWritten('no'));
      else attempt.lastError = error;
    } else this.#failed(attempt, error);
  }

  /** Ends the batch, unless the error may pass. */
  #failed(attempt: KafkajsAttempt, error: TurnpikeError): void {
    const { unknownTooLong } = failedWith(attempt, error, this.#context.clock.monotonic());
    // A transaction that follows another at once: the markers of the last are still being written.
    const passes = error.retriable || isKafkaError(error, 'CONCURRENT_TRANSACTIONS');
    if (passes && !unknownTooLong && !this.#closed.signal.aborted) return;
    // kafkajs asks for all the topics it was ever given, and one that is gone or denied fails the answer for all.
    if (error.code === 'TOPIC_UNKNOWN' || error.code === 'AUTHORIZATION_FAILED') this.#retire(attempt);
    this.#end(attempt, final(error).withWritten(attempt.maybeWritten ? 'unknown' : 'no'));
  }

  #timedOut(attempt: KafkajsAttempt): void {
    this.#end(attempt, timeoutOf(attempt, attempt.attempts + (attempt.inFlight ? 1 : 0)));
  }

  #end(attempt: KafkajsAttempt, error: TurnpikeError): void {
    const { batch } = attempt;
    const attempts = attempt.attempts + (attempt.inFlight ? 1 : 0);
    if (attempt.maybeWritten || attempt.inFlight || isMisfit(error)) this.#retire(attempt);
    if (this.transaction) this.transaction.spoilt(error);
    this.#conclude(attempt, { baseOffset: -1n, attempts, error: placed(error, batch) });
    attempt.onLate();
  }

  #conclude(attempt: KafkajsAttempt, outcome: ProduceOutcome): void {
    if (attempt.outcome !== undefined) return;
    attempt.outcome = outcome;
    this.#leave(attempt);
    attempt.done.resolve(outcome);
  }

  #leave(attempt: KafkajsAttempt): void {
    attempt.sender?.done();
    attempt.sender = undefined;
  }

  /** Where its sequences can't be trusted any more. Within a transaction it stays until that is aborted. */
  #retire(attempt: KafkajsAttempt): void {
    if (this.transaction) this.transaction.distrust();
    else attempt.sender?.sender.retire();
  }

  #current(): Sender {
    if (this.#closed.signal.aborted) throw closedError();
    if (this.#sender && !this.#sender.retired) return this.#sender;
    for (const sender of this.#senders) if (sender.closed) this.#senders.delete(sender);
    this.#sender = new Sender(this.#parts);
    this.#senders.add(this.#sender);
    return this.#sender;
  }

  #renew(): void {
    this.#sender?.retire();
    this.#sender = undefined;
  }
}

/** Of a request that has left. */
const leavesOpen = (error: TurnpikeError, code: number | undefined): boolean => code === undefined || mayHaveAppended(error);

/** What a broker finds wrong with the records themselves, whenever they come. */
const ALWAYS_REFUSED = ['MESSAGE_TOO_LARGE', 'RECORD_LIST_TOO_LARGE', 'INVALID_RECORD', 'INVALID_TIMESTAMP', 'CORRUPT_MESSAGE'] as const;
