import { compileProducerOptions, type TurnpikeError } from '@turnpike/core';
import { type Pending, systemClock } from '@turnpike/core/spi';
import { certificateAuthority } from '@turnpike/testing';
import { describe, expect, it } from 'vitest';
import { FakeBroker, type Mishap, type ProduceAnswer } from './fake-broker.ts';
import { linkTo, random } from './link.ts';

interface Told {
  readonly partition: number;
  readonly n: number;
  readonly offset?: bigint;
  readonly error?: TurnpikeError;
}

/** Small batches are full ones: several of a partition are under way. */
const STORMS = [
  { seed: 1, records: 600, options: {} },
  { seed: 2, records: 600, options: {} },
  { seed: 3, records: 3_000, options: { maxBatchBytes: 1_024 } },
  { seed: 4, records: 3_000, options: { maxBatchBytes: 1_024 } },
  { seed: 5, records: 3_000, options: { maxBatchBytes: 1_024 } },
];

describe.each(STORMS)('the wire producer in a storm (seed $seed, $records records)', ({ seed, records, options }) => {
  it('acknowledges what is written, once and in order, where it says; what it refuses as "no" is not there', async () => {
    const next = random(seed);
    const ca = await certificateAuthority();
    await using broker = await FakeBroker.open(ca, { nodes: 3, topics: { t: 4 } });
    const link = await linkTo(broker, ca);
    let calm = false;
    broker.onProduce = (batch): ProduceAnswer | Mishap => {
      const dice = calm ? 1 : next();
      const leader = broker.topics.get('t')?.[batch.partition];
      if (leader !== batch.node) return { code: 6 };
      if (dice < 0.04) return 'cut';
      if (dice < 0.05) return 'silence';
      if (dice < 0.1) return { code: [19, 2, 5, 45, 47, 59][Math.floor(next() * 6)] ?? 19 };
      if (dice < 0.12) return { code: 87, rejected: batch.count > 1 ? [Math.floor(next() * batch.count)] : [] };
      if (dice < 0.14 && batch.count > 3) return { code: 10 };
      if (dice < 0.16) broker.topics.get('t')?.splice(batch.partition, 1, Math.floor(next() * 4) - 1);
      const answer = broker.write(batch);
      if (dice < 0.2) return 'cut';
      if (dice < 0.21) return 'silence';
      if (dice < 0.26 && !answer.code) return { code: [6, 7, 20, 56, -1][Math.floor(next() * 5)] ?? 7 };
      return dice < 0.28 ? { ...answer, throttleMs: 50 } : answer;
    };
    const heal = setInterval(() => {
      const leaders = broker.topics.get('t') ?? [];
      for (const [p, leader] of leaders.entries()) if (leader < 0) leaders[p] = Math.floor(next() * 3);
    }, 150);
    const port = await link.producer(compileProducerOptions({ requestTimeoutMs: 300, ...options }));
    await port.warm(['t']);
    const told: Promise<Told>[] = [];
    for (let n = 0; n < records; n++) {
      const partition = Math.floor(next() * 4);
      const buf = Buffer.from(`${n}`.padStart(40));
      told.push(
        new Promise((resolve) => {
          const pending: Pending = {
            deadlineMs: systemClock.monotonic() + 1_500,
            attempts: 0,
            span: undefined,
            acknowledge: (batch, i) => resolve({ partition, n, offset: batch.baseOffset < 0n ? -1n : batch.baseOffset + BigInt(i) }),
            fail: (error) => resolve({ partition, n, error }),
          };
          port.append(
            { topic: 't', partition, timestampMs: 1, headers: undefined, buf, keyStart: -1, keyEnd: -1, valueStart: 0, valueEnd: buf.length },
            pending,
          );
        }),
      );
      if (next() < 240 / records) await new Promise((resolve) => setTimeout(resolve, next() * 15));
    }
    const outcomes = await Promise.all(told);
    calm = true;
    clearInterval(heal);
    const closing = performance.now();
    await link[Symbol.asyncDispose]();
    expect(performance.now() - closing).toBeLessThan(3_000);

    for (let p = 0; p < 4; p++) {
      const log = (broker.log.get(`t/${p}`) ?? []).flatMap(({ batch }) => valuesOf(batch.bytes));
      expect(log).toEqual([...log].sort((a, b) => a - b));
      for (const { n, offset, error } of outcomes.filter((o) => o.partition === p)) {
        const times = log.filter((v) => v === n).length;
        if (offset !== undefined) expect({ n, times, at: offset < 0n ? -1n : BigInt(log.indexOf(n)) }).toEqual({ n, times: 1, at: offset });
        else if (error?.written === 'no') expect({ n, code: error.code, times }).toEqual({ n, code: error.code, times: 0 });
        else expect({ n, written: error?.written, times: times > 1 }).toEqual({ n, written: 'unknown', times: false });
      }
    }
    expect(outcomes.filter((o) => o.offset !== undefined).length).toBeGreaterThan(300);
  });
});

/** The numbers in a batch that holds nothing else: no keys, no headers, uncompressed, short. */
function valuesOf(batch: Buffer): number[] {
  const values: number[] = [];
  for (let at = 61; at < batch.length; ) {
    const length = (batch[at] ?? 0) >>> 1;
    const end = at + 1 + length;
    // ..., value's length, value, number of headers (0).
    for (let valueAt = at + 4; valueAt < end; valueAt++) {
      const valueLength = (batch[valueAt] ?? 0) >>> 1;
      if (valueAt + 1 + valueLength + 1 !== end) continue;
      values.push(Number(batch.toString('latin1', valueAt + 1, end - 1)));
      break;
    }
    at = end;
  }
  return values;
}
