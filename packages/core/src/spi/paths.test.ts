import { describe, expect, it } from 'vitest';
import { notAPath, shownUrl } from './paths.ts';

const jws = 'eyJhbGciOiJFUzI1NiJ9.eyJ2IjoxfQ.c2ln';

describe('a value that was given where a path belongs', () => {
  it.each([
    ['-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----', 'a private key'],
    ['-----BEGIN EC PRIVATE KEY----- MIGH', 'a private key'],
    [`MIGHAgEAMBMGByqGSM49${'aB+/'.repeat(20)}==`, 'a private key'],
    ['-----BEGIN CERTIFICATE-----\nMIIB', 'PEM text'],
    [jws, 'a signed token'],
    [`${jws}\n`, 'a signed token'],
    ['{"kty":"EC"}', 'JSON'],
    ['[{"name":"airside"}]', 'JSON'],
    ['https://user:password@vault.example:8200/key?sig=secret#part', 'the URL https://vault.example:8200/key'],
    ['vault://user:password@store/key', 'the URL vault://store/key'],
    ['https://user:pass word@', 'a URL'],
    ['secret\nand more', 'text of several lines'],
    [`/${'a'.repeat(256)}`, 'text of 257 characters'],
    ['/a'.repeat(600), 'text of 1200 characters'],
  ])('%j is told for what it is, without what may be secret', (value, what) => {
    expect(notAPath(value)).toBe(what);
  });

  it.each(['/var/run/turnpike/grant.jws', 'grant.v1.jws', './a b/ключ.pem', 'C:\\keys\\tls.key', 'secret'])('%j may be a path', (value) => {
    expect(notAPath(value)).toBeUndefined();
  });
});

describe('a URL in a message', () => {
  it('goes without user, password, query and fragment', () => {
    expect(shownUrl(new URL('https://user:password@issuer:8443/token?sig=secret#x'))).toBe('https://issuer:8443/token');
  });
});
