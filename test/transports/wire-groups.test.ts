import { CleanUp, compileConsumerOptions, compileProducerOptions, GroupConsumer, settleRecords } from '@turnpike/core';
import { type Clock, type Link, noTelemetry, openGate, type Pending, type Serde, silentLogger, systemClock } from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { type Platform, startPlatform } from '@turnpike/testing';
import { wireTransport } from '@turnpike/transports/wire';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MISSED_SOON } from '../support/brokers.ts';
import { Desk } from '../support/service.ts';

const SESSION_MS = 6_000;
const PARTITIONS = [0, 1, 2, 3];
const PROTOCOLS = ['classic', 'consumer'] as const;
type Protocol = (typeof PROTOCOLS)[number];

let platform: Platform;
let desk: Desk;
let identity: Awaited<ReturnType<typeof mtlsIdentity>>;

beforeAll(async () => {
  platform = await startPlatform({
    nodes: 3,
    properties: {
      ...MISSED_SOON,
      'group.consumer.heartbeat.interval.ms': '500',
      'group.consumer.min.heartbeat.interval.ms': '100',
      'group.consumer.session.timeout.ms': `${SESSION_MS}`,
      'group.consumer.min.session.timeout.ms': `${SESSION_MS}`,
    },
  });
  desk = await Desk.open(platform);
  identity = await mtlsIdentity((await platform.principal('g')).mtls);
});
afterAll(async () => {
  await identity?.[Symbol.asyncDispose]();
  await desk?.[Symbol.asyncDispose]();
  await platform?.[Symbol.asyncDispose]();
});

/** The system's, until it stands still: a process that is suspended, and as good as killed until it goes on. */
class StoppableClock implements Clock {
  readonly #held: (() => void)[] = [];
  #stands = false;

  now = (): number => systemClock.now();
  monotonic = (): number => systemClock.monotonic();

  after(ms: number, f: () => void, options?: { readonly holds?: boolean }): Disposable {
    let disposed = false;
    const fire = () => {
      if (disposed) return;
      if (this.#stands) this.#held.push(fire);
      else f();
    };
    const timer = systemClock.after(ms, fire, options);
    return {
      [Symbol.dispose]: () => {
        disposed = true;
        timer[Symbol.dispose]();
      },
    };
  }

  stop(): void {
    this.#stands = true;
  }

  goOn(): void {
    this.#stands = false;
    for (const fire of this.#held.splice(0)) fire();
  }
}

function open(clock: Clock = systemClock): Promise<Link> {
  return wireTransport({ metadataMaxAgeMs: 1_000 }).connect({
    cluster: { name: 'local', bootstrap: platform.cluster?.bootstrap.mtls ?? [] },
    identity,
    clientId: 'g',
    connectTimeoutMs: 10_000,
    clock,
    logger: silentLogger,
    gate: openGate,
    fetchGate: openGate,
    events: settleRecords(noTelemetry, () => {}),
  });
}

const text: Serde<unknown> = { encodeInto: () => -1, ready: async () => {}, prepare: () => undefined, decode: (src) => src.toString() };

/** A group member whose records are told, with its name. */
function join(
  link: Link,
  {
    topic,
    group,
    protocol,
    name,
    told,
  }: { readonly topic: string; readonly group: string; readonly protocol: Protocol; readonly name: string; readonly told: Told },
  clock: Clock = systemClock,
): () => Promise<void> {
  const options = compileConsumerOptions(group, {
    groupProtocol: protocol,
    sessionTimeoutMs: SESSION_MS,
    heartbeatIntervalMs: 300,
    commitIntervalMs: 100,
    requestTimeoutMs: 5_000,
  });
  const consumer = new GroupConsumer({
    topics: new Map([[topic, { key: text, value: text }]]),
    access: { produce: () => {}, consume: () => {} },
    telemetry: noTelemetry,
    clock,
    logger: silentLogger,
    port: link.consumer(options),
    options,
  });
  const running = consumer.run(({ partition, offset }) => told.take(name, partition, offset));
  running.catch((error: Error) => told.failures.push(error));
  return async () => {
    await consumer.close();
    await running;
  };
}

/** What the members of a group have handled. */
class Told {
  readonly by = new Map<string, string[]>();
  readonly #of = PARTITIONS.map(() => new Set<bigint>());
  /** Of members that have ended. */
  readonly failures: Error[] = [];
  /** Records that came before the one in front of them. */
  readonly gaps: string[] = [];

  take(name: string, partition: number, offset: bigint): void {
    const of = this.#of[partition] ?? new Set();
    if (offset > 0n && !of.has(offset - 1n)) this.gaps.push(`${partition}@${offset}`);
    of.add(offset);
    this.by.set(name, [...(this.by.get(name) ?? []), `${partition}@${offset}`]);
  }

  get counts(): number[] {
    return this.#of.map((of) => of.size);
  }

  /** The partitions of which somebody has handled something since its `from`th record. */
  partitionsOf(name: string, from = 0): number[] {
    return [...new Set((this.by.get(name) ?? []).slice(from).map((r) => Number(r.split('@')[0])))].sort();
  }
}

/** One record after another to all partitions, until it is stopped; then the counts of what was acknowledged. */
async function flow(topic: string): Promise<() => Promise<number[]>> {
  const link = await open();
  const port = await link.producer(compileProducerOptions({ deliveryTimeoutMs: 60_000, requestTimeoutMs: 2_000 }));
  await port.warm([topic]);
  const acknowledged = PARTITIONS.map(() => 0);
  const failed: Error[] = [];
  const buf = Buffer.from('x');
  const timer = setInterval(() => {
    for (const partition of PARTITIONS) {
      const pending: Pending = {
        deadlineMs: systemClock.monotonic() + 60_000,
        attempts: 0,
        span: undefined,
        acknowledge: () => {
          acknowledged[partition] = (acknowledged[partition] ?? 0) + 1;
        },
        fail: (error) => failed.push(error),
      };
      port.append({ topic, partition, timestampMs: Date.now(), headers: undefined, buf, keyStart: -1, keyEnd: -1, valueStart: 0, valueEnd: 1 }, pending);
    }
  }, 20);
  return async () => {
    clearInterval(timer);
    await port.flush();
    await link[Symbol.asyncDispose]();
    expect(failed).toEqual([]);
    return acknowledged;
  };
}

async function ground(name: string, groups: readonly string[]): Promise<string> {
  const topic = `groups.${name}`;
  await desk.topic(topic, { partitions: PARTITIONS.length, replicationFactor: 3 });
  await desk.allow('g', { read: [topic], write: [topic], groups });
  return topic;
}

const committed = async (group: string): Promise<number[]> => {
  const offsets = await desk.admin.groupOffsets(group);
  return PARTITIONS.map((partition) => Number(offsets.find((o) => o.partition === partition)?.offset ?? 0n));
};

describe.each(PROTOCOLS)('wire: a group of the %s protocol', (protocol) => {
  it('gives what a member had that fell silent to the others when its session is over, and takes it in again when it goes on', async () => {
    const group = `g.silent.${protocol}`;
    const topic = await ground(`silent.${protocol}`, [group]);
    const told = new Told();
    const clock = new StoppableClock();
    await using link = await open();
    await using its = await open(clock);
    await using members = new CleanUp();
    members.defer(join(its, { topic, group, protocol, name: 'silent', told }, clock));
    members.defer(join(link, { topic, group, protocol, name: 'other', told }));
    members.defer(() => clock.goOn());
    const stop = await flow(topic);
    members.defer(stop);
    const share = (name: string) => told.partitionsOf(name, Math.max(0, (told.by.get(name)?.length ?? 0) - 20)).length;
    await expect.poll(() => [share('silent'), share('other')], { timeout: 20_000 }).toEqual([2, 2]);
    clock.stop();
    await expect.poll(() => share('other'), { timeout: 20_000 }).toBe(4);
    clock.goOn();
    const before = told.by.get('silent')?.length ?? 0;
    await expect.poll(() => told.partitionsOf('silent', before + 20).length, { timeout: 20_000 }).toBe(2);
    const sent = await stop();
    await expect.poll(() => told.counts, { timeout: 20_000 }).toEqual(sent);
    await expect.poll(() => committed(group), { timeout: 20_000 }).toEqual(sent);
    expect(told.gaps).toEqual([]);
  });
});

describe('wire: groups while brokers die', () => {
  it('read on, without passing over a record, while each broker in turn is killed, the coordinators among them', async () => {
    const groups = PROTOCOLS.map((protocol) => ({ protocol, group: `g.killed.${protocol}`, told: new Told() }));
    const topic = await ground(
      'killed',
      groups.map((g) => g.group),
    );
    await using link = await open();
    await using members = new CleanUp();
    for (const { protocol, group, told } of groups) for (const name of ['one', 'two']) members.defer(join(link, { topic, group, protocol, name, told }));
    const stop = await flow(topic);
    members.defer(stop);
    const handled = () => groups.map(({ told }) => told.counts.reduce((a, b) => a + b));
    const more = async (count: number) => {
      const before = handled();
      const behind = () => {
        for (const { told } of groups) expect(told.failures).toEqual([]);
        return groups.filter((_, i) => (handled()[i] ?? 0) <= (before[i] ?? 0) + count).map(({ group }) => group);
      };
      await expect.poll(behind, { timeout: 40_000, message: 'both groups read on' }).toEqual([]);
    };
    await more(100);
    for (const node of platform.nodes) {
      await node.kill();
      await more(200);
      await node.start();
      await more(200);
    }
    const sent = await stop();
    for (const { group, told } of groups) {
      await expect.poll(() => told.counts, { timeout: 30_000 }).toEqual(sent);
      await expect.poll(() => committed(group), { timeout: 30_000 }).toEqual(sent);
      expect(told.gaps).toEqual([]);
    }
  }, 300_000);
});
