import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import type { Identity, TlsMaterial, Token } from '@turnpike/core/spi';
import { generateKeyPair, SignJWT } from 'jose';

/** Another address for a broker: bytes go both ways untouched, so that only the name is wrong. */
export class Forwarder implements AsyncDisposable {
  readonly address: string;
  readonly #close: () => Promise<void>;

  private constructor(address: string, close: () => Promise<void>) {
    this.address = address;
    this.#close = close;
  }

  static async open(host: string, target: string): Promise<Forwarder> {
    const sockets = new Set<Socket>();
    const keep = (socket: Socket, other: () => Socket) => {
      sockets.add(socket);
      socket.on('error', () => other().destroy());
      socket.on('close', () => {
        sockets.delete(socket);
        other().destroy();
      });
    };
    const server = createServer((near) => {
      const far = connect(Number(target.slice(target.lastIndexOf(':') + 1)), '127.0.0.1');
      keep(near, () => far);
      keep(far, () => near);
      near.pipe(far).pipe(near);
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(0, host, resolve);
    });
    const { port } = server.address() as AddressInfo;
    return new Forwarder(`${host}:${port}`, async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#close();
  }
}

interface Change {
  readonly tls?: TlsMaterial;
  readonly token?: () => Promise<Token>;
  readonly onChange?: Identity['onChange'];
}

/** The same identity with other TLS material, or another token. */
export const altered = (identity: Identity, change: Change): Identity => ({
  kind: identity.kind,
  principal: identity.principal,
  tls: () => change.tls ?? identity.tls(),
  token: change.token ?? ((audience) => identity.token(audience)),
  onChange: change.onChange ?? ((listener) => identity.onChange(listener)),
  http: identity.http,
});

/** An identity that has a new token every so many ms. A token's claim ends with a whole second, up to one before its life as the issuer tells it: nothing of five minutes, but a quarter of four seconds, and who
 *  proves itself with the rest of such a token is asked again at once (a broker takes no two proofs of one connection within a second, KIP-368). */
export async function renewing(identity: Identity, everyMs: number, issue: () => Promise<Token>): Promise<Identity & Disposable> {
  const listeners = new Set<() => void>();
  let token = await issue();
  const timer = setInterval(() => {
    void issue().then((next) => {
      token = next;
      for (const listener of listeners) listener();
    });
  }, everyMs);
  const onChange = (listener: () => void): Disposable => {
    listeners.add(listener);
    return { [Symbol.dispose]: () => listeners.delete(listener) };
  };
  return Object.assign(altered(identity, { token: async () => token, onChange }), { [Symbol.dispose]: () => clearInterval(timer) });
}

/** What a token says, signed by a key that no issuer has published. */
export async function forged(token: Token): Promise<Token> {
  const [, payload = ''] = token.value.split('.');
  const { privateKey } = await generateKeyPair('RS256');
  const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as Record<string, unknown>;
  const value = await new SignJWT(claims).setProtectedHeader({ alg: 'RS256', typ: 'at+jwt', kid: 'foreign' }).sign(privateKey);
  return { value, expiresAtMs: token.expiresAtMs };
}

/** This process's TCP connections to a loopback port, by their local port; undefined where the system doesn't tell (only Linux does). Also sees those of a native library. */
export function connectionsTo(port: number): ReadonlySet<number> | undefined {
  const own = new Set(socketInodes());
  const remote = port.toString(16).toUpperCase().padStart(4, '0');
  try {
    const found = ['/proc/self/net/tcp', '/proc/self/net/tcp6'].flatMap((file) =>
      readFileSync(file, 'utf8')
        .split('\n')
        .slice(1)
        .map((line) => line.trim().split(/\s+/)),
    );
    // Columns of proc(5): 1 local address, 2 remote address, 3 state (01 = established), 9 inode.
    const ours = found.filter((f) => f[2]?.endsWith(`:${remote}`) && f[3] === '01' && own.has(f[9] ?? ''));
    return new Set(ours.map((f) => Number.parseInt(f[1]?.split(':')[1] ?? '', 16)));
  } catch {
    return undefined;
  }
}

function socketInodes(): string[] {
  const inodeOf = (fd: string): string => {
    try {
      return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1] ?? '';
    } catch {
      return ''; // Closed meanwhile.
    }
  };
  try {
    return readdirSync('/proc/self/fd').map(inodeOf);
  } catch {
    return [];
  }
}
