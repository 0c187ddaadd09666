import { isTurnpikeError, TurnpikeError } from '@turnpike/core';
import { brokerError, translate, type Where } from '../wire/errors.ts';

interface LibraryError extends Error {
  /** Kafka's number in a KafkaJSProtocolError, the socket's code in a KafkaJSConnectionError. */
  readonly code?: number | string;
  readonly type?: string;
  readonly retriable?: boolean;
}

/** What kafkajs threw, as an error of ours. Told apart by codes and classes, never by text. Where kafkajs hides a cause, ask Control. */
export function translateLibrary(cause: unknown, where: Where): TurnpikeError {
  const chain = [...causes(cause)];
  const { doing, written, ...facts } = where;
  const ours = chain.find(isTurnpikeError);
  if (ours) return written ? ours.withWritten(written) : ours;
  const protocol = chain.find((e) => typeof e.code === 'number' && e.type !== undefined);
  if (protocol) return Object.assign(brokerError(Number(protocol.code), where), { cause });
  if (chain.some((e) => e.name === 'KafkaJSSASLAuthenticationError'))
    return new TurnpikeError(
      'AUTHENTICATION_FAILED',
      `The broker refuses the identity${facts.principal ? ` ${facts.principal}` : ''}; check its issuer, audience and expiry.`,
      {
        ...facts,
        cause,
        ...(written ? { written } : {}),
      },
    );
  if (chain.some((e) => typeof e.code === 'string')) return translate(cause, where);
  const root = chain.at(-1);
  // A class of kafkajs' own that isn't about what the broker said: a connection, metadata that isn't there yet, a request without an answer.
  if (chain.some((e) => e.name.startsWith('KafkaJS') && (e.retriable !== false || UNAVAILABLE.has(e.name))))
    return new TurnpikeError('BROKER_UNAVAILABLE', `The broker can't be reached to ${doing}: ${root?.message}.`, {
      ...facts,
      cause,
      retriable: true,
      ...(written ? { written } : {}),
    });
  return new TurnpikeError('INTERNAL', `kafkajs failed to ${doing}: ${root?.message ?? String(cause)}; report this.`, {
    ...facts,
    cause,
    ...(written ? { written } : {}),
  });
}

/** kafkajs doesn't try these again, though time may end them. */
const UNAVAILABLE: ReadonlySet<string> = new Set(['KafkaJSNumberOfRetriesExceeded', 'KafkaJSLockTimeout', 'KafkaJSTimeout', 'KafkaJSGroupCoordinatorNotFound']);

function* causes(error: unknown): Generator<LibraryError> {
  for (let e = error; e instanceof Error; e = e.cause) yield e as LibraryError;
}
