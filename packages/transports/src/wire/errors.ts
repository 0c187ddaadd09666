import { protocolErrors, protocolErrorsCodesById } from '@platformatic/kafka';
import { type ErrorCode, type ErrorFacts, isTurnpikeError, TurnpikeError, type Written } from '@turnpike/core';
import { withoutCode } from '@turnpike/core/spi';

/** Kafka's error -> ours; what isn't listed is BROKER_UNAVAILABLE where Kafka calls it retriable, else BROKER_REJECTED. */
const CODES: Readonly<Record<string, ErrorCode>> = {
  TOPIC_AUTHORIZATION_FAILED: 'AUTHORIZATION_FAILED',
  GROUP_AUTHORIZATION_FAILED: 'AUTHORIZATION_FAILED',
  CLUSTER_AUTHORIZATION_FAILED: 'AUTHORIZATION_FAILED',
  TRANSACTIONAL_ID_AUTHORIZATION_FAILED: 'AUTHORIZATION_FAILED',
  SASL_AUTHENTICATION_FAILED: 'AUTHENTICATION_FAILED',
  UNSUPPORTED_SASL_MECHANISM: 'AUTHENTICATION_FAILED',
  ILLEGAL_SASL_STATE: 'AUTHENTICATION_FAILED',
  UNKNOWN_TOPIC_OR_PARTITION: 'TOPIC_UNKNOWN',
  UNKNOWN_TOPIC_ID: 'TOPIC_UNKNOWN',
  INVALID_TOPIC_EXCEPTION: 'TOPIC_UNKNOWN',
  MESSAGE_TOO_LARGE: 'RECORD_TOO_LARGE',
  RECORD_LIST_TOO_LARGE: 'RECORD_TOO_LARGE',
  OFFSET_OUT_OF_RANGE: 'OFFSET_OUT_OF_RANGE',
  ILLEGAL_GENERATION: 'MEMBERSHIP_LOST',
  UNKNOWN_MEMBER_ID: 'MEMBERSHIP_LOST',
  FENCED_INSTANCE_ID: 'MEMBERSHIP_LOST',
  FENCED_MEMBER_EPOCH: 'MEMBERSHIP_LOST',
  STALE_MEMBER_EPOCH: 'MEMBERSHIP_LOST',
  INVALID_PRODUCER_EPOCH: 'PRODUCER_FENCED',
  PRODUCER_FENCED: 'PRODUCER_FENCED',
  TRANSACTION_COORDINATOR_FENCED: 'PRODUCER_FENCED',
};

const REMEDIES: Partial<Readonly<Record<ErrorCode, string>>> = {
  AUTHORIZATION_FAILED: 'No ACL allows it: declare it in turnpike.yaml and have it applied (turnpike apply).',
  AUTHENTICATION_FAILED: 'Check that the identity is known to this cluster: its issuer, audience and expiry.',
  TOPIC_UNKNOWN: 'Have the topic created (turnpike apply), or check its name.',
  RECORD_TOO_LARGE: "Make the event smaller, or raise the topic's max.message.bytes.",
  BROKER_UNAVAILABLE: 'It may pass; the client retries within its deadlines.',
  OFFSET_OUT_OF_RANGE: 'The records were deleted by retention; set consumer.startAt, or seek.',
  MEMBERSHIP_LOST: 'The group has moved on; whoever has the partitions reads on from the last commit.',
};

export interface Where extends ErrorFacts {
  /** What was tried, for the message: "produce to flights.departed". */
  readonly doing: string;
  readonly written?: Written;
}

/** An error code in a broker's answer. */
export function brokerError(code: number, where: Where, serverMessage?: string | null): TurnpikeError {
  const { name, retriable, text } = kafkaError(code);
  const { doing, written, ...facts } = where;
  const ours = CODES[name] ?? (retriable ? 'BROKER_UNAVAILABLE' : 'BROKER_REJECTED');
  const who = facts.principal && ours === 'AUTHORIZATION_FAILED' ? ` (as ${facts.principal})` : '';
  return new TurnpikeError(ours, `The broker refuses to ${doing}${who}: ${name}: ${serverMessage || text} ${REMEDIES[ours] ?? ''}`.trimEnd(), {
    ...facts,
    kafkaError: name,
    retriable,
    ...(written ? { written } : {}),
  });
}

/** An error that was waited for as long as is sensible: nothing but somebody's doing will end it. Only of those that Kafka calls retriable without time ending them. */
export function final(error: TurnpikeError): TurnpikeError {
  if (error.code !== 'TOPIC_UNKNOWN' || !error.retriable) return error;
  return new TurnpikeError(error.code, withoutCode(error), { ...error.facts, cause: error.cause, ...(error.written ? { written: error.written } : {}) });
}

interface LibraryError extends Error {
  readonly code?: string;
  readonly apiId?: string;
  readonly apiCode?: number;
  readonly serverErrorMessage?: string | null;
  readonly errors?: readonly LibraryError[];
}

/** Whatever the library or a socket threw, as an error of ours. Told apart by codes and classes, never by text. */
export function translate(cause: unknown, where: Where): TurnpikeError {
  const { doing, written, ...facts } = where;
  const chain = [...causes(cause)];
  const ours = chain.find(isTurnpikeError);
  if (ours) return written ? ours.withWritten(written) : ours;
  const init = { ...facts, cause, ...(written ? { written } : {}) };
  const protocol = chain.find((e) => e.apiId !== undefined && e.apiId in byName);
  if (protocol) return withCause(brokerError(protocol.apiCode ?? -1, where, protocol.serverErrorMessage), cause);
  const at = facts.broker ? ` ${facts.broker}` : '';
  const tls = chain.find((e) => isTlsFailure(e.code));
  if (tls) return new TurnpikeError('TLS_FAILED', `TLS with the broker${at} failed (${tls.code}): ${tls.message}. ${tlsRemedy(tls.code ?? '')}`, init);
  if (chain.some((e) => e.code === 'PLT_KFK_AUTHENTICATION'))
    return new TurnpikeError(
      'AUTHENTICATION_FAILED',
      `The broker${at} refuses the identity${facts.principal ? ` ${facts.principal}` : ''}. ${REMEDIES.AUTHENTICATION_FAILED}`,
      init,
    );
  const root = chain.at(-1);
  if (chain.some((e) => e.code?.startsWith('PLT_KFK_') || isNetworkCode(e.code)))
    return new TurnpikeError('BROKER_UNAVAILABLE', `The broker${at} can't be reached to ${doing}: ${root?.code ? `${root.code}: ` : ''}${root?.message}.`, {
      ...init,
      retriable: true,
    });
  return new TurnpikeError('INTERNAL', `The wire transport failed to ${doing}: ${root?.message ?? String(cause)}; report this.`, init);
}

/** The response that came with an error of the library: it throws where any part of an answer is an error, though others are good. */
export function responseIn<T>(error: unknown): T | undefined {
  return (error as { response?: T } | undefined)?.response;
}

/** Kafka's name of an error that a translated one stands for. */
export const isKafkaError = (error: TurnpikeError, ...names: readonly string[]): boolean => names.includes(error.facts?.kafkaError ?? '');

function* causes(error: unknown): Generator<LibraryError> {
  if (!(error instanceof Error)) return;
  const e = error as LibraryError;
  yield e;
  for (const inner of e.errors ?? []) yield* causes(inner);
  yield* causes(e.cause);
}

function withCause(error: TurnpikeError, cause: unknown): TurnpikeError {
  return Object.assign(error, { cause });
}

/** OpenSSL's and Node's codes for a certificate that isn't trusted, or a handshake that failed. */
const isTlsFailure = (code: string | undefined): boolean =>
  code !== undefined &&
  /^(ERR_(SSL|TLS|OSSL)_?.*|CERT_.*|DEPTH_ZERO_.*|SELF_SIGNED_.*|UNABLE_TO_(GET|VERIFY|DECRYPT|DECODE)_.*|CRL_.*|HOSTNAME_MISMATCH|INVALID_CA|INVALID_PURPOSE|EPROTO)$/.test(
    code,
  );

const isNetworkCode = (code: string | undefined): boolean => code !== undefined && /^E[A-Z]+$/.test(code);

function tlsRemedy(code: string): string {
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID' || code === 'HOSTNAME_MISMATCH')
    return "The address isn't one of the broker certificate's names; check the cluster descriptor.";
  if (/ALERT/.test(code)) return 'The broker refuses the client certificate: check TURNPIKE_TLS_CERT, its issuer and its expiry.';
  return "The broker's certificate isn't trusted; check TURNPIKE_TLS_CA.";
}

const byName: Readonly<Record<string, { readonly message: string; readonly canRetry: boolean }>> = protocolErrors;
const byCode: Readonly<Record<number, string>> = protocolErrorsCodesById;

/** Kafka's own name, whether it calls it retriable, and its text (protocol guide, "Error codes"). */
function kafkaError(code: number): { readonly name: string; readonly retriable: boolean; readonly text: string } {
  const name = byCode[code] ?? `ERROR_${code}`;
  const known = byName[name];
  return { name, retriable: known?.canRetry ?? false, text: known?.message ?? 'an error that this client does not know.' };
}
