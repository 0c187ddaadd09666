import { parseEnv } from 'node:util';
import { describe, expect, it } from 'vitest';
import { envText } from './env-file.ts';

describe('an env file', () => {
  it('is read back by node as it was meant', () => {
    const env = { A: '/tmp/plain/path', B: '/tmp/with space/#and "quotes" $HOME', C: 'https://127.0.0.1:1/x?y=z', D: '' };
    expect(parseEnv(envText(env))).toEqual(env);
  });

  it.each(["/tmp/it's", '/tmp/a\nB=c'])('refuses %j, which no quoting carries through', (value) => {
    expect(() => envText({ TURNPIKE_GRANT: value })).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringContaining('TURNPIKE_GRANT') }),
    );
  });
});
