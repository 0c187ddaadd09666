import type { LibrdKafkaError } from '@confluentinc/kafka-javascript';
import { type ErrorCode, TurnpikeError } from '@turnpike/core';
import { brokerError, type Where } from '../wire/errors.ts';

/** librdkafka's own errors (rdkafka.h, rd_kafka_resp_err_t): negative, where Kafka's are positive. */
export const LOCAL = {
  DESTROY: -197,
  TRANSPORT: -195,
  RESOLVE: -193,
  MSG_TIMED_OUT: -192,
  UNKNOWN_PARTITION: -190,
  UNKNOWN_TOPIC: -188,
  ALL_BROKERS_DOWN: -187,
  TIMED_OUT: -185,
  QUEUE_FULL: -184,
  SSL: -181,
  WAIT_COORD: -180,
  ASSIGN_PARTITIONS: -175,
  REVOKE_PARTITIONS: -174,
  STATE: -172,
  AUTHENTICATION: -169,
  NO_OFFSET: -168,
  PURGE_QUEUE: -152,
  PURGE_INFLIGHT: -151,
  FATAL: -150,
  MAX_POLL_EXCEEDED: -147,
  FENCED: -144,
  ASSIGNMENT_LOST: -142,
  AUTO_OFFSET_RESET: -140,
  LOG_TRUNCATION: -139,
  INVALID_DIFFERENT_RECORD: -138,
} as const;

/** Kafka's that are told apart here (protocol guide, "Error codes"). */
export const KAFKA = {
  UNKNOWN_TOPIC_OR_PARTITION: 3,
  MESSAGE_TOO_LARGE: 10,
  ILLEGAL_GENERATION: 22,
  UNKNOWN_MEMBER_ID: 25,
  REBALANCE_IN_PROGRESS: 27,
  TOPIC_AUTHORIZATION_FAILED: 29,
  GROUP_AUTHORIZATION_FAILED: 30,
  INVALID_PRODUCER_EPOCH: 47,
  FENCED_INSTANCE_ID: 82,
  INVALID_RECORD: 87,
  PRODUCER_FENCED: 90,
  FENCED_MEMBER_EPOCH: 110,
  STALE_MEMBER_EPOCH: 113,
} as const;

const RETRIABLE = true;
const OURS: Readonly<Record<number, readonly [code: ErrorCode, text: string, retriable?: boolean]>> = {
  [LOCAL.DESTROY]: ['CLOSED', 'the client is closed.'],
  [LOCAL.TRANSPORT]: ['BROKER_UNAVAILABLE', 'the connection to the broker broke.', RETRIABLE],
  [LOCAL.RESOLVE]: ['BROKER_UNAVAILABLE', "the broker's name can't be resolved.", RETRIABLE],
  [LOCAL.MSG_TIMED_OUT]: ['DELIVERY_TIMEOUT', 'not acknowledged within the delivery timeout.', RETRIABLE],
  [LOCAL.UNKNOWN_PARTITION]: ['PARTITION_UNKNOWN', 'the topic has no such partition.'],
  [LOCAL.UNKNOWN_TOPIC]: ['TOPIC_UNKNOWN', 'there is no such topic. Have it created (turnpike apply), or check its name.'],
  [LOCAL.ALL_BROKERS_DOWN]: ['BROKER_UNAVAILABLE', 'no broker can be reached.', RETRIABLE],
  [LOCAL.TIMED_OUT]: ['BROKER_UNAVAILABLE', 'the broker did not answer in time.', RETRIABLE],
  [LOCAL.QUEUE_FULL]: ['BUFFER_FULL', "the library's queue is full.", RETRIABLE],
  [LOCAL.SSL]: ['TLS_FAILED', 'TLS with the broker failed; check TURNPIKE_TLS_CA and TURNPIKE_TLS_CERT.'],
  [LOCAL.WAIT_COORD]: ['BROKER_UNAVAILABLE', 'the coordinator is not available yet.', RETRIABLE],
  [LOCAL.AUTHENTICATION]: ['AUTHENTICATION_FAILED', 'the broker refuses the identity. Check its issuer, audience and expiry.'],
  [LOCAL.NO_OFFSET]: ['OFFSET_OUT_OF_RANGE', 'there is no committed offset; set consumer.startAt, or seek.'],
  [LOCAL.PURGE_QUEUE]: ['ABORTED', 'dropped before it was sent, since its transaction or its client ended.'],
  [LOCAL.PURGE_INFLIGHT]: ['ABORTED', 'given up while it was under way, since its transaction or its client ended.'],
  [LOCAL.FATAL]: ['BROKER_REJECTED', 'the library has given up its producer, and gets another one.', RETRIABLE],
  [LOCAL.MAX_POLL_EXCEEDED]: ['MEMBERSHIP_LOST', 'the member was put out of its group; whoever has its partitions reads on from the last commit.'],
  [LOCAL.FENCED]: ['PRODUCER_FENCED', 'another producer has taken the transactional id.'],
  [LOCAL.ASSIGNMENT_LOST]: ['MEMBERSHIP_LOST', 'the partitions were taken over; whoever has them reads on from the last commit.'],
  [LOCAL.AUTO_OFFSET_RESET]: ['OFFSET_OUT_OF_RANGE', 'the records were deleted by retention; set consumer.startAt, or seek.'],
  [LOCAL.LOG_TRUNCATION]: ['OFFSET_OUT_OF_RANGE', 'the log was truncated below what was read; seek.'],
};

/** An error number of the library's, whatever its text. */
export function numberedError(number: number, where: Where, cause?: unknown): TurnpikeError {
  if (number > 0) return brokerError(number, where);
  const { doing, written, ...facts } = where;
  const init = { ...facts, ...(cause === undefined ? {} : { cause }), ...(written ? { written } : {}) };
  const [code, text, retriable = false] = OURS[number] ?? [];
  if (code) return new TurnpikeError(code, `${doing}: ${text}`, { ...init, retriable });
  return new TurnpikeError('INTERNAL', `${doing}: librdkafka's error ${number}; report this.`, init);
}

/** An error that the library called back with or threw. */
export function libraryError(cause: LibrdKafkaError | Error, where: Where): TurnpikeError {
  const number = (cause as Partial<LibrdKafkaError>).code;
  if (typeof number === 'number' && number !== -1) return numberedError(number, where, cause);
  // Of its configuration, which it refuses in words alone.
  const { doing, written, ...facts } = where;
  return new TurnpikeError('INTERNAL', `${doing}: Confluent's client refuses it: ${cause.message}. Report this.`, {
    ...facts,
    cause,
    ...(written ? { written } : {}),
  });
}

export const codeOf = (error: unknown): number | undefined =>
  typeof (error as Partial<LibrdKafkaError>)?.code === 'number' ? (error as LibrdKafkaError).code : undefined;
