import { compileProducerOptions, type ProducerOptions, type TurnpikeError } from '@turnpike/core';
import { type DrainGate, openGate, type ProducerPort } from '@turnpike/core/spi';
import { type CertificateAuthority, certificateAuthority } from '@turnpike/testing';
import { beforeAll, describe, expect, it } from 'vitest';
import { sendValue } from '../support/records.ts';
import { FakeBroker } from './fake-broker.ts';
import { linkTo } from './link.ts';

const NOT_LEADER = 6;
const MESSAGE_TOO_LARGE = 10;
const NOT_ENOUGH_REPLICAS = 19;
/** One fills a batch of 1,024 bytes. */
const FULL = 900;

let ca: CertificateAuthority;

beforeAll(async () => {
  ca = await certificateAuthority();
});

async function setUp(options: ProducerOptions = {}, gate: DrainGate = openGate) {
  const broker = await FakeBroker.open(ca, { topics: { t: 2 } });
  const link = await linkTo(broker, ca, undefined, gate);
  const port = await link.producer(compileProducerOptions({ requestTimeoutMs: 1_000, maxBatchBytes: 1_024, ...options }));
  await port.warm(['t']);
  const sequences = () => broker.produced.map((b) => `${b.epoch}:${b.sequence}+${b.count}`);
  const release = async () => {
    await link[Symbol.asyncDispose]();
    await broker[Symbol.asyncDispose]();
  };
  return { broker, port, sequences, [Symbol.asyncDispose]: release };
}

/** The offset, or the error. */
const send = (port: ProducerPort, bytes = FULL, withinMs = 5_000): Promise<bigint | TurnpikeError> =>
  sendValue(port, { topic: 't', partition: 0, value: Buffer.alloc(bytes, 'x'), withinMs });

describe('full batches of one partition', () => {
  it('go one behind another without waiting for answers, once the broker has had one of their epoch', async () => {
    await using s = await setUp();
    s.broker.onProduce = () => 'silence';
    const first = [send(s.port, FULL, 700), send(s.port, FULL, 700)];
    await expect.poll(() => s.broker.produced.length).toBe(1);
    expect(await Promise.all(first)).toMatchObject([{ code: 'DELIVERY_TIMEOUT' }, { code: 'DELIVERY_TIMEOUT' }]);
    expect(s.sequences()).toEqual(['0:0+1']); // The broker may not know the epoch yet, and would take a later one for the first.

    s.broker.onProduce = (batch) => s.broker.write(batch);
    expect(await send(s.port)).toBe(0n);
    s.broker.onProduce = () => 'silence';
    const sent = Array.from({ length: 8 }, () => send(s.port, FULL, 700));
    await expect.poll(() => s.broker.produced.length).toBe(7);
    expect(s.sequences().slice(1)).toEqual(['1:0+1', '1:1+1', '1:2+1', '1:3+1', '1:4+1', '1:5+1']); // Five under way, as the broker remembers the last five.
    expect((await Promise.all(sent)).slice(0, 5).map((error) => (error as TurnpikeError).written)).toEqual(Array(5).fill('unknown'));
  });

  it('stay in order when the first of them is refused for now', async () => {
    await using s = await setUp();
    expect(await send(s.port)).toBe(0n);
    let refusals = 2;
    s.broker.onProduce = (batch) => (batch.sequence === 1 && refusals-- > 0 ? { code: NOT_ENOUGH_REPLICAS } : s.broker.write(batch));
    expect(await Promise.all(Array.from({ length: 4 }, () => send(s.port)))).toEqual([1n, 2n, 3n, 4n]);
  });

  it('close the gap that one leaves which is refused for good', async () => {
    await using s = await setUp();
    expect(await send(s.port)).toBe(0n);
    let large = true;
    s.broker.onProduce = (batch) => {
      const refused = batch.sequence === 1 && large;
      if (refused) large = false;
      return refused ? { code: MESSAGE_TOO_LARGE } : s.broker.write(batch);
    };
    const [bad, ...rest] = await Promise.all(Array.from({ length: 4 }, () => send(s.port)));
    expect(bad).toMatchObject({ code: 'RECORD_TOO_LARGE', written: 'no' });
    expect(rest).toEqual([1n, 2n, 3n]);
    expect(new Set(s.sequences().map((q) => q.split(':')[0]))).toEqual(new Set(['0']));
  });

  it('of which the first may be written, unanswered, are known again and none is written twice', async () => {
    await using s = await setUp();
    expect(await send(s.port)).toBe(0n);
    let cut = true;
    s.broker.onProduce = (batch) => {
      const answer = s.broker.write(batch);
      if (batch.sequence !== 3 || !cut) return answer;
      cut = false;
      return 'cut';
    };
    expect(await Promise.all(Array.from({ length: 5 }, () => send(s.port)))).toEqual([1n, 2n, 3n, 4n, 5n]);
    expect(s.broker.end('t', 0)).toBe(6n);
  });
});

describe('a quota', () => {
  function counting() {
    const charged = { tries: 0, bytes: 0 };
    const gate: DrainGate = {
      ...openGate,
      admit: (_topic, _records, bytes) => {
        charged.tries++;
        charged.bytes += bytes;
        return 0;
      },
      refund: (_topic, _records, bytes) => {
        charged.bytes -= bytes;
      },
    };
    return { charged, gate };
  }

  it('is charged for each try, as all of them go over the network', async () => {
    const { charged, gate } = counting();
    await using s = await setUp({}, gate);
    let refusals = 2;
    s.broker.onProduce = (batch) => (refusals-- > 0 ? { code: NOT_LEADER } : s.broker.write(batch));
    expect(await send(s.port)).toBe(0n);
    expect(charged.tries).toBe(3);
    expect(charged.bytes).toBe(3 * (s.broker.produced[0]?.bytes.length ?? 0));
  });

  it('gets all of it back where nothing was written', async () => {
    const { charged, gate } = counting();
    await using s = await setUp({}, gate);
    s.broker.onProduce = () => ({ code: NOT_ENOUGH_REPLICAS });
    expect(await send(s.port, FULL, 600)).toMatchObject({ code: 'DELIVERY_TIMEOUT', written: 'no' });
    expect(charged.tries).toBeGreaterThan(1);
    expect(charged.bytes).toBe(0);
  });

  it('holds back a retry too, and what can’t go again before its deadline ends by it', async () => {
    let open = true;
    await using s = await setUp({}, { ...openGate, admit: () => (open ? 0 : 100) });
    s.broker.onProduce = () => {
      open = false;
      return { code: NOT_ENOUGH_REPLICAS };
    };
    expect(await send(s.port, FULL, 800)).toMatchObject({ code: 'DELIVERY_TIMEOUT', written: 'no' });
    expect(s.broker.produced).toHaveLength(1);
  });

  it.each(['gzip', 'snappy', 'lz4', 'zstd'] as const)('is asked for what %s leaves of a batch', async (compression) => {
    const { charged, gate } = counting();
    await using s = await setUp({ compression, maxBatchBytes: 1_000_000 }, gate);
    expect(await send(s.port, 50_000)).toBe(0n);
    expect(charged.bytes).toBe(s.broker.produced[0]?.bytes.length);
    expect(charged.bytes).toBeLessThan(5_000);
  });
});
