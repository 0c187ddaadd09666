import { setTimeout as pause } from 'node:timers/promises';
import type { AdminPort, TopicDescription } from '@turnpike/core/spi';
import type { Platform } from '@turnpike/testing';
import type { History } from './history.ts';
import type { Load } from './load.ts';
import type { Random } from './random.ts';

/** How long a cluster may take to find new leaders, and to be back in sync, in ms. */
const PATIENCE_MS = 90_000;
const POLL_MS = 100;
/** How long a broker stays away at least, in ms. */
const AWAY_MS = 1_000;

export interface Kill {
  readonly broker: number;
  /** The one by whose leader the broker was chosen. */
  readonly partition: string;
  /** How many it led. */
  readonly led: number;
  readonly underWay: number;
  readonly mostUnderWay: number;
  /** From the kill to the first acknowledgement of a record that was sent after it to a partition that the broker had led, in ms. */
  readonly firstMs: number;
  /** The same until every one of those partitions had one. */
  readonly allMs: number;
  /** From the kill until it was back and all replicas in sync. */
  readonly backMs: number;
  readonly failed: number;
}

/** Kills leaders of partitions under load, one after another. */
export class Leaders {
  readonly #platform: Platform;
  readonly #admin: AdminPort;
  readonly #topics: readonly string[];
  #last = -1;

  constructor(platform: Platform, admin: AdminPort, topics: readonly string[]) {
    this.#platform = platform;
    this.#admin = admin;
    this.#topics = topics;
  }

  /** Resolves when every replica is in sync and every broker leads a partition. */
  async settled(): Promise<void> {
    await until(
      () => 'every replica is in sync, and every broker leads',
      async () => {
        const [topics, internal] = await Promise.all([this.#describe(), this.#admin.describeTopics(['__consumer_offsets'])]);
        const partitions = [...topics, ...internal].flatMap((t) => t.partitions);
        const leaders = new Set(topics.flatMap((t) => t.partitions.map((p) => p.leader)));
        return partitions.every((p) => p.leader >= 0 && p.isr.length === p.replicas.length) && this.#platform.nodes.every((n) => leaders.has(n.id));
      },
    );
  }

  /** SIGKILL to the leader of a partition, another broker than the last time; resolves when it is back and all is in sync again. */
  async kill(init: { readonly random: Random; readonly load: Load; readonly history: History }): Promise<Kill> {
    const { random, load, history } = init;
    const partitions = (await this.#describe()).flatMap((t) => t.partitions.map((p) => ({ name: `${t.name}/${p.partition}`, leader: p.leader })));
    const chosen = random.of(partitions.filter((p) => p.leader !== this.#last));
    this.#last = chosen.leader;
    const node = this.#platform.nodes.find((n) => n.id === chosen.leader);
    if (!node) throw new Error(`no broker ${chosen.leader}`);
    const waiting = new Set(partitions.filter((p) => p.leader === chosen.leader).map((p) => p.name));
    const count = waiting.size;
    const before = { failed: history.failed, underWay: history.unsettled };
    load.mostUnderWay();
    const killed = performance.now();
    await node.kill();
    const first = history.sent;
    let [firstMs, allMs] = [-1, -1];
    {
      using _ = load.onAcknowledged((topic, partition, event) => {
        if (event < first || !waiting.delete(`${topic}/${partition}`)) return;
        allMs = performance.now() - killed;
        if (firstMs < 0) firstMs = allMs;
      });
      await Promise.all([
        until(
          () => `${[...waiting].join(', ')}, which broker ${node.id} led, has records acknowledged`,
          async () => waiting.size === 0,
        ),
        pause(AWAY_MS),
      ]);
    }
    await node.start();
    await this.settled();
    return {
      broker: node.id,
      partition: chosen.name,
      led: count,
      underWay: before.underWay,
      mostUnderWay: load.mostUnderWay(),
      firstMs,
      allMs,
      backMs: performance.now() - killed,
      failed: history.failed - before.failed,
    };
  }

  #describe(): Promise<readonly TopicDescription[]> {
    return this.#admin.describeTopics(this.#topics);
  }
}

/** A question that fails is asked again: its broker may just have been killed. */
export async function until(what: () => string, isSo: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + PATIENCE_MS;
  let last: unknown;
  while (performance.now() < end) {
    try {
      if (await isSo()) return;
    } catch (error) {
      last = error;
    }
    await pause(POLL_MS);
  }
  throw new Error(`waited ${PATIENCE_MS / 1000} s in vain until ${what()}`, { cause: last });
}
