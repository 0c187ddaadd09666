import { TurnpikeError } from '@turnpike/core';
import { type Clock, type ProduceBatch, type ProduceOutcome, withoutCode } from '@turnpike/core/spi';
import { isKafkaError } from './errors.ts';

/** How the wait between two tries of a batch grows, in ms. */
const BACKOFF_MS = { first: 50, most: 1_000 };
/** A topic that a leader doesn't know may have moved, or be made again: for so long that is waited for, in ms. */
const UNKNOWN_TOPIC_PATIENCE_MS = 5_000;

/** A batch on its way: what is kept of it between tries. */
export interface Attempt {
  readonly batch: ProduceBatch;
  attempts: number;
  /** It went out and no answer says that it was not written. */
  maybeWritten: boolean;
  /** A request with it waits for its answer. */
  inFlight: boolean;
  outcome: ProduceOutcome | undefined;
  lastError: TurnpikeError | undefined;
  /** How often the broker found its sequence or epoch wrong. */
  misfits: number;
  /** Monotonic ms since when its topic is unknown. */
  unknownSinceMs: number | undefined;
  readonly done: PromiseWithResolvers<ProduceOutcome>;
  /** Told when it has ended before its request has. */
  readonly onLate: () => void;
}

const newAttempt = (batch: ProduceBatch, onLate: () => void): Attempt => ({
  batch,
  attempts: 0,
  maybeWritten: false,
  inFlight: false,
  outcome: undefined,
  lastError: undefined,
  misfits: 0,
  unknownSinceMs: undefined,
  done: Promise.withResolvers(),
  onLate,
});

/** One flush, as `ProduceDriver.produce()` answers it: the first try of all, then each that has not ended again by itself, so that none waits for the leader of another. */
export async function flush<More extends object>(
  batches: readonly ProduceBatch[],
  more: () => More,
  first: (attempts: readonly (Attempt & More)[]) => Promise<void>,
  again: (attempt: Attempt & More, backoffMs: number) => Promise<void>,
): Promise<readonly (ProduceOutcome | Promise<ProduceOutcome>)[]> {
  const free = Promise.withResolvers<void>();
  const attempts = batches.map((batch) => ({ ...newAttempt(batch, free.resolve), ...more() }));
  const retry = async (attempt: Attempt & More): Promise<void> => {
    for (let backoffMs = BACKOFF_MS.first; attempt.outcome === undefined; backoffMs = Math.min(backoffMs * 2, BACKOFF_MS.most)) await again(attempt, backoffMs);
  };
  void first(attempts).then(() => {
    for (const attempt of attempts) if (attempt.outcome === undefined) void retry(attempt);
    free.resolve();
  });
  await free.promise;
  return attempts.map((a) => a.outcome ?? a.done.promise);
}

/** Waits for `work`, and ends each batch at its own deadline meanwhile; undefined when none is left. */
export function withinDeadlines<A extends Attempt, T>(
  clock: Clock,
  attempts: readonly A[],
  work: Promise<T>,
  timedOut: (attempt: A) => void,
): Promise<{ readonly value: T } | undefined> {
  return new Promise((resolve, reject) => {
    let timer: Disposable | undefined;
    const arm = (): void => {
      let earliest = Number.POSITIVE_INFINITY;
      for (const { outcome, batch } of attempts) if (outcome === undefined && batch.deadlineMs < earliest) earliest = batch.deadlineMs;
      if (earliest === Number.POSITIVE_INFINITY) resolve(undefined);
      else timer = clock.after(Math.max(0, earliest - clock.monotonic()), watch, { holds: true });
    };
    const watch = (): void => {
      const now = clock.monotonic();
      for (const attempt of attempts) if (attempt.outcome === undefined && attempt.batch.deadlineMs <= now) timedOut(attempt);
      arm();
    };
    arm();
    work.then(
      (value) => {
        timer?.[Symbol.dispose]();
        resolve({ value });
      },
      (error: unknown) => {
        timer?.[Symbol.dispose]();
        reject(error);
      },
    );
  });
}

/** Remembers the error, and tells whether the topic has been unknown for longer than is sensible to wait for. */
export function failedWith(attempt: Attempt, error: TurnpikeError, nowMs: number): { readonly unknownTooLong: boolean } {
  attempt.lastError = error;
  attempt.unknownSinceMs = error.code === 'TOPIC_UNKNOWN' ? (attempt.unknownSinceMs ?? nowMs) : undefined;
  return { unknownTooLong: attempt.unknownSinceMs !== undefined && nowMs - attempt.unknownSinceMs >= UNKNOWN_TOPIC_PATIENCE_MS };
}

/** DELIVERY_TIMEOUT of a batch that was handed to a broker so many times. */
export function timeoutOf({ batch: { topic, partition }, lastError, inFlight, maybeWritten }: Attempt, tries: number): TurnpikeError {
  const text = `${topic}/${partition}: not acknowledged within the delivery timeout, after ${tries === 1 ? '1 try' : `${tries} tries`}; the last: ${inFlight ? 'no answer' : (lastError?.message ?? 'no answer')}`;
  const written = maybeWritten || inFlight ? 'unknown' : 'no';
  return new TurnpikeError('DELIVERY_TIMEOUT', text, { cause: lastError, topic, partition, retriable: true, written });
}

/** Nobody to send it to: for now, or since its topic is gone. */
export const leaderless = ({ topic, partition }: ProduceBatch, gone: TurnpikeError | undefined): TurnpikeError =>
  gone ?? new TurnpikeError('BROKER_UNAVAILABLE', `${topic}/${partition}: the partition has no leader at the moment.`, { topic, partition, retriable: true });

/** The error with the place of the batch that it ends. */
export function placed(error: TurnpikeError, { topic, partition }: ProduceBatch): TurnpikeError {
  if (error.facts.partition !== undefined) return error;
  return new TurnpikeError(error.code, withoutCode(error), {
    ...error.facts,
    topic,
    partition,
    cause: error.cause ?? error,
    retriable: error.retriable,
    ...(error.written ? { written: error.written } : {}),
  });
}

/** Answers that leave it open whether the batch is in the log: it was appended there, or may have been, before something went wrong. All others come before it is. */
export const mayHaveAppended = (error: TurnpikeError): boolean =>
  isKafkaError(
    error,
    'NOT_LEADER_OR_FOLLOWER', // Also of a leader that steps down while it waits for its followers.
    'NOT_ENOUGH_REPLICAS_AFTER_APPEND',
    'REQUEST_TIMED_OUT',
    'KAFKA_STORAGE_ERROR',
    'NETWORK_EXCEPTION',
    'UNKNOWN_SERVER_ERROR',
  ) || /^ERROR_/.test(error.facts.kafkaError ?? '');

/** The broker finds its sequence or epoch wrong. */
export const isMisfit = (error: TurnpikeError): boolean => isKafkaError(error, 'OUT_OF_ORDER_SEQUENCE_NUMBER', 'UNKNOWN_PRODUCER_ID', 'INVALID_PRODUCER_EPOCH');
