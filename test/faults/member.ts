import { type CompiledConsumer, type ConsumerOptions, compileConsumerOptions, compileProducerOptions } from '@turnpike/core';
import type { AssignmentListener, ConsumerPort, Link, TopicPartition } from '@turnpike/core/spi';
import { sendValue } from '../support/records.ts';

export interface Member {
  readonly port: ConsumerPort;
  /** What its listener has heard, in order. */
  readonly told: string[];
  readonly options: CompiledConsumer;
  readonly joined: Promise<void>;
}

/** A member of the group "g" at a fake broker. */
export function memberOf(link: Link, raw: ConsumerOptions, listener: Partial<AssignmentListener> = {}, topics = ['t', 'other']): Member {
  const told: string[] = [];
  const names = (tps: readonly TopicPartition[]) =>
    tps
      .map((tp) => `${tp.topic}/${tp.partition}`)
      .sort()
      .join();
  const options = compileConsumerOptions('g', { heartbeatIntervalMs: 50, fetchWaitMs: 20, requestTimeoutMs: 2_000, ...raw });
  const port = link.consumer(options);
  const joined = port.subscribe(topics, {
    assigned: (tps) => void told.push(`assigned ${names(tps)}`),
    revoking: async (tps) => {
      told.push(`revoking ${names(tps)}`);
      await listener.revoking?.(tps);
    },
    lost: (tps) => {
      told.push(`lost ${names(tps)}`);
      listener.lost?.(tps);
    },
    failed: (error) => void told.push(`failed ${error.code}`),
  });
  joined.catch(() => {});
  return { port, told, options, joined };
}

/** Writes these values into a partition, and waits until they have settled. */
export async function fill(link: Link, topic: string, partition: number, values: readonly string[]): Promise<void> {
  const port = await link.producer(compileProducerOptions());
  await port.warm([topic]);
  await Promise.all(values.map((value) => sendValue(port, { topic, partition, value: Buffer.from(value), withinMs: 3_000 })));
  await port[Symbol.asyncDispose]();
}

/** Reads until `count` have come, within 5 s. */
export async function readValues(port: ConsumerPort, count: number): Promise<string[]> {
  const got: string[] = [];
  const until = performance.now() + 5_000;
  while (got.length < count && performance.now() < until) for (const b of await port.poll(100)) got.push(...[...b.records].map((r) => String(r.value)));
  return got;
}
