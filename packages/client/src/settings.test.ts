import { silentLogger } from '@turnpike/core/spi';
import { describe, expect, it } from 'vitest';
import { stderrLogger } from './logger.ts';
import { type ConnectOptions, readSettings } from './settings.ts';

const mtls = { TURNPIKE_TLS_CERT: '/tls.crt', TURNPIKE_TLS_KEY: '/tls.key', TURNPIKE_TLS_CA: '/ca.crt' };
const oauth = { TURNPIKE_TOKEN_URL: 'https://issuer/token', TURNPIKE_CLIENT_ID: 'flight-ops', TURNPIKE_CLIENT_SECRET_FILE: '/secret' };
const from = (env: Readonly<Record<string, string | undefined>>, options: ConnectOptions = {}) => readSettings({ env, ...options });

describe('the environment', () => {
  it.each([
    ['TURNPIKE_ENV', 'environment', 'prod'],
    ['TURNPIKE_GRANT', 'grant', '/grant.jws'],
    ['TURNPIKE_CLUSTERS', 'clusters', '/clusters.json'],
    ['TURNPIKE_REGISTRY', 'registry', 'https://registry:8081/apis/ccompat/v7'],
  ] as const)('%s is the default of the option %s, which wins over it; empty it is not set', (variable, option, value) => {
    expect(from({ [variable]: value })[option]).toBe(value);
    expect(from({ [variable]: value }, { [option]: 'https://option' })[option]).toBe('https://option');
    expect(from({ [variable]: '' })[option]).toBeUndefined();
    expect(from({})[option]).toBeUndefined();
  });

  it('describes an identity by certificate', () => {
    expect(from(mtls).identity).toEqual({ kind: 'mtls', certFile: '/tls.crt', keyFile: '/tls.key', caFile: '/ca.crt' });
  });

  it('describes an OAuth client, with what is optional only where it is set', () => {
    expect(from(oauth).identity).toEqual({ kind: 'oauth', tokenUrl: 'https://issuer/token', clientId: 'flight-ops', clientSecretFile: '/secret' });
    const { TURNPIKE_CLIENT_SECRET_FILE: _, ...rest } = oauth;
    const more = {
      TURNPIKE_CLIENT_KEY_FILE: '/key.pem',
      TURNPIKE_SCOPE: 'kafka',
      TURNPIKE_AUDIENCE: 'urn:kafka',
      TURNPIKE_TLS_CA: '/ca.crt',
      TURNPIKE_CLIENT_SECRET_FILE: '',
    };
    expect(from({ ...rest, ...more }).identity).toEqual({
      kind: 'oauth',
      tokenUrl: 'https://issuer/token',
      clientId: 'flight-ops',
      privateKeyFile: '/key.pem',
      scope: 'kafka',
      audience: 'urn:kafka',
      caFile: '/ca.crt',
    });
  });

  it('describes none with authorities alone, or with nothing', () => {
    expect(from({}).identity).toBeUndefined();
    expect(from({ TURNPIKE_TLS_CA: '/ca.crt' }).identity).toBeUndefined();
  });

  it('is not asked for an identity that is given', () => {
    const identity = { kind: 'none', principal: 'x' } as unknown as NonNullable<ConnectOptions['identity']>;
    expect(from({ TURNPIKE_TLS_CERT: '/half' }, { identity }).identity).toBe(identity);
  });

  it.each<[string, Readonly<Record<string, string>>, RegExp]>([
    ['both identities', { ...mtls, ...oauth }, /TURNPIKE_TOKEN_URL and TURNPIKE_TLS_CERT are both set; a service has one identity: unset the one/],
    ['both identities, one of them in part', { ...mtls, TURNPIKE_TOKEN_URL: 'https://issuer/token' }, /both set; a service has one identity/],
    ['a certificate without its key', { ...mtls, TURNPIKE_TLS_KEY: '' }, /TURNPIKE_TLS_CERT is set but TURNPIKE_TLS_KEY is not; set it too/],
    ['a certificate without authorities', { ...mtls, TURNPIKE_TLS_CA: '' }, /TURNPIKE_TLS_CERT is set but TURNPIKE_TLS_CA is not/],
    ['a key without its certificate', { ...mtls, TURNPIKE_TLS_CERT: '' }, /TURNPIKE_TLS_KEY is set but TURNPIKE_TLS_CERT is not/],
    ['an issuer without a client', { ...oauth, TURNPIKE_CLIENT_ID: '' }, /TURNPIKE_TOKEN_URL is set but TURNPIKE_CLIENT_ID is not/],
    ['a client without an issuer', { ...oauth, TURNPIKE_TOKEN_URL: '' }, /TURNPIKE_CLIENT_ID is set but TURNPIKE_TOKEN_URL is not/],
    ['a secret alone', { TURNPIKE_CLIENT_SECRET_FILE: '/s' }, /TURNPIKE_CLIENT_SECRET_FILE is set but TURNPIKE_TOKEN_URL is not/],
    [
      'a client without a secret',
      { ...oauth, TURNPIKE_CLIENT_SECRET_FILE: '' },
      /exactly one of TURNPIKE_CLIENT_SECRET_FILE and TURNPIKE_CLIENT_KEY_FILE; neither is set/,
    ],
    ['a client with secret and key', { ...oauth, TURNPIKE_CLIENT_KEY_FILE: '/k' }, /exactly one of .*; both are set/],
    [
      'a registry without a scheme',
      { TURNPIKE_REGISTRY: 'registry:8081' },
      /TURNPIKE_REGISTRY is "registry:8081"; it must be the registry's URL, such as https:/,
    ],
    [
      'a registry of another scheme, with a password',
      { TURNPIKE_REGISTRY: 'ftp://user:pass-word@registry/?sig=pass-word' },
      /TURNPIKE_REGISTRY is no http\(s\) URL; it must be the registry's URL, such as https:/,
    ],
  ])('is refused with %s', (_what, env, message) => {
    expect(() => from(env)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringMatching(message) }));
  });
});

describe('options', () => {
  it('have the defaults that their docs say', () => {
    const { logger, clock, transport, ...rest } = from({});
    expect(transport.name).toBe('wire');
    expect(rest).toEqual({
      environment: undefined,
      identity: undefined,
      grant: undefined,
      clusters: undefined,
      registry: undefined,
      producer: {},
      consumer: {},
      stages: [],
      onQuota: 'wait',
      telemetry: {},
      clientId: undefined,
      connectTimeoutMs: 10_000,
      shutdownSignals: ['SIGTERM', 'SIGINT'],
    });
    expect(logger).not.toBe(silentLogger);
    expect(Math.abs(clock.now() - Date.now())).toBeLessThan(1000);
  });

  it('are frozen once they are read', () => {
    expect(Object.isFrozen(from({}))).toBe(true);
  });

  it.each<[string, unknown, RegExp]>([
    ['tracing', true, /connect\.tracing is not an option; there are clientId, clock, clusters,/],
    ['environment', '', /connect\.environment is ""; it must be a string that is not empty/],
    ['identity', 'mtls', /connect\.identity is of type string; it must be what mtlsIdentity\(\) or oauthIdentity\(\) makes/],
    ['transport', 'wire', /connect\.transport is of type string; it must be what wireTransport\(\)/],
    ['clusters', 7, /connect\.clusters is of type number; it must be the path of a file, or a list/],
    ['registry', 'registry', /connect\.registry is "registry"; it must be the registry's URL/],
    ['stages', () => {}, /connect\.stages is of type function; it must be a list of functions/],
    ['stages', ['stamp'], /connect\.stages is of type object; it must be a list of functions/],
    ['onQuota', 'drop', /connect\.onQuota is "drop"; it must be one of "wait", "refuse"/],
    ['telemetry', 'on', /connect\.telemetry is of type string; it must be "off"/],
    ['telemetry', null, /connect\.telemetry is null/],
    ['logger', { warn: () => {} }, /connect\.logger is of type object; it must be an object with debug, info, warn and error/],
    ['shutdownSignals', 'SIGTERM', /connect\.shutdownSignals is of type string; it must be a list of signals/],
    ['connectTimeoutMs', 0, /connect\.connectTimeoutMs is 0; it must be a whole number from 1; the default is 10000/],
    ['producer', { lingerMs: 5 }, /producer\.lingerMs is not an option; there are acks/],
    ['consumer', { sessionTimeout: 5 }, /consumer\.sessionTimeout is not an option/],
    ['consumer', { drainTimeoutMs: 60_000 }, /consumer\.drainTimeoutMs is 60000, not under rebalanceTimeoutMs/],
  ])('%s that is wrong (%j) is refused by name, before anything is reached', (name, value, message) => {
    expect(() => from({}, { [name]: value } as ConnectOptions)).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringMatching(message) }),
    );
  });

  it('take console for a logger', () => {
    expect(from({}, { logger: console }).logger).toBe(console);
  });
});

describe('the default logger', () => {
  const lines: string[] = [];
  const logger = stderrLogger((line) => lines.push(line));

  it('writes warnings and errors, a JSON line each, and nothing below', () => {
    logger.debug('a');
    logger.info('b');
    logger.warn('consumer.slow', { offset: 12n });
    logger.error('connection.close_failed');
    expect(lines[0]).toMatch(/^\{"time":.*,"level":"warn","event":/);
    expect(lines.every((l) => l.endsWith('\n') && l.indexOf('\n') === l.length - 1)).toBe(true);
    expect(lines.map((l) => JSON.parse(l) as unknown)).toMatchObject([
      { time: expect.stringMatching(/^\d{4}-.*Z$/), level: 'warn', event: 'turnpike.consumer.slow', offset: '12' },
      { level: 'error', event: 'turnpike.connection.close_failed' },
    ]);
  });

  it('throws at no fact, and lets none pass for what the line is about', () => {
    const circle: Record<string, unknown> = {};
    circle.self = circle;
    lines.length = 0;
    logger.warn('x', { circle });
    logger.warn('x', { error: new Error('why'), level: 'info', event: 'other' });
    expect(lines.map((l) => JSON.parse(l) as unknown)).toMatchObject([
      { level: 'warn', event: 'turnpike.x', facts: ['circle'] },
      { level: 'warn', event: 'turnpike.x', error: 'why' },
    ]);
  });
});
