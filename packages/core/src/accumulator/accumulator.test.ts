import { describe, expect, it } from 'vitest';
import { TurnpikeError } from '../errors.ts';
import { ManualClock } from '../memory/manual-clock.ts';
import { compileProducerOptions, type ProducerOptions } from '../pipeline/options.ts';
import type { ProduceBatch, ProduceDriver, ProduceOutcome } from '../spi/driver.ts';
import { type DrainGate, openGate } from '../spi/policy.ts';
import type { Pending, SettledBatch, TransactionPort } from '../spi/transport.ts';
import { accumulate } from './accumulator.ts';

type Outcomes = readonly (ProduceOutcome | Promise<ProduceOutcome>)[];

/** A driver whose answers come when the test says so. */
class HeldDriver implements ProduceDriver {
  readonly flushes: { lane: number; batches: readonly ProduceBatch[]; answer: (outcomes?: Outcomes) => void }[] = [];
  closed = false;
  warm = async () => {};
  partitions = () => 4;
  lane = (_topic: string, partition: number) => partition % 2;
  produce(lane: number, batches: readonly ProduceBatch[]): Promise<Outcomes> {
    return new Promise((resolve) => {
      const answer = (outcomes: Outcomes = batches.map(() => ({ baseOffset: 0n, attempts: 1 }))) => resolve(outcomes);
      this.flushes.push({ lane, batches, answer });
    });
  }
  async [Symbol.asyncDispose]() {
    this.closed = true;
  }
}

function setUp(options: ProducerOptions = {}, gate: DrainGate = openGate, driver = new HeldDriver()) {
  const clock = new ManualClock();
  const settled: SettledBatch[] = [];
  const events = {
    settled: (batches: readonly SettledBatch[]) => {
      settled.push(...batches);
      for (const b of batches) for (const [i, p] of b.pendings.entries()) b.error ? p.fail(b.error) : p.acknowledge(b, i);
    },
    retried: () => {},
    wrote: () => {},
    throttled: () => {},
  };
  const port = accumulate(driver, { clock, gate, events }, compileProducerOptions(options));
  const ended: string[] = [];
  const append = (partition: number, text: string, deadlineMs = 30_000) => {
    const buf = Buffer.from(text);
    const pending: Pending = {
      deadlineMs,
      attempts: 0,
      span: undefined,
      acknowledge: () => void ended.push(`ok ${text}`),
      fail: (e) => void ended.push(`${e.code} ${text} ${e.written}`),
    };
    const accepted = port.append(
      { topic: 't', partition, timestampMs: 1, headers: undefined, buf, keyStart: -1, keyEnd: -1, valueStart: 0, valueEnd: buf.length },
      pending,
    );
    return { pending, accepted, buf };
  };
  const values = (flush: number) => driver.flushes[flush]?.batches.map((b) => b.records.map((r) => String(r.value)));
  return { driver, clock, port, append, ended, settled, values };
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

describe('accumulate', () => {
  it('sends at once when nothing is in flight, and gathers what one turn sends into one flush a lane', async () => {
    const { append, driver, values } = setUp();
    append(0, 'a');
    append(0, 'b');
    append(2, 'c');
    append(1, 'd');
    await turn();
    expect(driver.flushes.map((f) => f.lane)).toEqual([0, 1]);
    expect(values(0)).toEqual([['a', 'b'], ['c']]);
    expect(values(1)).toEqual([['d']]);
  });

  it('gathers while a flush is in flight and sends all of it when the answer comes', async () => {
    const { append, driver, values } = setUp();
    append(0, 'a');
    await turn();
    append(0, 'b');
    append(2, 'c');
    await turn();
    expect(driver.flushes).toHaveLength(1);
    driver.flushes[0]?.answer();
    await turn();
    expect(values(1)).toEqual([['b'], ['c']]);
  });

  it('keeps a partition in order when its leader moves to another lane while a batch is in flight', async () => {
    const { append, driver } = setUp();
    append(0, 'a');
    await turn();
    driver.lane = () => 7;
    append(0, 'b');
    await turn();
    expect(driver.flushes).toHaveLength(1);
    driver.flushes[0]?.answer();
    await turn();
    expect(driver.flushes[1]?.lane).toBe(7);
  });

  it('copies: a later change of the caller’s buffer does not change the record', async () => {
    const { append, values } = setUp();
    append(0, 'before').buf.write('after!');
    await turn();
    expect(values(0)).toEqual([['before']]);
  });

  it('cuts a batch at maxBatchBytes and sends the rest with the next flush', async () => {
    const { append, driver, values } = setUp({ maxBatchBytes: 2048 });
    for (const c of 'abc') append(0, c.repeat(900));
    await turn();
    expect(values(0)?.[0]).toHaveLength(2);
    driver.flushes[0]?.answer();
    await turn();
    expect(values(1)).toEqual([['c'.repeat(900)]]);
  });

  it('refuses an append when memory is full and says when there is room again', async () => {
    const { append, driver, port } = setUp({ maxBatchBytes: 1024, maxBufferBytes: 1024 });
    expect(append(0, 'x'.repeat(600)).accepted).toBe(true);
    expect(append(0, 'y'.repeat(600)).accepted).toBe(false);
    await turn();
    let room = false;
    void port.drained().then(() => (room = true));
    await turn();
    expect(room).toBe(false);
    driver.flushes[0]?.answer();
    await turn();
    expect(room).toBe(true);
    expect(append(0, 'y'.repeat(600)).accepted).toBe(true);
  });

  it('takes a record that is larger than the whole memory when it is alone', () => {
    const { append } = setUp({ maxBatchBytes: 1024, maxBufferBytes: 1024 });
    expect(append(0, 'x'.repeat(5000)).accepted).toBe(true);
  });

  it('settles each partition by its own outcome', async () => {
    const { append, driver, ended } = setUp();
    append(0, 'a');
    append(2, 'b');
    await turn();
    const error = new TurnpikeError('BROKER_REJECTED', 'no', { written: 'no' });
    driver.flushes[0]?.answer([
      { baseOffset: 5n, attempts: 1 },
      { baseOffset: -1n, attempts: 1, error },
    ]);
    await turn();
    expect(ended).toEqual(['ok a', 'BROKER_REJECTED b no']);
  });

  it('ends records with written "unknown" when a driver breaks its promise not to reject', async () => {
    const { append, driver, ended } = setUp();
    driver.produce = () => Promise.reject(new Error('boom'));
    append(0, 'a');
    await turn();
    expect(ended).toEqual(['INTERNAL a unknown']);
  });

  it('waits as long as the quota says, the partition in order, other topics not held up', async () => {
    let waitMs = 100;
    const gate: DrainGate = { ...openGate, admit: () => waitMs };
    const { append, driver, clock, values } = setUp({}, gate);
    append(0, 'a');
    append(0, 'b');
    await clock.advance(99);
    expect(driver.flushes).toHaveLength(0);
    waitMs = 0;
    await clock.advance(1);
    expect(values(0)).toEqual([['a', 'b']]);
  });

  it('never asks the quota for more than its burst at once', async () => {
    const asked: number[] = [];
    const gate: DrainGate = {
      ...openGate,
      burst: () => ({ records: 2, bytes: 1e9 }),
      admit: (_t, records) => {
        asked.push(records);
        return 0;
      },
    };
    const { append, driver } = setUp({}, gate);
    for (const c of 'abcde') append(0, c);
    for (let i = 0; i < 3; i++) {
      await turn();
      driver.flushes[i]?.answer();
    }
    await turn();
    expect(asked).toEqual([2, 2, 1]);
  });

  it('refunds the quota when the broker certainly did not write', async () => {
    const refunds: number[] = [];
    const gate: DrainGate = { ...openGate, refund: (_t, records) => void refunds.push(records) };
    const { append, driver } = setUp({}, gate);
    append(0, 'a');
    await turn();
    driver.flushes[0]?.answer([{ baseOffset: -1n, attempts: 1, error: new TurnpikeError('BROKER_REJECTED', 'no', { written: 'no' }) }]);
    await turn();
    append(0, 'b');
    await turn();
    driver.flushes[1]?.answer([{ baseOffset: -1n, attempts: 1, error: new TurnpikeError('BROKER_UNAVAILABLE', 'no', { written: 'unknown' }) }]);
    await turn();
    expect(refunds).toEqual([1]);
  });

  it('expires what the quota holds past its deadline, as never written, with the time to retry after', async () => {
    const gate: DrainGate = { ...openGate, admit: () => 60_000 };
    const { append, clock, ended, settled } = setUp({}, gate);
    append(0, 'a', 1000);
    await clock.advance(1300);
    expect(ended).toEqual(['QUOTA_EXCEEDED a no']);
    expect(settled[0]?.error?.facts.retryAfterMs).toBeGreaterThan(50_000);
  });

  it('expires what waits behind a batch that gets no answer', async () => {
    const { append, clock, ended } = setUp();
    append(0, 'a');
    await turn();
    append(0, 'b', 1000);
    await clock.advance(1300);
    expect(ended).toEqual(['DELIVERY_TIMEOUT b no']);
  });

  it('cancels what has not gone, and says no for what is under way', async () => {
    const { append, driver, port, values } = setUp();
    const a = append(0, 'a');
    await turn();
    const b = append(0, 'b');
    append(0, 'c');
    expect(port.cancel(new Set([a.pending, b.pending]))).toEqual(new Set([b.pending]));
    driver.flushes[0]?.answer();
    await turn();
    expect(values(1)).toEqual([['c']]);
  });

  it('flush() waits for what was appended before it, not for what came after', async () => {
    const { append, driver, port } = setUp();
    append(0, 'a');
    let flushed = false;
    void port.flush().then(() => (flushed = true));
    await turn();
    append(0, 'b');
    driver.flushes[0]?.answer();
    await turn();
    expect(driver.flushes).toHaveLength(2);
    expect(flushed).toBe(true);
  });

  it('flush() with an aborted signal rejects and loses nothing', async () => {
    const { append, driver, port, ended } = setUp();
    append(0, 'a');
    const abort = new AbortController();
    const flushing = port.flush(abort.signal);
    abort.abort();
    await expect(flushing).rejects.toMatchObject({ code: 'ABORTED' });
    driver.flushes[0]?.answer();
    await turn();
    expect(ended).toEqual(['ok a']);
  });

  it('close waits for everything, then closes the driver, then refuses', async () => {
    const { append, driver, port, ended, clock } = setUp();
    append(0, 'a');
    const closing = port[Symbol.asyncDispose]();
    await turn();
    expect(driver.closed).toBe(false);
    driver.flushes[0]?.answer();
    await closing;
    expect(ended).toEqual(['ok a']);
    expect(driver.closed).toBe(true);
    expect(clock.pending).toBe(0);
    expect(() => append(0, 'late')).toThrow(expect.objectContaining({ code: 'CLOSED', written: 'no' }));
  });

  it('a linger floor gathers for that long although nothing is in flight', async () => {
    const { append, driver, clock, values } = setUp({ minLingerMs: 20 });
    append(0, 'a');
    await clock.advance(10);
    append(0, 'b');
    expect(driver.flushes).toHaveLength(0);
    await clock.advance(10);
    expect(values(0)).toEqual([['a', 'b']]);
  });

  // A partition under its minimum of replicas, or of a topic that was deleted, used to stop all partitions of its leader for as long as it was retried.
  it('frees the lane while one partition is tried again, and keeps that partition in order', async () => {
    const { append, driver, values, ended } = setUp();
    append(0, 'a');
    append(2, 'b');
    await turn();
    const late = Promise.withResolvers<ProduceOutcome>();
    driver.flushes[0]?.answer([late.promise, { baseOffset: 0n, attempts: 1 }]);
    await turn();
    append(0, 'behind a');
    append(2, 'c');
    await turn();
    expect(values(1)).toEqual([['c']]);
    driver.flushes[1]?.answer();
    late.resolve({ baseOffset: 9n, attempts: 3 });
    await turn();
    expect(values(2)).toEqual([['behind a']]);
    expect(ended).toEqual(['ok b', 'ok c', 'ok a']);
  });

  it('flush() and close wait for what is tried again', async () => {
    const { append, driver, port, ended } = setUp();
    append(0, 'a');
    await turn();
    const late = Promise.withResolvers<ProduceOutcome>();
    driver.flushes[0]?.answer([late.promise]);
    const closing = port[Symbol.asyncDispose]();
    await turn();
    expect({ closed: driver.closed, ended }).toEqual({ closed: false, ended: [] });
    late.resolve({ baseOffset: 0n, attempts: 2 });
    await closing;
    expect(ended).toEqual(['ok a']);
  });

  it('sends the rest of a batch again, in order, when the broker says which records are at fault', async () => {
    const refunds: number[] = [];
    const gate: DrainGate = { ...openGate, refund: (_t, records) => void refunds.push(records) };
    const { append, driver, values, ended } = setUp({}, gate);
    for (const c of 'abcd') append(0, c);
    await turn();
    append(0, 'e');
    const error = new TurnpikeError('BROKER_REJECTED', 'INVALID_RECORD', { written: 'no' });
    driver.flushes[0]?.answer([{ baseOffset: -1n, attempts: 1, error, rejected: [1] }]);
    await turn();
    expect(ended).toEqual(['BROKER_REJECTED b no']);
    expect(values(1)).toEqual([['a', 'c', 'd']]);
    expect(refunds.reduce((a, b) => a + b)).toBe(4);
    driver.flushes[1]?.answer();
    await turn();
    expect(values(2)).toEqual([['e']]);
    driver.flushes[2]?.answer();
    await turn();
    expect(ended.slice(1)).toEqual(['ok a', 'ok c', 'ok d', 'ok e']);
  });

  it('splits a batch that is too large only when it is certain that nothing of it was written', async () => {
    const { append, driver, ended } = setUp();
    append(0, 'a');
    append(0, 'b');
    await turn();
    driver.flushes[0]?.answer([{ baseOffset: -1n, attempts: 2, error: new TurnpikeError('RECORD_TOO_LARGE', 'config changed', { written: 'unknown' }) }]);
    await turn();
    expect(ended).toEqual(['RECORD_TOO_LARGE a unknown', 'RECORD_TOO_LARGE b unknown']);
  });

  // After an outage the oldest record, with a moment left, used to take a whole batch of younger ones down with it.
  it('gives a record that has little time left no company that has more', async () => {
    const { append, driver, clock, values } = setUp({ requestTimeoutMs: 10_000 });
    append(0, 'first', 30_000);
    await clock.advance(1);
    append(0, 'old', 29_000);
    append(0, 'as old', 29_500);
    append(0, 'young', 50_000);
    append(0, 'younger', 58_000);
    await clock.advance(28_000);
    driver.flushes[0]?.answer();
    await turn();
    driver.flushes[1]?.answer();
    await turn();
    expect([values(1), values(2)]).toEqual([[['old', 'as old']], [['young', 'younger']]]);
    expect(driver.flushes[1]?.batches[0]?.deadlineMs).toBe(29_000);
  });

  it('never hands over a record whose deadline has passed, though no sweep has found it yet', async () => {
    const { append, driver, clock, ended, values } = setUp();
    append(0, 'a', 30_000);
    await clock.advance(240);
    append(0, 'b', 245);
    append(0, 'c', 30_000);
    await clock.advance(8);
    driver.flushes[0]?.answer();
    await turn();
    expect(ended).toContain('DELIVERY_TIMEOUT b no');
    expect(values(1)).toEqual([['c']]);
  });

  it('bounds a flush, and lets no partition starve that does not fit into it', async () => {
    const big = 'x'.repeat(900_000);
    const { append, driver } = setUp({ maxBufferBytes: 200 * 1024 * 1024 });
    for (let round = 0; round < 3; round++) for (let p = 0; p < 40; p++) append(p * 2, big);
    const sent: number[] = [];
    for (let i = 0; sent.length < 120; i++) {
      await turn();
      const flush = driver.flushes[i];
      if (!flush) break;
      expect(flush.batches.reduce((sum, b) => sum + b.bytes, 0)).toBeLessThan(18 * 1024 * 1024);
      sent.push(...flush.batches.map((b) => b.partition));
      flush.answer();
    }
    expect(sent).toHaveLength(120);
    expect(new Set(sent.slice(0, 40)).size).toBe(40);
  });
});

// A link kept every producer that it had ever opened, each with its arena's last chunk.
it('says when it is closed, for whoever keeps it to forget it', async () => {
  const driver = new HeldDriver();
  let closed = 0;
  const port = accumulate(
    driver,
    { clock: new ManualClock(), gate: openGate, events: { settled: () => {}, retried: () => {}, wrote: () => {}, throttled: () => {} } },
    compileProducerOptions(),
    () => void closed++,
  );
  await Promise.all([port[Symbol.asyncDispose](), port[Symbol.asyncDispose]()]);
  expect(closed).toBe(1);
});

describe('a transaction', () => {
  function transactional(more: Partial<TransactionPort> = {}) {
    const calls: string[] = [];
    const say = (what: string) => async () => void calls.push(what);
    const transaction: TransactionPort = { begin: say('begin'), sendOffsets: say('offsets'), commit: say('commit'), abort: say('abort'), ...more };
    const { append, clock, driver, port } = setUp({}, openGate, Object.assign(new HeldDriver(), { transaction }));
    return { calls, append, clock, driver, port, transaction: port.transaction as TransactionPort };
  }

  it('is committed when all that was appended is acknowledged, not before', async () => {
    const { calls, append, driver, transaction } = transactional();
    await transaction.begin();
    append(0, 'a');
    const committing = transaction.commit();
    await turn();
    expect(calls).toEqual(['begin']);
    driver.flushes[0]?.answer();
    await committing;
    expect(calls).toEqual(['begin', 'commit']);
  });

  it('of which a record has failed is not committed; after abort() the next one is', async () => {
    const { calls, append, driver, transaction } = transactional();
    await transaction.begin();
    append(0, 'a');
    await turn();
    driver.flushes[0]?.answer([{ baseOffset: -1n, attempts: 1, error: new TurnpikeError('BROKER_REJECTED', 'no', { topic: 't', written: 'no' }) }]);
    await expect(transaction.commit()).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED', facts: { topic: 't' }, cause: { code: 'BROKER_REJECTED' } });
    await transaction.abort();
    await transaction.begin();
    await transaction.commit();
    expect(calls).toEqual(['begin', 'abort', 'begin', 'commit']);
  });

  // One that was still on its way when the transaction ended stood behind its marker, in no transaction.
  it('takes no record before it has begun, while it ends, and after', async () => {
    const { append, driver, transaction } = transactional();
    const refuses = () => expect(() => append(0, 'x')).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID', written: 'no', facts: { topic: 't' } }));
    refuses();
    const beginning = transaction.begin();
    refuses();
    await beginning;
    append(0, 'a');
    const committing = transaction.commit();
    refuses();
    await turn();
    driver.flushes[0]?.answer();
    await committing;
    refuses();
    expect(driver.flushes).toHaveLength(1);
  });

  it('whose end has failed takes none either, and may be ended again', async () => {
    let failures = 2;
    const fail = async () => {
      if (failures-- > 0) throw new TurnpikeError('BROKER_UNAVAILABLE', 'no answer', { retriable: true, written: 'unknown' });
    };
    const { append, transaction } = transactional({ commit: fail, abort: fail });
    await transaction.begin();
    await expect(transaction.commit()).rejects.toMatchObject({ code: 'BROKER_UNAVAILABLE' });
    expect(() => append(0, 'a')).toThrow('has ended');
    await expect(transaction.abort()).rejects.toMatchObject({ code: 'BROKER_UNAVAILABLE' });
    await transaction.commit();
    await transaction.begin();
    append(0, 'b');
  });

  // Whoever did not wait for sendOffsets() could have them written behind the end of the transaction, or committed without them.
  it('is ended when its offsets have been sent, and not committed where they are refused', async () => {
    const sent = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    let asked = 0;
    const { calls, transaction } = transactional({ sendOffsets: () => (sent[asked++] as PromiseWithResolvers<void>).promise });
    await expect(transaction.sendOffsets('g', [])).rejects.toMatchObject({ code: 'CONFIG_INVALID', facts: { group: 'g' } });
    for (const [i, end] of (['commit', 'abort'] as const).entries()) {
      await transaction.begin();
      const sending = transaction.sendOffsets('g', []);
      const ending = transaction[end]();
      await expect(transaction.sendOffsets('g', [])).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
      await turn();
      expect(calls.at(-1)).toBe('begin');
      sent[i]?.resolve();
      await Promise.all([sending, ending]);
      expect(calls.at(-1)).toBe(end);
    }
    await transaction.begin();
    sent.push(Promise.withResolvers());
    const refused = transaction.sendOffsets('g', []);
    sent[2]?.reject(new TurnpikeError('MEMBERSHIP_LOST', 'not yours', { group: 'g' }));
    await expect(refused).rejects.toMatchObject({ code: 'MEMBERSHIP_LOST' });
    await expect(transaction.commit()).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED', facts: { group: 'g' } });
    expect(calls.at(-1)).toBe('begin');
  });

  it('of which a record has failed is not committed after a begin() that was refused, either', async () => {
    let open = false;
    const begin = async () => {
      if (open) throw new TurnpikeError('CONFIG_INVALID', 'a transaction is open');
      open = true;
    };
    const { append, driver, transaction } = transactional({ begin });
    await transaction.begin();
    append(0, 'a');
    await turn();
    driver.flushes[0]?.answer([{ baseOffset: -1n, attempts: 1, error: new TurnpikeError('BROKER_REJECTED', 'no', { topic: 't', written: 'no' }) }]);
    await turn();
    await expect(transaction.begin()).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(transaction.commit()).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' });
  });

  // Readers of committed records waited for the timeout of what a producer had left open when it was closed.
  it('that is open at close is aborted, once its records have settled', async () => {
    const { calls, append, driver, port, transaction } = transactional();
    await transaction.begin();
    append(0, 'a');
    const closing = port[Symbol.asyncDispose]();
    await turn();
    expect(calls).toEqual(['begin']);
    driver.flushes[0]?.answer();
    await closing;
    expect(calls).toEqual(['begin', 'abort']);
  });

  it('whose abort is never answered holds up the close for a bounded time', async () => {
    const { clock, port, transaction } = transactional({ abort: () => new Promise(() => {}) });
    await transaction.begin();
    const closing = port[Symbol.asyncDispose]();
    await turn();
    await clock.advance(3_000);
    await closing;
  });

  it('that has ended is not ended again at close', async () => {
    const { calls, port, transaction } = transactional();
    await transaction.begin();
    await transaction.commit();
    await port[Symbol.asyncDispose]();
    expect(calls).toEqual(['begin', 'commit']);
  });
});
