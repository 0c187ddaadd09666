import { inspect } from 'node:util';
import type { TurnpikeError } from '@turnpike/core';
import { describe, expect, it } from 'vitest';
import { anonymousIdentity } from './anonymous.ts';
import { httpPort } from './http.ts';
import { serve } from './issuer.fixture.ts';

const plain = httpPort({ tls: () => undefined });
const bearing = httpPort({ tls: () => undefined, bearer: async () => 'hidden-token' });

const refused = (attempt: Promise<unknown>): Promise<TurnpikeError> =>
  attempt.then(
    () => expect.unreachable('it was not refused'),
    (error: TurnpikeError) => error,
  );

describe('HTTP as one identity', () => {
  it('brings the whole exchange: method, headers, body, status, headers in lower case', async () => {
    await using server = await serve(async (request, response) => {
      let body = '';
      for await (const chunk of request) body += String(chunk);
      response
        .writeHead(409, { 'X-Seen': `${request.method} ${request.url} ${request.headers['content-length']} ${request.headers.accept}` })
        .end(`got ${body}`);
    });
    const response = await plain.request({ url: `${server.url}/subjects?x=1`, method: 'PUT', headers: { accept: 'application/json' }, body: 'grüße' });
    expect(response).toMatchObject({ status: 409, body: 'got grüße', headers: { 'x-seen': 'PUT /subjects?x=1 7 application/json' } });
  });

  it('sends the bearer token to this machine, asking for it at each request', async () => {
    await using server = await serve((request, response) => void response.end(request.headers.authorization));
    let n = 0;
    const port = httpPort({ tls: () => undefined, bearer: async () => `token-${++n}` });
    expect((await port.request({ url: server.url })).body).toBe('Bearer token-1');
    expect((await port.request({ url: server.url, headers: { authorization: 'Bearer another' } })).body).toBe('Bearer token-2');
  });

  it.each(['http://registry.example/', 'http://127.0.0.1.example/', 'http://localhost.example/', 'http://10.0.0.1/'])(
    'never sends it over plain http to %s: the token is not even asked for',
    async (url) => {
      const port = httpPort({ tls: () => undefined, bearer: () => expect.unreachable('the token was asked for') });
      expect(await refused(port.request({ url }))).toMatchObject({
        code: 'CONFIG_INVALID',
        message: expect.stringMatching(/must not travel over plain http; use https/),
      });
    },
  );

  it('follows no redirect: the answer is the answer, and the token stays here', async () => {
    let elsewhere = 0;
    await using other = await serve((_request, response) => {
      elsewhere++;
      response.end();
    });
    await using server = await serve((_request, response) => void response.writeHead(302, { location: other.url }).end());
    expect(await bearing.request({ url: server.url })).toMatchObject({ status: 302, headers: { location: other.url } });
    expect(elsewhere).toBe(0);
  });

  it('ends with SERVICE_UNREACHABLE when there is no answer in time, also when only its end is missing', async () => {
    await using silent = await serve(() => {});
    await using halting = await serve((_request, response) => void response.write('half'));
    for (const { url } of [silent, halting])
      expect(await refused(plain.request({ url, timeoutMs: 50 }))).toMatchObject({
        code: 'SERVICE_UNREACHABLE',
        retriable: true,
        message: expect.stringMatching(/did not answer within 50 ms/),
      });
  });

  it('ends with SERVICE_UNREACHABLE when the connection breaks in mid-answer', async () => {
    await using server = await serve((_request, response) => {
      response.writeHead(200, { 'content-length': '100' });
      response.write('half', () => response.destroy());
    });
    expect(await refused(plain.request({ url: server.url }))).toMatchObject({ code: 'SERVICE_UNREACHABLE', retriable: true });
  });

  it('ends with ABORTED, and the reason as its cause, when the caller gives up: before and during', async () => {
    await using server = await serve(() => {});
    const reason = new Error('enough');
    expect(await refused(plain.request({ url: server.url, signal: AbortSignal.abort(reason) }))).toMatchObject({ code: 'ABORTED', cause: reason });
    const controller = new AbortController();
    server.server.once('request', () => controller.abort(reason));
    expect(await refused(plain.request({ url: server.url, signal: controller.signal }))).toMatchObject({ code: 'ABORTED', cause: reason });
  });

  it('refuses an answer that is too large, without reading it to its end', async () => {
    let sent = 0;
    await using server = await serve((_request, response) => {
      const more = () => {
        while (!response.destroyed && response.write(Buffer.alloc(256 * 1024))) sent++;
      };
      response.on('drain', more);
      more();
    });
    const error = await refused(plain.request({ url: server.url }));
    expect(error).toMatchObject({ code: 'SERVICE_UNREACHABLE', message: expect.stringMatching(/the answer is larger than 8388608 bytes/) });
    expect(sent * 256 * 1024).toBeLessThan(64 * 1024 * 1024);
  });

  it.each(['localhost:8081', 'ftp://registry/', 'registry', ''])('refuses %j, which is no http(s) URL', async (url) => {
    expect(await refused(plain.request({ url }))).toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringMatching(/no http\(s\) URL/) });
  });

  it('turns what Node throws at once into an error of ours, and shows no header in it', async () => {
    await using server = await serve((_request, response) => void response.end());
    const error = await refused(plain.request({ url: server.url, headers: { authorization: 'Bearer hidden-token\n' } }));
    expect(error).toMatchObject({ name: 'TurnpikeError', code: 'SERVICE_UNREACHABLE' });
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain('hidden-token');
  });

  it('a query is not shown in an error, which may hold what is secret', async () => {
    const error = await refused(plain.request({ url: 'http://127.0.0.1:1/path?key=hidden' }));
    expect(error.message).toMatch(/http:\/\/127\.0\.0\.1:1\/path can't be reached: .*ECONNREFUSED/);
    expect(error.message).not.toContain('hidden');
  });
});

describe('an anonymous identity', () => {
  it('has a name, no token, no TLS material, and never changes', async () => {
    const identity = anonymousIdentity('flight-ops');
    expect(identity).toMatchObject({ kind: 'none', principal: 'flight-ops' });
    expect(identity.tls()).toBeUndefined();
    expect(await refused(identity.token())).toMatchObject({ code: 'IDENTITY_INVALID', facts: { principal: 'flight-ops' } });
    identity.onChange(() => expect.unreachable('it changed'))[Symbol.dispose]();
  });
});
