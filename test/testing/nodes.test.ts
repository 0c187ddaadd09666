import { connect } from '@turnpike/client';
import { silentLogger } from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { registryClient } from '@turnpike/schema';
import { startPlatform } from '@turnpike/testing';
import { describe, expect, it } from 'vitest';
import { MISSED_SOON } from '../support/brokers.ts';
import { Desk } from '../support/service.ts';
import { processesWith } from './programs.ts';

describe('a local platform of three nodes', () => {
  it('keeps three replicas, two of them in sync: goes on with one killed, and heals', async () => {
    await using platform = await startPlatform({ nodes: 3, properties: MISSED_SOON });
    await using desk = await Desk.open(platform);
    expect(platform.cluster?.bootstrap.mtls).toHaveLength(3);
    expect((await desk.admin.cluster()).brokers.map((b) => b.id).sort()).toEqual([1, 2, 3]);

    const [made] = await desk.admin.createTopics([{ name: 'n.t', partitions: 3, replicationFactor: 3 }]);
    expect(made?.error).toBeUndefined();
    // What administration has made is so at every broker, though each learns of it from the controller.
    const configs = (await desk.admin.topicConfigs(['n.t'])).get('n.t');
    expect(configs?.find((c) => c.name === 'min.insync.replicas')?.value).toBe('2');
    await desk.allow('n', { write: ['n.t'], read: ['n.t'], groups: ['n.group'] });
    const { service, options } = await desk.service({ name: 'n', produces: ['n.t'], consumes: ['n.t'] });
    await using identity = await mtlsIdentity(platform.admin.mtls);
    await registryClient({ url: platform.registryUrl, http: identity.http }).register('n.t-value', service.produces['n.t']?.value.text ?? '');
    await using kafka = await connect(service, { ...options, logger: silentLogger });

    const inSync = async () => (await desk.admin.describeTopics(['n.t']))[0]?.partitions.map((p) => p.isr.length);
    const send = (from: number) => Promise.all(Array.from({ length: 30 }, (_, i) => kafka.producer('n.t').send({ id: `k${i}`, n: from + i })));
    await send(0);
    await expect.poll(inSync, { timeout: 15_000 }).toEqual([3, 3, 3]);

    // Above, an outgoing connection of anybody may take a port while its broker is down.
    for (const { ports } of platform.nodes) expect(Math.max(...Object.values(ports))).toBeLessThan(32_768);
    const [first] = platform.nodes;
    await first?.kill();
    expect(first?.running).toBe(false);
    await send(30);
    await expect.poll(inSync, { timeout: 15_000 }).toEqual([2, 2, 2]);

    await first?.start();
    await expect.poll(inSync, { timeout: 15_000 }).toEqual([3, 3, 3]);
    await send(60);

    const got = new Set<number>();
    for await (const event of kafka.consumer(['n.t'])) {
      if (event.value && event.value.n >= 0) got.add(event.value.n);
      if (got.size === 90) break;
    }
    expect([...got].sort((a, b) => a - b)).toEqual(Array.from({ length: 90 }, (_, n) => n));
    const { directory } = platform;
    await platform[Symbol.asyncDispose]();
    expect([...processesWith(directory).values()]).toEqual([]);
  });
});
