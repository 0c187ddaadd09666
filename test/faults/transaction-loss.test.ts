import { compileConsumerOptions, compileProducerOptions, type TurnpikeError } from '@turnpike/core';
import type { ConsumerPort, Link, ProducerPort, TransactionPort } from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { startPlatform } from '@turnpike/testing';
import { describe, expect, it, vi } from 'vitest';
import { MISSED_SOON } from '../support/brokers.ts';
import { sendValue } from '../support/records.ts';
import { Desk, openLink } from '../support/service.ts';

const PARTITIONS = 3;

/** The offset, or the error. */
const send = (port: ProducerPort, topic: string, partition: number, value: string): Promise<bigint | TurnpikeError> =>
  sendValue(port, { topic, partition, value: Buffer.from(value), withinMs: 20_000 });

/** What has been committed, by partition, in its order. */
async function readCommitted(link: Link, topic: string, group: string, isAll: (values: readonly string[][]) => boolean): Promise<readonly string[][]> {
  const values: string[][] = Array.from({ length: PARTITIONS }, () => []);
  await using port: ConsumerPort = link.consumer(compileConsumerOptions(group, { isolation: 'read_committed' }));
  await port.subscribe([topic], { assigned: () => {}, revoking: async () => {}, lost: () => {}, failed: () => {} });
  const until = performance.now() + 60_000;
  while (!isAll(values) && performance.now() < until)
    for (const batch of await port.poll(500)) for (const record of batch.records) values[batch.partition]?.push(record.value?.toString() ?? '');
  return values;
}

/** Commits; where no answer says whether it is, asks again. false = it is not, and was aborted. */
async function decide(transaction: TransactionPort): Promise<boolean> {
  for (;;) {
    const error = await transaction.commit().then(
      () => undefined,
      (e: TurnpikeError) => e,
    );
    if (error === undefined) return true;
    if (error.written === 'unknown') continue;
    expect(error.code).toBe('TRANSACTION_ABORTED');
    await transaction.abort();
    return false;
  }
}

describe('three brokers, which are killed one after the other under transactions', () => {
  it('shows each transaction whole where commit() has said so, and nothing of the others, while leaders and the coordinator move', async () => {
    await using platform = await startPlatform({ nodes: 3, properties: MISSED_SOON });
    await using desk = await Desk.open(platform);
    const topic = 'txn.t';
    await desk.topic(topic, { partitions: PARTITIONS, replicationFactor: 3, configs: { 'min.insync.replicas': '2' } });
    await desk.allow('txn', { write: [topic], read: [topic], groups: ['txn.group'], transactionalIds: ['txn.id'] });
    await using identity = await mtlsIdentity((await platform.principal('txn')).mtls);
    await using link = await openLink(platform, identity);
    // An ACL reaches the other brokers a moment after the one that was asked.
    const options = { ...compileProducerOptions({ requestTimeoutMs: 5_000 }), transactionalId: 'txn.id' };
    const port = await vi.waitFor(() => link.producer(options), { timeout: 15_000 });
    const { transaction } = port;
    if (!transaction) throw new Error('no transactions');
    await port.warm([topic]);

    const committed: number[] = [];
    const valuesOf = (turn: number) => Array.from({ length: 12 }, (_, n) => `${turn} ${n}`);
    const kills = new Map([
      [15, 1],
      [45, 0],
      [75, 2],
    ]);
    for (let turn = 0; turn < 100; turn++) {
      await transaction.begin();
      const sent = valuesOf(turn).map((value, n) => send(port, topic, n % PARTITIONS, value));
      const node = platform.nodes[kills.get(turn) ?? -1];
      if (node) await node.kill();
      const restarted = node?.start();
      if (turn % 4 !== 3) await Promise.all(sent);
      if (turn % 5 === 4) await transaction.abort();
      else if (await decide(transaction)) committed.push(turn);
      await Promise.all(sent);
      await restarted;
    }
    await port[Symbol.asyncDispose]();
    expect(committed.length).toBeGreaterThan(60);

    const expected = Array.from({ length: PARTITIONS }, (_, p) => committed.flatMap((turn) => valuesOf(turn).filter((_, n) => n % PARTITIONS === p)));
    const found = await readCommitted(link, topic, 'txn.group', (values) => values.every((v, p) => v.length >= (expected[p]?.length ?? 0)));
    expect(found).toEqual(expected);
  }, 180_000);
});
