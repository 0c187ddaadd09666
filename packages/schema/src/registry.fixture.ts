import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { HttpPort } from '@turnpike/core/spi';

/** What the stand-in answers: a status, and a body that is sent as it is when it is text, else as JSON. "hang up" = no answer at all. */
export type Reply = { readonly status?: number; readonly body?: unknown; readonly headers?: Readonly<Record<string, string>> } | 'hang up';
export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly body: unknown;
  readonly headers: IncomingMessage['headers'];
}

/** A server on loopback that answers by a script, and keeps what it was asked. */
export interface ScriptedServer extends AsyncDisposable {
  readonly url: string;
  readonly asked: Asked[];
  /** For the n-th request, from 0. */
  reply: (asked: Asked, n: number) => Reply | Promise<Reply>;
}

export async function scriptedServer(reply: ScriptedServer['reply'] = () => ({ body: {} })): Promise<ScriptedServer> {
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const text = Buffer.concat(chunks).toString('utf8');
    const asked: Asked = { method: request.method ?? '', path: request.url ?? '', body: text === '' ? undefined : JSON.parse(text), headers: request.headers };
    scripted.asked.push(asked);
    const answer = await scripted.reply(asked, scripted.asked.length - 1);
    if (answer === 'hang up') {
      request.socket.destroy();
      return;
    }
    response.writeHead(answer.status ?? 200, answer.headers);
    response.end(typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const scripted: ScriptedServer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked: [],
    reply,
    [Symbol.asyncDispose]: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return scripted;
}

/** The port as a process without any identity has it. */
export const plainHttp: HttpPort = {
  async request({ url, method = 'GET', headers, body }) {
    const response = await fetch(url, { method, redirect: 'manual', ...(headers ? { headers } : {}), ...(body === undefined ? {} : { body }) });
    return { status: response.status, headers: Object.fromEntries(response.headers), body: await response.text() };
  },
};
