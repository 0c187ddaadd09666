/**
 * The closed set of error codes. Branch on `code`, never on the text of a message.
 *
 * | family | codes |
 * |---|---|
 * | set-up | CONFIG_INVALID, CAPABILITY_MISSING, CLOSED, ABORTED, INTERNAL |
 * | who | IDENTITY_INVALID, TOKEN_UNAVAILABLE, PRINCIPAL_MISMATCH, TLS_FAILED, AUTHENTICATION_FAILED, SERVICE_UNREACHABLE |
 * | what | TOPIC_UNDECLARED, GRANT_MISSING, GRANT_INVALID, GRANT_EXPIRED, GRANT_DENIED, AUTHORIZATION_FAILED |
 * | how fast | QUOTA_EXCEEDED, BUFFER_FULL, DELIVERY_TIMEOUT |
 * | what it says | ENCODE_FAILED, DECODE_FAILED, SCHEMA_INVALID, SCHEMA_UNKNOWN, SCHEMA_UNAVAILABLE, SCHEMA_INCOMPATIBLE, RECORD_TOO_LARGE, STAGE_REFUSED |
 * | the cluster | BROKER_UNAVAILABLE, BROKER_REJECTED, CLUSTER_MISMATCH, TOPIC_UNKNOWN, PARTITION_UNKNOWN, OFFSET_OUT_OF_RANGE |
 * | groups, transactions | MEMBERSHIP_LOST, HANDLER_FAILED, PRODUCER_FENCED, TRANSACTION_ABORTED |
 * | the platform's tools | MANIFEST_INVALID, LOCK_STALE, PLATFORM_UNAVAILABLE |
 */
export type ErrorCode =
  | 'CONFIG_INVALID'
  | 'CAPABILITY_MISSING'
  | 'CLOSED'
  | 'ABORTED'
  | 'INTERNAL'
  | 'IDENTITY_INVALID'
  | 'TOKEN_UNAVAILABLE'
  | 'PRINCIPAL_MISMATCH'
  | 'TLS_FAILED'
  | 'AUTHENTICATION_FAILED'
  | 'SERVICE_UNREACHABLE'
  | 'TOPIC_UNDECLARED'
  | 'GRANT_MISSING'
  | 'GRANT_INVALID'
  | 'GRANT_EXPIRED'
  | 'GRANT_DENIED'
  | 'AUTHORIZATION_FAILED'
  | 'QUOTA_EXCEEDED'
  | 'BUFFER_FULL'
  | 'DELIVERY_TIMEOUT'
  | 'ENCODE_FAILED'
  | 'DECODE_FAILED'
  | 'SCHEMA_INVALID'
  | 'SCHEMA_UNKNOWN'
  | 'SCHEMA_UNAVAILABLE'
  | 'SCHEMA_INCOMPATIBLE'
  | 'RECORD_TOO_LARGE'
  | 'STAGE_REFUSED'
  | 'BROKER_UNAVAILABLE'
  | 'BROKER_REJECTED'
  | 'CLUSTER_MISMATCH'
  | 'TOPIC_UNKNOWN'
  | 'PARTITION_UNKNOWN'
  | 'OFFSET_OUT_OF_RANGE'
  | 'MEMBERSHIP_LOST'
  | 'HANDLER_FAILED'
  | 'PRODUCER_FENCED'
  | 'TRANSACTION_ABORTED'
  | 'MANIFEST_INVALID'
  | 'LOCK_STALE'
  | 'PLATFORM_UNAVAILABLE';

/** May the record stand in the log although its caller holds an error? "unknown": a retry may make a duplicate. */
export type Written = 'no' | 'unknown';

/** What is known of the failure, as fields; absent where it doesn't apply. Never holds a secret, a token or a record's value. */
export interface ErrorFacts {
  readonly topic?: string;
  readonly partition?: number;
  readonly offset?: bigint;
  readonly group?: string;
  readonly transactionalId?: string;
  readonly principal?: string;
  readonly cluster?: string;
  readonly broker?: string;
  readonly subject?: string;
  /** Where in the value or the file: `items[3].qty`, `turnpike.yaml:12:5`. */
  readonly path?: string;
  /** Of a caller's batch: which of its events, counted from 0. */
  readonly index?: number;
  readonly grantRevision?: number;
  /** The broker's own error name, such as `TOPIC_AUTHORIZATION_FAILED` (Kafka protocol guide, "Error codes"). */
  readonly kafkaError?: string;
  /** ms after which another try may succeed. */
  readonly retryAfterMs?: number;
}

export interface ErrorInit extends ErrorFacts {
  readonly cause?: unknown;
  /** Whether the same call may succeed later without anybody changing anything. Default false. */
  readonly retriable?: boolean;
  /** Set on every error that ends a record. */
  readonly written?: Written;
  /** Of a caller's batch: per record, in its order, the metadata or the error. */
  readonly outcomes?: readonly unknown[];
}

/** The one error class. The message opens with `[CODE]` and ends with what to do. */
export class TurnpikeError extends Error {
  override readonly name = 'TurnpikeError';
  readonly code: ErrorCode;
  readonly retriable: boolean;
  readonly written: Written | undefined;
  readonly facts: ErrorFacts;
  /** Of a caller's batch: per record, in its order, the metadata or the error. */
  readonly outcomes: readonly unknown[] | undefined;

  constructor(code: ErrorCode, message: string, init: ErrorInit = {}) {
    const { cause, retriable = false, written, outcomes, ...facts } = init;
    super(`[${code}] ${message}`, cause === undefined ? undefined : { cause });
    this.code = code;
    this.retriable = retriable;
    this.written = written;
    this.facts = facts;
    this.outcomes = outcomes;
  }

  /** The same failure as seen by one record. */
  withWritten(written: Written): TurnpikeError {
    return this.written === written ? this : rewritten(this, written);
  }
}

/** Outside of the class: one that names itself gets another name (`_TurnpikeError`) from the bundler, and every stack would show it. */
function rewritten(error: TurnpikeError, written: Written): TurnpikeError {
  const same = new TurnpikeError(error.code, withoutCode(error), {
    ...error.facts,
    cause: error.cause,
    retriable: error.retriable,
    written,
    ...(error.outcomes ? { outcomes: error.outcomes } : {}),
  });
  if (error.stack) same.stack = error.stack;
  return same;
}

/** An error's text without the code before it, to go on in another message. */
export const withoutCode = ({ code, message }: Pick<TurnpikeError, 'code' | 'message'>): string => message.slice(code.length + 3);

/** True for an error of ours, also one from another copy of this package. */
export function isTurnpikeError(error: unknown): error is TurnpikeError {
  return error instanceof Error && error.name === 'TurnpikeError' && 'code' in error && 'facts' in error;
}

/** Turns whatever was thrown into an error of ours; ours pass unchanged. */
export function asTurnpikeError(error: unknown, code: ErrorCode, message: string, init: ErrorInit = {}): TurnpikeError {
  return isTurnpikeError(error) ? error : new TurnpikeError(code, message, { ...init, cause: error });
}
