import { connect } from '@turnpike/client';
import { startPlatform } from '@turnpike/testing';
import { describe, expect, it, vi } from 'vitest';
import { MISSED_SOON } from '../support/brokers.ts';
import { Desk } from '../support/service.ts';

describe('three brokers, one of which is killed under load', () => {
  it('loses and repeats nothing, in the order of each key, while leaders and the group’s coordinator move', async () => {
    await using platform = await startPlatform({ nodes: 3, properties: MISSED_SOON });
    await using desk = await Desk.open(platform);
    await desk.topic('loss.t', { partitions: 6, replicationFactor: 3, configs: { 'min.insync.replicas': '2' } });
    await desk.allow('loss', { write: ['loss.t'], read: ['loss.t'], groups: ['loss.group'] });
    const { service, options } = await desk.service({ name: 'loss', produces: ['loss.t'], consumes: ['loss.t'] });
    // An ACL reaches the other brokers a moment after the one that was asked.
    const opened = await vi.waitFor(() => connect(service, { ...options, producer: { requestTimeoutMs: 5_000 } }), { timeout: 10_000 });
    await using kafka = opened;
    const seen: { key: string | null; n: number }[] = [];
    const consumer = kafka.consumer(['loss.t'], { commitIntervalMs: 200, heartbeatIntervalMs: 500 });
    const running = consumer.run((event) => void seen.push({ key: event.key, n: event.value?.n ?? -1 }));

    const total = 1_500;
    const sends: Promise<unknown>[] = [];
    for (let n = 0; n < total; n++) {
      sends.push(kafka.producer('loss.t').send({ id: `k${n % 11}`, n }));
      if (n === 400) await platform.nodes[1]?.kill();
      await new Promise((resolve) => setTimeout(resolve, 4));
    }
    await Promise.all(sends);
    await expect.poll(() => new Set(seen.map((e) => e.n)).size, { timeout: 60_000, interval: 200 }).toBe(total);
    await consumer.close();
    await running;
    expect(seen).toHaveLength(total);
    for (const [, of] of Map.groupBy(seen, (e) => e.key)) expect(of.map((e) => e.n)).toEqual(of.map((e) => e.n).sort((a, b) => a - b));
  }, 150_000);
});
