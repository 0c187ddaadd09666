import { compileProducerOptions, type ProducerOptions, type TurnpikeError } from '@turnpike/core';
import type { CompiledProducerOptions, Link, ProducerPort, TransactionPort } from '@turnpike/core/spi';
import { type CertificateAuthority, certificateAuthority } from '@turnpike/testing';
import { beforeAll, describe, expect, it } from 'vitest';
import { sendValue } from '../support/records.ts';
import { FakeBroker } from './fake-broker.ts';
import type { TransactionOutcome, TransactionRequest } from './fake-transactions.ts';
import { linkTo, random } from './link.ts';

const UNKNOWN_TOPIC = 3;
const MESSAGE_TOO_LARGE = 10;
const COORDINATOR_LOAD_IN_PROGRESS = 14;
const NOT_ENOUGH_REPLICAS = 19;
const TOPIC_AUTHORIZATION_FAILED = 29;
const OUT_OF_ORDER_SEQUENCE = 45;
const CONCURRENT_TRANSACTIONS = 51;
const TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53;
const GROUP_AUTHORIZATION_FAILED = 30;
const ID = 'svc.orders';

let ca: CertificateAuthority;

beforeAll(async () => {
  ca = await certificateAuthority();
});

interface Producer {
  readonly link: Link;
  readonly port: ProducerPort;
  readonly transaction: TransactionPort;
}

async function setUp({ nodes = 1, topics = { t: 3 } }: { readonly nodes?: number; readonly topics?: Readonly<Record<string, number>> } = {}) {
  const broker = await FakeBroker.open(ca, { nodes, topics });
  const links: Link[] = [];
  const open = async (options: ProducerOptions = {}, more: Partial<CompiledProducerOptions> = {}): Promise<Producer> => {
    const link = await linkTo(broker, ca);
    links.push(link);
    const port = await link.producer({
      ...compileProducerOptions({ requestTimeoutMs: 500, deliveryTimeoutMs: 5_000, ...options }),
      transactionalId: ID,
      ...more,
    });
    await port.warm(Object.keys(topics));
    const { transaction } = port;
    if (!transaction) throw new Error('no transactions');
    return { link, port, transaction };
  };
  const release = async () => {
    await Promise.all(links.map((link) => link[Symbol.asyncDispose]()));
    await broker[Symbol.asyncDispose]();
  };
  return { broker, transactions: broker.transactions, open, [Symbol.asyncDispose]: release };
}

/** Each `befalls` one of the requests of a kind, in their order; the others get their answer. */
function befall(of: TransactionRequest['what'], ...outcomes: readonly TransactionOutcome[]): (request: TransactionRequest) => TransactionOutcome {
  const left = [...outcomes];
  return ({ what }) => (what === of ? (left.shift() ?? 0) : 0);
}

interface Sending {
  readonly topic?: string;
  readonly partition?: number;
  readonly bytes?: number;
  readonly withinMs?: number;
}

/** The offset, or the error. */
const send = ({ port }: Pick<Producer, 'port'>, { topic = 't', partition = 0, bytes = 1, withinMs = 5_000 }: Sending = {}): Promise<bigint | TurnpikeError> =>
  sendValue(port, { topic, partition, value: Buffer.alloc(bytes, 'x'), withinMs }).catch((error: TurnpikeError) => error);

async function transact(producer: Producer, end: 'commit' | 'abort', partitions: readonly number[] = [0]): Promise<void> {
  await producer.transaction.begin();
  await Promise.all(partitions.map((p) => send(producer, { partition: p })));
  await producer.transaction[end]();
}

describe('the partitions of a transaction', () => {
  it('are added before their first batch, those of one turn in one request, and not again', async () => {
    await using s = await setUp();
    const producer = await s.open();
    await producer.transaction.begin();
    expect(await Promise.all([send(producer, { partition: 0 }), send(producer, { partition: 1 })])).toEqual([0n, 0n]);
    expect(await Promise.all([send(producer, { partition: 0 }), send(producer, { partition: 2 })])).toEqual([1n, 0n]);
    await producer.transaction.commit();
    expect(s.transactions.requests.filter((r) => r.what === 'add').map((r) => r.of)).toEqual([['t/0', 't/1'], ['t/2']]);
    await transact(producer, 'commit', [1]);
    expect(s.transactions.requests.at(-2)).toMatchObject({ what: 'add', of: ['t/1'] });
    expect(s.transactions.committed).toHaveLength(5);
    expect(s.transactions.strays).toEqual([]);
    expect(s.transactions.count('init')).toBe(1);
  });

  it('are added though an answer to that is lost, or the request is, and no batch goes before', async () => {
    await using s = await setUp();
    const producer = await s.open();
    for (const outcome of ['lost', 'cut', 'silence', COORDINATOR_LOAD_IN_PROGRESS, CONCURRENT_TRANSACTIONS] as const) {
      s.transactions.onRequest = befall('add', outcome);
      await transact(producer, 'commit', [0, 1]);
    }
    expect(s.transactions.committed).toHaveLength(10);
    expect(s.transactions.strays).toEqual([]);
  });

  it('do not suffer for one that is refused', async () => {
    await using s = await setUp({ topics: { t: 1, denied: 1 } });
    s.transactions.onAdd = ({ topic }) => (topic === 'denied' ? TOPIC_AUTHORIZATION_FAILED : 0);
    const producer = await s.open();
    await producer.transaction.begin();
    const [denied, good] = await Promise.all([send(producer, { topic: 'denied' }), send(producer)]);
    expect(denied).toMatchObject({ code: 'AUTHORIZATION_FAILED', facts: { topic: 'denied' }, written: 'no' });
    expect(good).toBe(0n);
    await expect(producer.transaction.commit()).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' });
    await producer.transaction.abort();
    await transact(producer, 'commit');
    expect(s.transactions).toMatchObject({ committed: ['t/0@1'], aborted: ['t/0@0'], strays: [] });
  });

  it('that no coordinator adds before the delivery timeout get no record, and the transaction is aborted when it is back', async () => {
    await using s = await setUp();
    const producer = await s.open();
    await producer.transaction.begin();
    s.transactions.onRequest = ({ what }) => (what === 'add' ? 'silence' : 0);
    expect(await send(producer, { withinMs: 800 })).toMatchObject({ code: 'DELIVERY_TIMEOUT', written: 'no' });
    expect(s.broker.produced).toEqual([]);
    await expect(producer.transaction.commit()).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' });
    s.transactions.onRequest = () => 0;
    await producer.transaction.abort();
    await transact(producer, 'commit');
    expect(s.transactions).toMatchObject({ committed: ['t/0@0'], strays: [] });
    expect(s.broker.produced).toMatchObject([{ epoch: 1 }]); // What was asked for may come late: it is of an epoch that is over.
  });

  it('are waited for where the coordinator does not know the topic yet', async () => {
    await using s = await setUp();
    const producer = await s.open();
    let unknown = 2;
    s.transactions.onAdd = () => (unknown-- > 0 ? UNKNOWN_TOPIC : 0);
    await transact(producer, 'commit');
    expect(s.transactions.committed).toEqual(['t/0@0']);
  });
});

describe('the end of a transaction', () => {
  it.each(['lost', 'cut', 'silence', COORDINATOR_LOAD_IN_PROGRESS, CONCURRENT_TRANSACTIONS] as const)(
    'is what was asked for when the first request for it ends with %s, and the next one goes on',
    async (outcome) => {
      await using s = await setUp();
      const producer = await s.open();
      for (const end of ['commit', 'abort'] as const) {
        s.transactions.onRequest = befall(end, outcome, outcome);
        await transact(producer, end);
      }
      await transact(producer, 'commit');
      expect(s.transactions).toMatchObject({ committed: ['t/0@0', 't/0@2'], aborted: ['t/0@1'], strays: [] });
    },
  );

  it('of which no answer came may have arrived late: what comes after it has another epoch', async () => {
    await using s = await setUp();
    const producer = await s.open();
    await transact(producer, 'commit');
    s.transactions.onRequest = befall('commit', 'lost');
    await transact(producer, 'commit');
    await transact(producer, 'commit');
    expect(s.broker.produced.map((b) => [b.epoch, b.sequence])).toEqual([
      [0, 0],
      [0, 1],
      [1, 0],
    ]);
  });

  it('is not known where no answer came until the deadline; the next commit() asks again', async () => {
    await using s = await setUp();
    const producer = await s.open({ deliveryTimeoutMs: 1_000 });
    await producer.transaction.begin();
    expect(await send(producer)).toBe(0n);
    let lost = true;
    s.transactions.onRequest = ({ what }) => (what === 'commit' && lost ? 'lost' : 0);
    await expect(producer.transaction.commit()).rejects.toMatchObject({ code: 'BROKER_UNAVAILABLE', written: 'unknown' });
    lost = false;
    await producer.transaction.commit();
    await transact(producer, 'commit');
    expect(s.transactions.committed).toEqual(['t/0@0', 't/0@1']);
  });

  it('can not be an abort where the commit before it was carried out', async () => {
    await using s = await setUp();
    const producer = await s.open({ deliveryTimeoutMs: 1_000 });
    await producer.transaction.begin();
    expect(await send(producer)).toBe(0n);
    s.transactions.onRequest = ({ what }) => (what === 'commit' ? 'lost' : 0);
    await expect(producer.transaction.commit()).rejects.toMatchObject({ written: 'unknown' });
    await expect(producer.transaction.abort()).rejects.toMatchObject({ code: 'BROKER_REJECTED', facts: { transactionalId: ID } });
    s.transactions.onRequest = () => 0;
    await transact(producer, 'commit');
    expect(s.transactions).toMatchObject({ committed: ['t/0@0', 't/0@1'], aborted: [] });
  });

  it('is an abort where the commit before it never came', async () => {
    await using s = await setUp();
    const producer = await s.open({ deliveryTimeoutMs: 1_000 });
    await producer.transaction.begin();
    expect(await send(producer)).toBe(0n);
    s.transactions.onRequest = ({ what }) => (what === 'commit' ? 'cut' : 0);
    await expect(producer.transaction.commit()).rejects.toMatchObject({ written: 'unknown' });
    await producer.transaction.abort();
    s.transactions.onRequest = () => 0;
    await transact(producer, 'commit');
    expect(s.transactions).toMatchObject({ committed: ['t/0@1'], aborted: ['t/0@0'] });
  });

  it('waits for the records before it, and takes none that comes after it was asked for', async () => {
    await using s = await setUp();
    const producer = await s.open();
    await producer.transaction.begin();
    let refusals = 2;
    s.broker.onProduce = (batch) => (refusals-- > 0 ? { code: NOT_ENOUGH_REPLICAS } : s.broker.write(batch));
    const first = send(producer, { partition: 0 });
    const committed = producer.transaction.commit();
    expect(await send(producer, { partition: 1 })).toMatchObject({ code: 'CONFIG_INVALID', written: 'no' });
    await committed;
    expect(await first).toBe(0n);
    expect(s.transactions).toMatchObject({ committed: ['t/0@0'], strays: [] });
    await transact(producer, 'commit', [1]);
  });

  it('needs no coordinator where nothing was sent', async () => {
    await using s = await setUp();
    const producer = await s.open();
    await transact(producer, 'commit', []);
    await transact(producer, 'abort', []);
    expect(s.transactions.requests.map((r) => r.what)).toEqual(['init']);
  });

  it('comes at close, and in bounded time where the coordinator is silent', async () => {
    await using s = await setUp();
    const producer = await s.open({ requestTimeoutMs: 30_000, deliveryTimeoutMs: 60_000 });
    await producer.transaction.begin();
    expect(await send(producer)).toBe(0n);
    s.transactions.onRequest = () => 'silence';
    const startedAt = performance.now();
    await producer.port[Symbol.asyncDispose]();
    expect(performance.now() - startedAt).toBeLessThan(6_000);
    expect(s.transactions.count('abort')).toBeGreaterThan(0);
  });
});

describe('a transaction that has failed', () => {
  it('whose batch may be written, unanswered, is aborted, and the next one has another epoch', async () => {
    await using s = await setUp();
    const producer = await s.open();
    await transact(producer, 'commit');
    await producer.transaction.begin();
    expect(await send(producer)).toBe(1n);
    s.broker.onProduce = () => 'silence';
    expect(await send(producer, { withinMs: 400 })).toMatchObject({ code: 'DELIVERY_TIMEOUT', written: 'unknown' });
    s.broker.onProduce = (batch) => s.broker.write(batch);
    expect(await send(producer)).toMatchObject({ code: 'TRANSACTION_ABORTED', written: 'no' });
    await expect(producer.transaction.commit()).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' });
    await producer.transaction.abort();
    await transact(producer, 'commit');
    expect(s.broker.produced.at(-1)).toMatchObject({ epoch: 1, sequence: 0 });
    expect(s.transactions).toMatchObject({ committed: ['t/0@0', 't/0@2'], aborted: ['t/0@1'], strays: [] });
  });

  it('since the broker finds a sequence wrong, does not begin anew within it', async () => {
    await using s = await setUp();
    const producer = await s.open();
    await producer.transaction.begin();
    expect(await send(producer)).toBe(0n);
    s.broker.onProduce = () => ({ code: OUT_OF_ORDER_SEQUENCE });
    expect(await send(producer)).toMatchObject({ facts: { kafkaError: 'OUT_OF_ORDER_SEQUENCE_NUMBER' } });
    expect(s.broker.produced.every((b) => b.epoch === 0)).toBe(true);
    s.broker.onProduce = (batch) => s.broker.write(batch);
    await expect(producer.transaction.commit()).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' });
    await producer.transaction.abort();
    await transact(producer, 'commit');
    expect(s.transactions).toMatchObject({ committed: ['t/0@1'], aborted: ['t/0@0'] });
  });

  it('since its offsets were refused, commits neither', async () => {
    await using s = await setUp();
    const producer = await s.open();
    await producer.transaction.begin();
    expect(await send(producer)).toBe(0n);
    s.transactions.onRequest = befall('offsets', GROUP_AUTHORIZATION_FAILED);
    const offsets = [{ topic: 't', partition: 0, offset: 7n }];
    await expect(producer.transaction.sendOffsets('g', offsets)).rejects.toMatchObject({
      code: 'AUTHORIZATION_FAILED',
      facts: { group: 'g', transactionalId: ID },
    });
    await expect(producer.transaction.commit()).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' });
    await producer.transaction.abort();
    expect(s.transactions.offsets.size).toBe(0);
    await producer.transaction.begin();
    for (const what of ['offsets', 'commit-offsets'] as const) {
      s.transactions.onRequest = befall(what, 'lost', COORDINATOR_LOAD_IN_PROGRESS);
      await producer.transaction.sendOffsets('g', offsets);
    }
    expect(s.transactions.offsets.size).toBe(0);
    await producer.transaction.commit();
    expect(s.transactions.offsets).toEqual(new Map([['g t/0', 7n]]));
  });
});

describe('full batches of one partition, within a transaction', () => {
  /** One fills a batch of 1,024 bytes. */
  const full = (producer: Producer) => send(producer, { bytes: 900 });

  it('go one behind another without waiting for answers, and each is written once, in order, whatever becomes of the first', async () => {
    await using s = await setUp();
    const producer = await s.open({ maxBatchBytes: 1_024 });
    let written = 0n;
    for (const mishap of [undefined, { code: NOT_ENOUGH_REPLICAS }, 'cut', 'late cut'] as const) {
      await producer.transaction.begin();
      expect(await full(producer)).toBe(written++);
      let first = true;
      s.broker.onProduce = (batch) => {
        const befalls = first ? mishap : undefined;
        first = false;
        if (befalls !== 'late cut') return befalls ?? s.broker.write(batch);
        s.broker.write(batch);
        return 'cut';
      };
      expect(await Promise.all(Array.from({ length: 6 }, () => full(producer)))).toEqual(Array.from({ length: 6 }, () => written++));
      await producer.transaction.commit();
      s.broker.onProduce = (batch) => s.broker.write(batch);
    }
    expect(s.transactions.committed).toEqual(Array.from({ length: 28 }, (_, i) => `t/0@${i}`));
    expect(s.broker.produced.every((b) => b.epoch === 0)).toBe(true); // Batches are known again by their sequences: no epoch is spent.
  });

  it('of which one is too large fail it alone, and the next transaction goes on with the same epoch', async () => {
    await using s = await setUp();
    const producer = await s.open({ maxBatchBytes: 1_024 });
    await producer.transaction.begin();
    expect(await full(producer)).toBe(0n);
    s.broker.onProduce = (batch) => (batch.bytes.length > 2_000 ? { code: MESSAGE_TOO_LARGE } : s.broker.write(batch));
    const [before, large, after] = await Promise.all([full(producer), send(producer, { bytes: 3_000 }), full(producer)]);
    expect([before, after]).toEqual([1n, 2n]);
    expect(large).toMatchObject({ code: 'RECORD_TOO_LARGE', written: 'no' });
    await expect(producer.transaction.commit()).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED', cause: { code: 'RECORD_TOO_LARGE' } });
    await producer.transaction.abort();
    await transact(producer, 'commit');
    expect(s.broker.produced.at(-1)).toMatchObject({ epoch: 0, sequence: 3 });
    expect(s.transactions.committed).toEqual(['t/0@3']);
  });

  it('end with the transaction when one of them may be written: none is acknowledged as of a sequence that the broker has not', async () => {
    await using s = await setUp();
    const producer = await s.open({ maxBatchBytes: 1_024 });
    await producer.transaction.begin();
    expect(await full(producer)).toBe(0n);
    s.broker.onProduce = (batch) => (batch.sequence === 1 ? 'silence' : s.broker.write(batch));
    const outcomes = await Promise.all(Array.from({ length: 5 }, () => send(producer, { bytes: 900, withinMs: 900 })));
    expect(outcomes.every((o) => typeof o !== 'bigint')).toBe(true);
    await expect(producer.transaction.commit()).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' });
    s.broker.onProduce = (batch) => s.broker.write(batch);
    await producer.transaction.abort();
    await producer.transaction.begin();
    expect(await Promise.all(Array.from({ length: 5 }, () => full(producer)))).toEqual([1n, 2n, 3n, 4n, 5n]);
    await producer.transaction.commit();
    expect(s.transactions).toMatchObject({ aborted: ['t/0@0'], strays: [] });
    expect(s.broker.produced.at(-1)).toMatchObject({ epoch: 1, sequence: 4 });
  });
});

describe('a producer of a transactional id', () => {
  it('is refused when it opens, where the id is denied', async () => {
    await using s = await setUp();
    s.transactions.onRequest = befall('init', TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
    await expect(s.open()).rejects.toMatchObject({ code: 'AUTHORIZATION_FAILED', facts: { transactionalId: ID } });
  });

  it('that still waits for its coordinator when its link closes ends at once, and leaves nothing behind', async () => {
    await using s = await setUp();
    s.transactions.onRequest = () => 'silence';
    const link = await linkTo(s.broker, ca);
    const opening = link.producer({ ...compileProducerOptions(), transactionalId: ID });
    const refused = expect(opening).rejects.toMatchObject({ code: 'CLOSED' });
    await expect.poll(() => s.transactions.count('init')).toBe(1);
    const startedAt = performance.now();
    await link[Symbol.asyncDispose]();
    await refused;
    expect(performance.now() - startedAt).toBeLessThan(3_000);
    expect(s.transactions.count('init')).toBe(1);
  });

  it('aborts what the one before it left open', async () => {
    await using s = await setUp();
    const first = await s.open();
    await first.transaction.begin();
    expect(await send(first)).toBe(0n);
    const next = await s.open();
    await transact(next, 'commit');
    expect(s.transactions).toMatchObject({ committed: ['t/0@1'], aborted: ['t/0@0'] });
  });

  it.each(['send', 'commit', 'abort', 'begin', 'sendOffsets'] as const)(
    'learns at %s that another one has taken the id, and writes nothing more',
    async (step) => {
      await using s = await setUp();
      const zombie = await s.open();
      await zombie.transaction.begin();
      expect(await send(zombie)).toBe(0n);
      const next = await s.open();
      await transact(next, 'commit');
      const steps = {
        send: () => send(zombie).then((outcome) => Promise.reject(outcome)),
        commit: () => zombie.transaction.commit(),
        abort: () => zombie.transaction.abort(),
        begin: async () => {
          await zombie.transaction.abort().catch(() => {});
          await zombie.transaction.begin();
        },
        sendOffsets: () => zombie.transaction.sendOffsets('g', [{ topic: 't', partition: 0, offset: 1n }]),
      };
      await expect(steps[step]()).rejects.toMatchObject({ code: 'PRODUCER_FENCED' });
      await zombie.transaction.abort().catch(() => {});
      await expect(zombie.transaction.begin()).rejects.toMatchObject({ code: 'PRODUCER_FENCED' });
      expect(await send(zombie)).toMatchObject({ code: expect.stringMatching(/PRODUCER_FENCED|CONFIG_INVALID/), written: 'no' });
      expect(s.broker.end('t', 0)).toBe(2n);
      expect(s.transactions.ids.get(ID)?.epoch).toBe(2); // It has not fenced the other one in its turn.
      await transact(next, 'commit');
    },
  );

  it('does not take the id back when it needs another epoch itself', async () => {
    await using s = await setUp();
    const zombie = await s.open();
    s.transactions.onRequest = befall('commit', 'lost');
    await transact(zombie, 'commit');
    const next = await s.open();
    await next.transaction.begin();
    expect(await send(next)).toBe(1n);
    await expect(zombie.transaction.begin()).rejects.toMatchObject({ code: 'PRODUCER_FENCED' });
    await expect(zombie.transaction.begin()).rejects.toMatchObject({ code: 'PRODUCER_FENCED' });
    await next.transaction.commit();
    expect(s.transactions).toMatchObject({ committed: ['t/0@0', 't/0@1'], aborted: [] });
  });

  it('gets another producer id where the coordinator has forgotten its own, as after a week without a transaction', async () => {
    await using s = await setUp();
    const producer = await s.open();
    await transact(producer, 'commit');
    s.transactions.ids.clear();
    await producer.transaction.begin();
    expect(await send(producer)).toMatchObject({ facts: { kafkaError: 'INVALID_PRODUCER_ID_MAPPING' }, written: 'no' });
    await expect(producer.transaction.commit()).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' });
    await producer.transaction.abort();
    await transact(producer, 'commit');
    expect(s.transactions).toMatchObject({ committed: ['t/0@0', 't/0@1'], strays: [] });
    expect(new Set(s.broker.produced.map((b) => b.producerId)).size).toBe(2);
  });

  it('sends nothing outside of a transaction', async () => {
    await using s = await setUp();
    const producer = await s.open();
    expect(await send(producer)).toMatchObject({ code: 'CONFIG_INVALID', written: 'no' });
    await transact(producer, 'commit');
    expect(await send(producer)).toMatchObject({ code: 'CONFIG_INVALID', written: 'no' });
    expect(s.broker.produced).toHaveLength(1);
    await expect(producer.transaction.commit()).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(producer.transaction.abort()).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await producer.transaction.begin();
    await expect(producer.transaction.begin()).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });

  it('follows its id to another coordinator, in the middle of a transaction', async () => {
    await using s = await setUp({ nodes: 2 });
    const producer = await s.open();
    await producer.transaction.begin();
    expect(await send(producer, { partition: 0 })).toBe(0n);
    s.broker.coordinator = 1;
    expect(await send(producer, { partition: 1 })).toBe(0n);
    s.broker.coordinator = 0;
    await producer.transaction.commit();
    expect(s.transactions.committed).toEqual(['t/0@0', 't/1@0']);
  });
});

it('a storm: whatever becomes of requests, a transaction is read whole when commit() says so, and not at all when abort() does', {
  timeout: 60_000,
}, async () => {
  await using s = await setUp({ nodes: 2 });
  const next = random(7);
  const producer = await s.open({ requestTimeoutMs: 250, deliveryTimeoutMs: 3_000 });
  const expected: string[] = [];
  const dropped: string[] = [];
  const outcomes: readonly TransactionOutcome[] = ['lost', 'cut', 'silence', COORDINATOR_LOAD_IN_PROGRESS, CONCURRENT_TRANSACTIONS];
  s.transactions.onRequest = () => (next() < 0.25 ? (outcomes[Math.floor(next() * outcomes.length)] ?? 0) : 0);
  s.broker.onProduce = (batch) => {
    const chance = next();
    if (chance < 0.05) return 'cut';
    const answer = s.broker.write(batch);
    return chance < 0.15 ? 'cut' : answer;
  };
  for (let turn = 0; turn < 60; turn++) {
    if (turn % 9 === 4) s.broker.coordinator = 1 - s.broker.coordinator;
    await producer.transaction.begin();
    const partitions = [0, 1, 2].filter(() => next() < 0.7);
    const sent = await Promise.all(partitions.map(async (p) => ({ p, outcome: await send(producer, { partition: p }) })));
    const ids = sent.flatMap(({ p, outcome }) => (typeof outcome === 'bigint' ? [`t/${p}@${outcome}`] : []));
    const whole = sent.length === ids.length;
    if (whole && next() < 0.7) {
      await producer.transaction.commit();
      expected.push(...ids);
    } else {
      await producer.transaction.abort();
      dropped.push(...ids);
    }
  }
  expect([...s.transactions.committed].sort()).toEqual([...expected].sort());
  expect(s.transactions.committed.filter((id) => dropped.includes(id))).toEqual([]);
  expect(s.transactions.strays).toEqual([]);
});
