import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Logger } from '@turnpike/core/spi';

/** A server on loopback that answers as a test tells it to. */
export async function serve(listener: RequestListener): Promise<AsyncDisposable & { readonly url: string; readonly server: Server }> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    server,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

export interface Asked {
  readonly authorization: string | undefined;
  readonly form: URLSearchParams;
}

/** A token endpoint: `answer` is asked anew at each request. */
export class FakeIssuer implements AsyncDisposable {
  readonly asked: Asked[] = [];
  /** ms, in the answers' `expires_in`. */
  lifeMs = 100_000;
  answer: (response: ServerResponse, asked: Asked) => void = (response) => this.grant(response);
  #served!: Awaited<ReturnType<typeof serve>>;

  static async start(): Promise<FakeIssuer> {
    const issuer = new FakeIssuer();
    issuer.#served = await serve((request, response) => void issuer.#handle(request, response));
    return issuer;
  }

  get tokenUrl(): string {
    return `${this.#served.url}/token`;
  }

  grant(response: ServerResponse, more: Readonly<Record<string, unknown>> = {}): void {
    const body = { access_token: `token-${this.asked.length}`, token_type: 'Bearer', expires_in: this.lifeMs / 1000, ...more };
    response.setHeader('content-type', 'application/json').end(JSON.stringify(body));
  }

  refuse(status: number, body: string, headers: Readonly<Record<string, string>> = { 'content-type': 'application/json' }): void {
    this.answer = (response) => void response.writeHead(status, headers).end(body);
  }

  recover(): void {
    this.answer = (response) => this.grant(response);
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    const asked = { authorization: request.headers.authorization, form: new URLSearchParams(body) };
    this.asked.push(asked);
    this.answer(response, asked);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#served[Symbol.asyncDispose]();
  }
}

/** A folder that goes with the test; `write` makes files that only their owner reads. */
export function folder(): Disposable & { readonly path: string; write(name: string, text: string, mode?: number): string } {
  const directory = mkdtempSync(path.join(tmpdir(), 'turnpike-identity-'));
  return {
    path: directory,
    write(name, text, mode = 0o600) {
      const file = path.join(directory, name);
      writeFileSync(file, text, { mode });
      return file;
    },
    [Symbol.dispose]: () => rmSync(directory, { recursive: true, force: true }),
  };
}

export interface Line {
  readonly level: string;
  readonly event: string;
  readonly facts: Readonly<Record<string, unknown>>;
}

export function recordingLogger(): Logger & { readonly lines: Line[]; events(): string[] } {
  const lines: Line[] = [];
  const at =
    (level: string) =>
    (event: string, facts: Readonly<Record<string, unknown>> = {}) =>
      void lines.push({ level, event, facts });
  return { lines, events: () => lines.map((l) => l.event), debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}

export const jwt = (claims: Readonly<Record<string, unknown>>): string =>
  [{ alg: 'none' }, claims]
    .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
    .join('.')
    .concat('.c2ln');
