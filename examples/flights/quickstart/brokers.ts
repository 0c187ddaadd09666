import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { Admin, Consumer, MessagesStreamModes, Producer } from '@platformatic/kafka';
import { type LocalService, prepareLocal } from '@turnpike/platform';
import { type Platform, startPlatform } from '@turnpike/testing';
import { type Backend, programOf, type RunningService, type ServiceName, type StoredEvent, workplaces } from './backend.ts';
import type { Message, Report } from './report.ts';
import type { TransportName } from './transports.ts';

/** A real broker, and each service in a process of its own. */
export async function brokers(say: (line: string) => void, transport: TransportName): Promise<Backend> {
  const platform = await startPlatform({ onProgress: say });
  try {
    const services: LocalService[] = [];
    for (const { manifest, folder } of workplaces())
      services.push(...(await prepareLocal({ platform, manifests: [manifest], folder, onProgress: (line) => say(`+ ${line}`) })));
    return new Brokers(platform, services, transport);
  } catch (error) {
    await platform[Symbol.asyncDispose]();
    throw error;
  }
}

class Brokers implements Backend {
  readonly bypasser = "a raw client with flight-ops' certificate";
  readonly #platform: Platform;
  readonly #services: readonly LocalService[];
  readonly #transport: TransportName;
  readonly #children = new Set<ChildProcess>();

  constructor(platform: Platform, services: readonly LocalService[], transport: TransportName) {
    this.#platform = platform;
    this.#transport = transport;
    this.#services = services;
    // A signal or an exit ends the platform (by itself), and then its services have no cluster to drain to.
    for (const end of ['SIGINT', 'SIGTERM', 'SIGHUP', 'exit'] as const)
      process.once(end, () => {
        for (const child of this.#children) child.kill('SIGKILL');
      });
  }

  async start(name: ServiceName, report: Report): Promise<RunningService> {
    const env = { ...process.env, ...this.#services.find((s) => s.name === name)?.env };
    const child = spawn(process.execPath, [programOf(name), this.#transport], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], env });
    this.#children.add(child);
    child.on('message', (message) => report(message as Message));
    let stopping = false;
    const done = once(child, 'exit').then(([code, signal]) => {
      this.#children.delete(child);
      if (code !== 0 && !(stopping && signal === 'SIGTERM')) throw new Error(`${name} ended with ${signal ?? `code ${code}`}`);
    });
    done.catch(() => {});
    const stop = async () => {
      stopping = true;
      child.kill('SIGTERM');
      await done;
    };
    return { done, stop };
  }

  /** With a client that shares no code path with the one that is shown: it decodes, counts and commits by itself. */
  async readBack(topics: readonly string[]): Promise<readonly StoredEvent[]> {
    const consumer = new Consumer({ ...this.#as('admin'), groupId: 'quickstart.audit' });
    try {
      const ends = await consumer.listOffsets({ topics: [...topics] });
      let left = [...ends.values()].flat().reduce((sum, end) => sum + Number(end), 0);
      const stored: StoredEvent[] = [];
      if (left === 0) return stored;
      const stream = await consumer.consume({ topics: [...topics], mode: MessagesStreamModes.EARLIEST, autocommit: false });
      for await (const message of stream) {
        stored.push({ topic: message.topic, value: message.value });
        if (--left === 0) break;
      }
      return stored;
    } finally {
      await consumer.close(true);
    }
  }

  async uncommitted(group: string, topic: string): Promise<number> {
    const admin = new Admin(this.#as('admin'));
    const consumer = new Consumer({ ...this.#as('admin'), groupId: 'quickstart.audit' });
    try {
      const ends = (await consumer.listOffsets({ topics: [topic] })).get(topic) ?? [];
      const [of] = await admin.listConsumerGroupOffsets({ groups: [group] });
      const committed = of?.topics.find((t) => t.name === topic)?.partitions ?? [];
      return ends.reduce((sum, end, p) => sum + Number(end - (committed.find((c) => c.partitionIndex === p)?.committedOffset ?? 0n)), 0);
    } finally {
      await Promise.all([admin.close(), consumer.close()]);
    }
  }

  async bypass(topic: string): Promise<string> {
    const producer = new Producer(this.#as('flight-ops'));
    try {
      await producer.send({ messages: [{ topic, value: Buffer.from('past the grant') }] });
      return 'it went through';
    } catch (error) {
      return kafkaErrorOf(error) ?? String(error);
    } finally {
      await producer.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(
      [...this.#children].map(async (child) => {
        child.kill('SIGKILL');
        await once(child, 'exit');
      }),
    );
    await this.#platform[Symbol.asyncDispose]();
  }

  #as(who: 'admin' | 'flight-ops') {
    const files =
      who === 'admin'
        ? this.#platform.admin.mtls
        : {
            certFile: this.#services.find((s) => s.name === who)?.env.TURNPIKE_TLS_CERT ?? '',
            keyFile: this.#services.find((s) => s.name === who)?.env.TURNPIKE_TLS_KEY ?? '',
            caFile: this.#platform.admin.mtls.caFile,
          };
    return {
      clientId: 'quickstart',
      bootstrapBrokers: [...(this.#platform.cluster?.bootstrap.mtls ?? [])],
      tls: { ca: readFileSync(files.caFile), cert: readFileSync(files.certFile), key: readFileSync(files.keyFile) },
      retries: 0,
    };
  }
}

/** The broker's error stands somewhere inside what the library throws. */
function kafkaErrorOf(error: unknown): string | undefined {
  const { apiId, errors = [], cause } = error as { apiId?: string; errors?: readonly unknown[]; cause?: unknown };
  if (apiId !== undefined) return apiId;
  for (const inner of [...errors, cause]) {
    const found = inner ? kafkaErrorOf(inner) : undefined;
    if (found !== undefined) return found;
  }
  return undefined;
}
