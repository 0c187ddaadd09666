import { compileConsumerOptions, compileProducerOptions, type TurnpikeError } from '@turnpike/core';
import type { ConsumerPort, Link, ProducerPort, TopicPartition, TransactionPort } from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { type Platform, startPlatform } from '@turnpike/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sendValue } from '../support/records.ts';
import { Desk, openLink } from '../support/service.ts';

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

/** A principal with rights to its topics, groups and transactional id, and no other. */
async function setUp(name: string, topics: readonly string[], groups: readonly string[] = []) {
  const stack = new AsyncDisposableStack();
  await desk.allow(name, { write: topics, read: topics, groups, transactionalIds: [name] });
  const identity = stack.use(await mtlsIdentity((await platform.principal(name)).mtls));
  const link = stack.use(await openLink(platform, identity));
  const open = async (): Promise<{ readonly port: ProducerPort; readonly transaction: TransactionPort }> => {
    const port = stack.use(await link.producer({ ...compileProducerOptions({ maxBatchBytes: 64 * 1024 }), transactionalId: name }));
    await port.warm(topics);
    if (!port.transaction) throw new Error('no transactions');
    return { port, transaction: port.transaction };
  };
  return { link, open, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

const append = (port: ProducerPort, topic: string, partition: number, value: Buffer): Promise<bigint | TurnpikeError> =>
  sendValue(port, { topic, partition, value, withinMs: 20_000 });

/** A member, which gives up at once what it is asked for. */
async function join(link: Link, group: string, topic: string, protocol: 'classic' | 'consumer' = 'classic') {
  const owned = new Map<string, TopicPartition>();
  const key = (tp: TopicPartition) => `${tp.topic}/${tp.partition}`;
  const options = compileConsumerOptions(group, { groupProtocol: protocol, isolation: 'read_committed', heartbeatIntervalMs: 500 });
  const port: ConsumerPort = link.consumer(options);
  const drop = (tps: readonly TopicPartition[]) => tps.forEach((tp) => void owned.delete(key(tp)));
  await port.subscribe([topic], {
    assigned: (tps) => tps.forEach((tp) => void owned.set(key(tp), tp)),
    revoking: async (tps) => drop(tps),
    lost: drop,
    failed: () => {},
  });
  return { port, owned };
}

describe.each(['classic', 'consumer'] as const)('wire: offsets in a transaction, of a group of the %s protocol', (protocol) => {
  it('are committed as their member, and refused where the partition is another one’s by now', async () => {
    const [name, topic, group] = [`tx.${protocol}`, `tx.in.${protocol}`, `tx.group.${protocol}`];
    await desk.topic(topic, { partitions: 2 });
    await using s = await setUp(name, [topic], [group]);
    const { port, transaction } = await s.open();
    // The coordinator says that it is committed, and then has the group told.
    const committed = () => expect.poll(async () => new Map((await desk.admin.groupOffsets(group)).map((o) => [o.partition, o.offset])), { timeout: 10_000 });
    const offsets = (offset: bigint, partitions = [0, 1]) => partitions.map((partition) => ({ topic, partition, offset }));
    const one = await join(s.link, group, topic, protocol);
    await expect.poll(() => one.owned.size, { timeout: 20_000 }).toBe(2);

    await transaction.begin();
    expect(await append(port, topic, 0, Buffer.from('v'))).toBe(0n);
    await transaction.sendOffsets(group, offsets(1n));
    await transaction.commit();
    await committed().toEqual(new Map([0, 1].map((p) => [p, 1n])));

    await using again = await mtlsIdentity((await platform.principal(name)).mtls);
    await using elsewhere = await openLink(platform, again);
    const two = await join(elsewhere, group, topic, protocol);
    await expect.poll(() => [one.owned.size, two.owned.size], { timeout: 30_000 }).toEqual([1, 1]);
    await transaction.begin();
    await expect(transaction.sendOffsets(group, offsets(2n))).rejects.toMatchObject({ code: 'MEMBERSHIP_LOST', facts: { group } });
    await expect(transaction.commit()).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED', cause: { code: 'MEMBERSHIP_LOST' } });
    await transaction.abort();
    const own = [...one.owned.values()].map((tp) => tp.partition);
    await transaction.begin();
    await transaction.sendOffsets(group, offsets(3n, own));
    await transaction.commit();
    await committed().toEqual(new Map([0, 1].map((p) => [p, own.includes(p) ? 3n : 1n])));
  });
});

describe('wire: a large transaction', () => {
  it('goes in many batches, several of a partition under way, whole or not at all', async () => {
    const topic = 'tx.large';
    await desk.topic(topic, { partitions: 3 });
    await using s = await setUp('tx.large', [topic], ['tx.large.group']);
    const { port, transaction } = await s.open();
    const perTransaction = 6_000;
    const commits: boolean[] = [];
    for (const [turn, end] of (['commit', 'abort', 'commit', 'abort', 'commit'] as const).entries()) {
      await transaction.begin();
      const sent = Array.from({ length: perTransaction }, (_, n) => {
        const value = Buffer.alloc(1_000);
        value.writeInt32BE(turn, 0);
        value.writeInt32BE(n, 4);
        return append(port, topic, n % 3, value);
      });
      await transaction[end]();
      expect((await Promise.all(sent)).filter((outcome) => typeof outcome !== 'bigint')).toEqual([]);
      commits.push(end === 'commit');
    }
    const { port: consumer } = await join(s.link, 'tx.large.group', topic);
    const found: string[][] = [[], [], []];
    const expected = found.map((_, p) =>
      commits.flatMap((is, turn) => (is ? Array.from({ length: perTransaction / 3 }, (_, n) => `${turn} ${n * 3 + p}`) : [])),
    );
    const until = performance.now() + 30_000;
    while (found.some((f, p) => f.length < (expected[p]?.length ?? 0)) && performance.now() < until)
      for (const batch of await consumer.poll(500))
        for (const { value } of batch.records) found[batch.partition]?.push(`${value?.readInt32BE(0)} ${value?.readInt32BE(4)}`);
    expect(found).toEqual(expected);
  });
});
