import { describe, expect, it } from 'vitest';
import { numberedError } from './errors.ts';
import { loadLibrary } from './library.ts';

describe("Confluent's client", () => {
  it('is asked for by its name where it is not installed', async () => {
    const load = () => Promise.reject(Object.assign(new Error('Cannot find package'), { code: 'ERR_MODULE_NOT_FOUND' }));
    await expect(loadLibrary(load)).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringMatching(/npm install @confluentinc\/kafka-javascript\.$/),
    });
  });

  it.each(['ERR_DLOPEN_FAILED', undefined])('says how its addon is built where that does not load (%s)', async (code) => {
    const load = () => Promise.reject(Object.assign(new Error('Could not locate the bindings file'), { code }));
    await expect(loadLibrary(load)).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringMatching(/npm rebuild @confluentinc\/kafka-javascript/),
    });
  });
});

describe("librdkafka's error numbers", () => {
  it.each([
    [29, 'AUTHORIZATION_FAILED', false],
    [-195, 'BROKER_UNAVAILABLE', true],
    [-192, 'DELIVERY_TIMEOUT', true],
    [-188, 'TOPIC_UNKNOWN', false],
    [-144, 'PRODUCER_FENCED', false],
    [-142, 'MEMBERSHIP_LOST', false],
    [-9, 'INTERNAL', false],
  ])('%i is %s', (number, code, retriable) => {
    const error = numberedError(number, { doing: 'produce to a.b', topic: 'a.b', written: 'unknown' });
    expect(error).toMatchObject({ code, retriable, written: 'unknown', facts: { topic: 'a.b' } });
    expect(error.message).toContain('produce to a.b');
  });
});
