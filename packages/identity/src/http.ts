import http from 'node:http';
import https from 'node:https';
import { TurnpikeError } from '@turnpike/core';
import type { HttpPort, HttpRequest, HttpResponse, TlsMaterial } from '@turnpike/core/spi';
import { isTlsError } from './tls-errors.ts';

const DEFAULT_TIMEOUT_MS = 10_000;
/** More than this in one answer is refused: a registry or an issuer that sends it is broken or hostile. */
const MAX_RESPONSE_BYTES = 8 * 1024 * 1024;

export interface HttpOptions {
  /** Asked at each request, so that rotated material applies. */
  readonly tls: () => TlsMaterial | undefined;
  /** A bearer token for the Authorization header. */
  readonly bearer?: () => Promise<string>;
}

/** HTTP as one identity. Redirects are not followed: a token must not travel on. A bearer token goes over https, or to this machine.
 *  Rejects with TLS_FAILED, ABORTED, CONFIG_INVALID, or SERVICE_UNREACHABLE (no answer within the timeout). */
export function httpPort(options: HttpOptions): HttpPort {
  return {
    async request(request) {
      const url = parse(request.url);
      const headers: Record<string, string> = { ...request.headers };
      if (options.bearer) {
        if (url.protocol === 'http:' && !isLoopback(url))
          throw new TurnpikeError('CONFIG_INVALID', `${url.origin}: a bearer token must not travel over plain http; use https.`);
        headers.authorization = `Bearer ${await options.bearer()}`;
      }
      return exchange(url, { ...request, headers }, options.tls());
    },
  };
}

function parse(text: string): URL {
  const url = URL.parse(text);
  if (!url || (url.protocol !== 'https:' && url.protocol !== 'http:')) throw new TurnpikeError('CONFIG_INVALID', `${JSON.stringify(text)} is no http(s) URL.`);
  return url;
}

export function isLoopback(url: URL): boolean {
  return /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(url.hostname);
}

/** One request and its whole answer, within one deadline. */
export function exchange(url: URL, request: HttpRequest, tls: TlsMaterial | undefined): Promise<HttpResponse> {
  const { method = 'GET', headers, body, timeoutMs = DEFAULT_TIMEOUT_MS, signal } = request;
  return new Promise((resolve, reject) => {
    const timeout = AbortSignal.timeout(timeoutMs);
    const either = signal ? AbortSignal.any([signal, timeout]) : timeout;
    const fail = (cause: unknown) => reject(failure(url, cause, { timeout, signal, timeoutMs }));
    const options: https.RequestOptions = {
      method,
      signal: either,
      headers: { ...headers, ...(body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) }) },
      ...(url.protocol === 'https:' ? { minVersion: 'TLSv1.2', ...tls } : {}),
    };
    const answered = (response: http.IncomingMessage) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > MAX_RESPONSE_BYTES) response.destroy(new Error(`the answer is larger than ${MAX_RESPONSE_BYTES} bytes`));
        else chunks.push(chunk);
      });
      response.on('error', fail);
      response.on('end', () => {
        const names = Object.entries(response.headers).map(([k, v]) => [k, Array.isArray(v) ? v.join(', ') : (v ?? '')]);
        resolve({
          status: response.statusCode ?? 0,
          headers: Object.fromEntries(names) as Record<string, string>,
          body: Buffer.concat(chunks).toString('utf8'),
        });
      });
    };
    try {
      const sent = (url.protocol === 'https:' ? https : http).request(url, options, answered);
      sent.on('error', fail);
      sent.end(body);
    } catch (cause) {
      fail(cause); // Node throws at once where TLS material or a header can't be used.
    }
  });
}

function failure(
  url: URL,
  cause: unknown,
  { timeout, signal, timeoutMs }: { timeout: AbortSignal; signal: AbortSignal | undefined; timeoutMs: number },
): TurnpikeError {
  const where = `${url.origin}${url.pathname}`;
  if (signal?.aborted) return new TurnpikeError('ABORTED', `The request to ${where} was aborted.`, { cause: signal.reason });
  if (timeout.aborted) return new TurnpikeError('SERVICE_UNREACHABLE', `${where} did not answer within ${timeoutMs} ms.`, { retriable: true });
  const { message, code } = cause as NodeJS.ErrnoException;
  if (isTlsError(code))
    return new TurnpikeError(
      'TLS_FAILED',
      `${where}: TLS failed: ${message} (${code}). Check the CA file (TURNPIKE_TLS_CA), the host name and, where the server asks for one, the client certificate.`,
      { cause },
    );
  return new TurnpikeError('SERVICE_UNREACHABLE', `${where} can't be reached: ${message || code || 'no connection'}.`, { cause, retriable: true });
}
