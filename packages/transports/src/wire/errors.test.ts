import { AuthenticationError, NetworkError, ResponseError, TimeoutError } from '@platformatic/kafka';
import { TurnpikeError } from '@turnpike/core';
import { describe, expect, it } from 'vitest';
import { brokerError, final, isKafkaError, translate } from './errors.ts';

const where = { doing: 'produce to t', topic: 't', principal: 'svc', broker: '127.0.0.1:9092' };
const withCode = (code: string, message = 'x') => Object.assign(new Error(message), { code });

describe('brokerError', () => {
  it.each([
    [29, 'AUTHORIZATION_FAILED', 'TOPIC_AUTHORIZATION_FAILED', false],
    [30, 'AUTHORIZATION_FAILED', 'GROUP_AUTHORIZATION_FAILED', false],
    [3, 'TOPIC_UNKNOWN', 'UNKNOWN_TOPIC_OR_PARTITION', true],
    [10, 'RECORD_TOO_LARGE', 'MESSAGE_TOO_LARGE', false],
    [1, 'OFFSET_OUT_OF_RANGE', 'OFFSET_OUT_OF_RANGE', false],
    [22, 'MEMBERSHIP_LOST', 'ILLEGAL_GENERATION', false],
    [25, 'MEMBERSHIP_LOST', 'UNKNOWN_MEMBER_ID', false],
    [6, 'BROKER_UNAVAILABLE', 'NOT_LEADER_OR_FOLLOWER', true],
    [16, 'BROKER_UNAVAILABLE', 'NOT_COORDINATOR', true],
    [19, 'BROKER_UNAVAILABLE', 'NOT_ENOUGH_REPLICAS', true],
    [87, 'BROKER_REJECTED', 'INVALID_RECORD', false],
    [-1, 'BROKER_REJECTED', 'UNKNOWN_SERVER_ERROR', false],
    [9999, 'BROKER_REJECTED', 'ERROR_9999', false],
  ])('code %i is %s (%s), retriable: %s', (kafka, code, kafkaError, retriable) => {
    const error = brokerError(kafka, where);
    expect(error).toMatchObject({ code, retriable, facts: { kafkaError, topic: 't' } });
    expect(isKafkaError(error, kafkaError)).toBe(true);
    expect(error.message).toContain('produce to t');
  });

  it('names who was refused, and prefers the broker’s own words', () => {
    expect(brokerError(29, where).message).toMatch(/\(as svc\).*turnpike apply/);
    expect(brokerError(87, where, 'Compacted topic cannot accept message without key').message).toContain('without key');
  });
});

describe('translate', () => {
  it.each([
    ['a refused connection', withCode('ECONNREFUSED'), 'BROKER_UNAVAILABLE', true],
    ['a name that resolves to nothing', withCode('ENOTFOUND'), 'BROKER_UNAVAILABLE', true],
    ['a request that timed out', new TimeoutError('Request timed out'), 'BROKER_UNAVAILABLE', true],
    ['a closed connection', new NetworkError('Connection closed'), 'BROKER_UNAVAILABLE', true],
    ['a refused proof', new AuthenticationError('SASL authentication failed.'), 'AUTHENTICATION_FAILED', false],
    ['an authority that is not trusted', new NetworkError('failed', { cause: withCode('SELF_SIGNED_CERT_IN_CHAIN') }), 'TLS_FAILED', false],
    ['a refused certificate', new NetworkError('failed', { cause: withCode('ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED') }), 'TLS_FAILED', false],
    ['a bug of ours', new TypeError('x is not a function'), 'INTERNAL', false],
  ])('%s', (_name, cause, code, retriable) => {
    const error = translate(cause, where);
    expect(error).toMatchObject({ code, retriable });
    expect(error.cause).toBe(cause);
  });

  it('finds the broker’s code inside what the library throws', () => {
    const error = new ResponseError(11, 9, { '/': [25, null] }, { errorCode: 25 });
    expect(translate(error, where)).toMatchObject({ code: 'MEMBERSHIP_LOST', facts: { kafkaError: 'UNKNOWN_MEMBER_ID' } });
  });

  it('lets an error of ours pass from inside a library’s, and marks it as asked', () => {
    const ours = new TurnpikeError('TOKEN_UNAVAILABLE', 'the issuer is down');
    expect(translate(new NetworkError('failed', { cause: ours }), { ...where, written: 'no' })).toMatchObject({ code: 'TOKEN_UNAVAILABLE', written: 'no' });
  });
});

describe('final', () => {
  it('is what a topic that stayed unknown ends with: not retriable, all else as it was', () => {
    const error = brokerError(3, { ...where, written: 'no' });
    expect(final(error)).toMatchObject({ code: 'TOPIC_UNKNOWN', retriable: false, written: 'no', facts: error.facts, message: error.message });
    const other = brokerError(6, where);
    expect(final(other)).toBe(other);
  });
});
