// SIGTERM, as Kubernetes sends it, and SIGINT, as Ctrl-C does, to a process of its own that consumes.

import { connect } from '@turnpike/client';
import type { ServiceContract } from '@turnpike/client/generated';
import { type Platform, startPlatform } from '@turnpike/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Desk } from '../support/service.ts';
import { type Program, startProgram } from '../testing/programs.ts';

const HEAD = `
  import { writeSync } from 'node:fs';
  import { setTimeout as pause } from 'node:timers/promises';
  import { connect } from '@turnpike/client';
  import { avroCodec, defineService } from '@turnpike/client/generated';
  const say = (text) => writeSync(1, text + '\\n');
  setInterval(() => {}, 60_000); // Something that keeps the process, as a server does.
  const contractOf = (service) => {
    const withCodec = (t) => ({ ...t, key: { format: 'string', of: (e) => e.id }, value: { ...t.value, codec: () => avroCodec(t.value.schema, t.value.text) } });
    const { produces, consumes } = service;
    return defineService({
      ...service,
      produces: Object.fromEntries(Object.entries(produces).map(([name, t]) => [name, withCodec(t)])),
      consumes: Object.fromEntries(Object.entries(consumes).map(([name, c]) => [name, { ...c, topic: withCodec(c.topic) }])),
    });
  };
`;

describe('a signal on the memory transport', () => {
  const schema = { subject: 'in-value', sha256: 'x' };
  const text = JSON.stringify({ type: 'record', name: 'E', fields: [{ name: 'id', type: 'string' }] });
  const topic = (name: string) => ({ name, cluster: 'local', value: { format: 'avro', schema, text } });
  const contract = {
    name: 'worker',
    team: 'test',
    environments: { dev: { principals: ['worker'] } },
    rootKeys: [],
    produces: { in: topic('in'), out: topic('out') },
    consumes: { in: { topic: topic('in'), groups: ['worker.in'] } },
  };
  const worker = (handler: string, consumer = '{}') =>
    startProgram(`${HEAD}
      import { MemoryCluster, memoryTransport } from '@turnpike/core/memory';
      const cluster = new MemoryCluster({ topics: { in: 1, out: 1 } });
      cluster.fault = ({ operation, topic }) => { if (operation === 'commit' || (operation === 'produce' && topic === 'out')) say(operation); };
      const kafka = await connect(contractOf(${JSON.stringify(contract)}), { transport: memoryTransport({ cluster }), env: {}, telemetry: 'off', consumer: ${consumer} });
      const handler = ${handler};
      kafka.consumer(['in']).run(handler);
      await kafka.producer('in').sendBatch([{ id: '1' }, { id: '2' }]);
    `);
  const drain = '{ commitIntervalMs: 60_000, drainTimeoutMs: 200 }';

  it.each(['SIGTERM', 'SIGINT'] as const)(
    'lets the handler finish what it is at, commits, delivers what was sent last, and ends by the signal (%s)',
    async (sent) => {
      await using program = worker(
        `async (event) => { say('handling ' + event.value.id); await pause(150); void kafka.producer('out').send(event.value); say('handled ' + event.value.id); }`,
        '{ commitIntervalMs: 60_000 }',
      );
      await program.line('handling 1');
      program.process.kill(sent);
      const { signal, output } = await program.ended;
      expect(signal).toBe(sent);
      const lines = output.split('\n');
      expect(new Set(lines)).toEqual(new Set(['handling 1', 'handled 1', 'commit', 'produce']));
      expect(lines.slice(0, 2)).toEqual(['handling 1', 'handled 1']);
    },
  );

  it('cuts a handler that hangs at drainTimeoutMs, says so, and ends all the same', async () => {
    await using program = worker(`(event) => { say('handling ' + event.value.id); return new Promise(() => {}); }`, drain);
    await program.line('handling 1');
    const started = performance.now();
    program.process.kill('SIGTERM');
    const { signal, output } = await program.ended;
    expect(signal).toBe('SIGTERM');
    expect(performance.now() - started).toBeLessThan(5_000);
    expect(output).toContain('"event":"turnpike.consumer.drain_timeout"');
    expect(output).not.toContain('commit');
  });
});

describe('SIGTERM on a real broker', () => {
  let platform: Platform;
  let desk: Desk;
  beforeAll(async () => {
    platform = await startPlatform();
    desk = await Desk.open(platform);
  });
  afterAll(async () => {
    await desk?.[Symbol.asyncDispose]();
    await platform?.[Symbol.asyncDispose]();
  });

  const consuming = (service: ServiceContract, env: Readonly<Record<string, string>>): Program => {
    const consumer = `(event) => pause(15).then(() => say('handled ' + event.value.id))`;
    return startProgram(
      `${HEAD}
      const kafka = await connect(contractOf(${JSON.stringify(service)}), { clusters: ${JSON.stringify([{ name: 'local', epoch: 1, primary: platform.cluster }])} });
      kafka.consumer(['c.orders']).run(${consumer});
      `,
      env,
    );
  };
  const handledIn = (output: string): string[] => [...output.matchAll(/^handled (.*)$/gm)].map((m) => m[1] ?? '');

  it('commits what the process has handled; the next one goes on from there: nothing lost, nothing twice', async () => {
    const ids = Array.from({ length: 300 }, (_, i) => `order-${i}`);
    await desk.topic('c.orders');
    const shop = await desk.service({ name: 'c.shop', produces: ['c.orders'] });
    await desk.allow('c.shop', { write: ['c.orders'] });
    {
      await using kafka = await connect(shop.service, shop.options);
      await kafka.producer('c.orders').sendBatch(ids.map((id, n) => ({ id, n })));
    }
    const { service, options } = await desk.service({ name: 'c.packer', consumes: ['c.orders'] });
    await desk.allow('c.packer', { read: ['c.orders'], groups: ['c.packer.group'] });
    const env = Object.fromEntries(Object.entries(options.env ?? {}).map(([name, value]) => [name, value ?? '']));

    const handled: string[][] = [];
    {
      await using first = consuming(service, env);
      await first.line('handled ');
      first.process.kill('SIGTERM');
      const { signal, output } = await first.ended;
      expect(signal).toBe('SIGTERM');
      handled.push(handledIn(output));
    }
    expect(handled[0]?.length).toBeLessThan(ids.length);
    const committed = (await desk.admin.groupOffsets('c.packer.group')).reduce((sum, o) => sum + o.offset, 0n);
    expect(committed).toBe(BigInt(handled[0]?.length ?? 0));

    {
      await using second = consuming(service, env);
      let output = '';
      second.process.stdout?.on('data', (chunk) => {
        output += String(chunk);
      });
      const left = ids.length - Number(committed);
      await expect.poll(() => handledIn(output).length, { timeout: 30_000 }).toBe(left);
      second.process.kill('SIGTERM');
      handled.push(handledIn((await second.ended).output));
    }
    expect(handled.flat().sort()).toEqual([...ids].sort());
  });
});
