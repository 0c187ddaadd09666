// The broker that is measured against, as it is run in production: its own defaults, a heap of a gigabyte, the JIT with both its tiers.
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { Producer } from '@platformatic/kafka';
import type { AdminPort, Link } from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { type Platform, startPlatform } from '@turnpike/testing';
import { openLink } from '../support/service.ts';
import type { OAuthFiles } from './job.ts';
import { at, keys, valuesOf } from './records.ts';
import { RequestCounter } from './requests.ts';

const PARTITIONS = 6;
const SUPER_USERS = ['platform-admin', 'broker-1', 'broker-2', 'broker-3', 'ANONYMOUS', 'bench'];
/** Enough that nothing waits for it, little enough that a long run doesn't fill the disk. */
const RETENTION = { 'segment.bytes': '67108864', 'retention.bytes': '268435456', 'file.delete.delay.ms': '1000' };

export class BenchCluster implements AsyncDisposable {
  readonly #platform: Platform;
  readonly #link: Link;
  readonly #identity: AsyncDisposable;
  readonly folder: string;
  readonly requests: RequestCounter;

  private constructor(platform: Platform, link: Link, identity: AsyncDisposable, requests: RequestCounter) {
    this.requests = requests;
    this.#platform = platform;
    this.#link = link;
    this.#identity = identity;
    this.folder = path.join(platform.directory, 'bench');
    mkdirSync(this.folder, { recursive: true, mode: 0o700 });
  }

  static async start(nodes: 1 | 3): Promise<BenchCluster> {
    const platform = await startPlatform({
      nodes,
      plaintext: true,
      tokenTtlSeconds: 3_600,
      reauthMs: 3_600_000,
      javaOptions: ['-Xms1g', '-Xmx1g', '-XX:+UseG1GC', '-XX:MaxGCPauseMillis=20'],
      properties: {
        'super.users': SUPER_USERS.map((name) => `User:${name}`).join(';'),
        'inter.broker.listener.name': 'PLAINTEXT',
        'num.network.threads': '3',
        'num.io.threads': '8',
        'log.retention.check.interval.ms': '5000',
      },
    });
    const identity = await mtlsIdentity(platform.admin.mtls);
    const link = await openLink(platform, identity);
    const cluster = new BenchCluster(platform, link, identity, await RequestCounter.attach(platform.nodes.flatMap((node) => node.pid ?? [])));
    await cluster.#warmUp();
    return cluster;
  }

  /** A broker's first records are its dearest: none of the clients is to pay for them. */
  async #warmUp(): Promise<void> {
    await this.topic('bench-warm-up', false);
    await this.fill('bench-warm-up', 300_000, 200);
    await this.remove('bench-warm-up');
  }

  get brokerPids(): readonly number[] {
    return this.#platform.nodes.flatMap((node) => node.pid ?? []);
  }

  bootstrap(listener: 'plaintext' | 'oauth'): readonly string[] {
    return this.#platform.nodes.map(({ ports }) => `127.0.0.1:${ports[listener]}`);
  }

  async oauth(): Promise<OAuthFiles> {
    const { oauth } = await this.#platform.principal('bench');
    const { tokenUrl, clientId, clientSecretFile = '', scope, caFile } = oauth;
    return { tokenUrl, clientId, clientSecretFile, scope, caFile };
  }

  /** A topic of its own for a test, so that one test's records are no work for the next. */
  async topic(name: string, keep: boolean): Promise<void> {
    const [result] = await this.#admin.createTopics([
      { name, partitions: PARTITIONS, replicationFactor: this.#platform.nodes.length, configs: keep ? {} : RETENTION },
    ]);
    if (result?.error) throw result.error;
  }

  /** Records to read, in batches of 500, each value framed as the registry's wire format has it: peers see bytes, ours takes the frame off. */
  async fill(topic: string, records: number, valueBytes: number): Promise<void> {
    const producer = new Producer({ clientId: 'bench-fill', bootstrapBrokers: [...this.bootstrap('plaintext')], autocreateTopics: false });
    const values = valuesOf(valueBytes - 5).map((value) => Buffer.concat([Buffer.from([0, 0, 0, 0, 1]), value]));
    const perCall = 500;
    let next = 0;
    const caller = async () => {
      while (next < records) {
        const from = next;
        next += perCall;
        const partition = (from / perCall) % PARTITIONS;
        const messages = Array.from({ length: perCall }, (_, i) => ({ topic, partition, key: at(keys, from + i), value: at(values, from + i) }));
        await producer.send({ messages, acks: -1 });
      }
    };
    await Promise.all(Array.from({ length: PARTITIONS * 2 }, caller));
    await producer.close();
  }

  async remove(topic: string): Promise<void> {
    await this.#admin.deleteTopics([topic]);
  }

  get #admin(): AdminPort {
    if (!this.#link.admin) throw new Error('the link has no administration');
    return this.#link.admin;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#link[Symbol.asyncDispose]();
    await this.#identity[Symbol.asyncDispose]();
    await this.#platform[Symbol.asyncDispose]();
  }
}
