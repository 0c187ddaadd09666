export { asTurnpikeError, type ErrorCode, type ErrorFacts, type ErrorInit, isTurnpikeError, TurnpikeError, type Written } from './errors.ts';
export { type HeaderEntry, type HeadersInit, type HeaderValue, RecordHeaders } from './headers.ts';
