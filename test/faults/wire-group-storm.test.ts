import { type ConsumerOptions, compileConsumerOptions, compileProducerOptions, GroupConsumer, RecordHeaders } from '@turnpike/core';
import { type Link, noTelemetry, type Pending, type Serde, silentLogger, systemClock } from '@turnpike/core/spi';
import { type CertificateAuthority, certificateAuthority } from '@turnpike/testing';
import { beforeAll, describe, expect, it } from 'vitest';
import { FakeBroker } from './fake-broker.ts';
import { linkTo, random } from './link.ts';

const text: Serde<unknown> = { encodeInto: () => -1, ready: async () => {}, prepare: () => undefined, decode: (src) => src.toString() };
const PARTITIONS = [0, 1, 2, 3];
const STORM_MS = 2_500;

let ca: CertificateAuthority;

beforeAll(async () => {
  ca = await certificateAuthority();
});

/** What the handlers of all members have seen of each partition. */
class Seen {
  readonly handled = PARTITIONS.map(() => new Set<bigint>());
  readonly gaps: string[] = [];
  /** Records of which a member handled one while another one, to whom nothing was said, handled another of the same partition. */
  readonly shared: string[] = [];
  readonly #inHand = new Map<number, { readonly member: number; readonly signal: AbortSignal }>();

  async handle(member: number, { partition, offset }: { readonly partition: number; readonly offset: bigint }, signal: AbortSignal, ms: number): Promise<void> {
    const of = this.handled[partition] ?? new Set();
    if (offset > 0n && !of.has(offset - 1n)) this.gaps.push(`${partition}@${offset}`);
    const other = this.#inHand.get(partition);
    if (other && other.member !== member && !other.signal.aborted) this.shared.push(`${partition}@${offset}`);
    const own = { member, signal };
    this.#inHand.set(partition, own);
    if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms));
    if (this.#inHand.get(partition) === own) this.#inHand.delete(partition);
    if (!signal.aborted) of.add(offset);
  }
}

function consumerOf(link: Link, raw: ConsumerOptions): GroupConsumer {
  const options = compileConsumerOptions('g', {
    heartbeatIntervalMs: 30,
    fetchWaitMs: 10,
    requestTimeoutMs: 500,
    commitIntervalMs: 20,
    maxQueuedRecords: 20,
    ...raw,
  });
  return new GroupConsumer({
    topics: new Map([['t', { key: text, value: text }]]),
    access: { produce: () => {}, consume: () => {} },
    telemetry: noTelemetry,
    clock: systemClock,
    logger: silentLogger,
    port: link.consumer(options),
    options,
  });
}

/** Records flow, leaders and connections come and go, until the storm is over; then all that was written must be committed. */
async function weather(
  broker: FakeBroker,
  link: Link,
  seen: Seen,
  { next, dice, calm, disturb }: { readonly next: () => number; readonly dice: () => number; calm(): void; disturb?(): void },
): Promise<void> {
  const fill = await link.producer(compileProducerOptions());
  await fill.warm(['t']);
  const until = performance.now() + STORM_MS;
  using _ = setInterval(() => {
    const leaders = broker.topics.get('t') ?? [];
    for (const [p, leader] of leaders.entries()) if (leader < 0) leaders[p] = Math.floor(next() * 3);
    if (dice() < 0.1) broker.cut();
    disturb?.();
  }, 100);
  while (performance.now() < until) {
    const partition = Math.floor(next() * 4);
    const buf = Buffer.from('x');
    const pending: Pending = { deadlineMs: systemClock.monotonic() + 10_000, attempts: 0, span: undefined, acknowledge: () => {}, fail: () => {} };
    fill.append(
      { topic: 't', partition, timestampMs: 1, headers: new RecordHeaders().entries(), buf, keyStart: -1, keyEnd: -1, valueStart: 0, valueEnd: 1 },
      pending,
    );
    await new Promise((resolve) => setTimeout(resolve, next() * 4));
    for (const [p, of] of seen.handled.entries())
      for (let o = 0n; o < (broker.committed.get(`t/${p}`) ?? 0n); o++) if (!of.has(o)) expect.unreachable(`committed past ${p}@${o}, which is not handled`);
  }
  calm();
  await fill.flush();
  const ends = () => PARTITIONS.map((p) => broker.end('t', p));
  await expect.poll(() => PARTITIONS.map((p) => broker.committed.get(`t/${p}`) ?? 0n), { timeout: 15_000 }).toEqual(ends());
  expect(seen.gaps).toEqual([]);
}

function badLeaders(broker: FakeBroker, dice: () => number, next: () => number): void {
  broker.onFetch = ({ partition }) => {
    if (dice() < 0.04) broker.topics.get('t')?.splice(partition, 1, Math.floor(next() * 4) - 1);
    const d = dice();
    return d < 0.1 ? ([6, 3, 5, 75, 78][Math.floor(next() * 5)] ?? 6) : 0;
  };
}

describe.each([1, 2, 3, 4])('a wire consumer in a storm (seed %i)', (seed) => {
  it('passes over no record, and never commits past one that is not handled', async () => {
    const next = random(seed);
    await using broker = await FakeBroker.open(ca, { nodes: 3, topics: { t: 4 } });
    await using link = await linkTo(broker, ca);
    let calm = false;
    const dice = () => (calm ? 1 : next());
    badLeaders(broker, dice, next);
    broker.onHeartbeat = () => {
      const d = dice();
      return d < 0.05 ? 27 : d < 0.08 ? 25 : d < 0.1 ? 22 : d < 0.15 ? 16 : 0;
    };
    broker.onCommit = (generation, id) => {
      const d = dice();
      if (id !== broker.member) return 25;
      if (generation !== broker.generation) return 22;
      return d < 0.1 ? 'cut' : d < 0.2 ? 16 : d < 0.25 ? 27 : 0;
    };
    broker.onJoin = () => (dice() < 0.1 ? 'cut' : dice() < 0.1 ? 15 : 0);
    const seen = new Seen();
    const consumer = consumerOf(link, {});
    const running = consumer.run((event, { signal }) => seen.handle(0, event, signal, dice() < 0.2 ? next() * 10 : 0));
    const close = async () => {
      await consumer.close();
      await running;
    };
    await weather(broker, link, seen, {
      next,
      dice,
      calm: () => {
        calm = true;
      },
    }).finally(close);
  });
});

// The broker puts members out: then two may have a partition for a moment, and only one of them may commit.
describe.each([
  { seed: 1, expels: false },
  { seed: 2, expels: false },
  { seed: 3, expels: true },
  { seed: 4, expels: true },
])('three KIP-848 members in a storm ($seed, the broker puts members out: $expels)', ({ seed, expels }) => {
  it('pass over no record, never commit past one that is not handled, and hand a partition on only when it has drained', async () => {
    const next = random(seed);
    await using broker = await FakeBroker.open(ca, { nodes: 3, topics: { t: 4 } });
    await using link = await linkTo(broker, ca);
    let calm = false;
    const dice = () => (calm ? 1 : next());
    badLeaders(broker, dice, next);
    broker.group.sessionMs = 2_000;
    broker.group.onHeartbeat = () => {
      const d = dice();
      return d < 0.03 ? 'lost' : d < 0.06 ? 'cut' : d < 0.11 ? ([14, 15, 16][Math.floor(next() * 3)] ?? 14) : 0;
    };
    broker.onCommit = () => {
      const d = dice();
      return d < 0.1 ? 'cut' : d < 0.2 ? 16 : 0;
    };
    const seen = new Seen();
    const start = (member: number) => {
      const consumer = consumerOf(link, { groupProtocol: 'consumer' });
      const running = consumer.run((event, { signal }) => seen.handle(member, event, signal, dice() < 0.2 ? next() * 10 : 0));
      running.catch(() => {}); // Awaited when it is closed.
      return async () => {
        await consumer.close();
        await running;
      };
    };
    const leave = [0, 1, 2].map(start);
    const left: Promise<void>[] = [];
    let ticks = 0;
    await weather(broker, link, seen, {
      next,
      dice,
      calm: () => {
        calm = true;
      },
      disturb: () => {
        if (calm) return;
        const turn = ticks++;
        if (turn % 7 === 2) broker.coordinator = Math.floor(next() * 3);
        if (expels && turn % 9 === 6) broker.group.expel([...broker.group.members.keys()][Math.floor(next() * 3)] ?? '');
        if (turn % 5 !== 4) return;
        const [gone = async () => {}] = leave.splice(Math.floor(next() * 3), 1);
        left.push(gone());
        leave.push(start(ticks + 2));
      },
    }).finally(() => Promise.all([...left, ...leave.map((f) => f())]));
    if (!expels) expect(seen.shared).toEqual([]);
  });
});
