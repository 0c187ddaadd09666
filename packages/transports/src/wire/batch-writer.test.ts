import { Reader, readRecordsBatch } from '@platformatic/kafka';
import { compileProducerOptions } from '@turnpike/core';
import { accumulate, type BufferedRecord, type Compression, openGate, type Pending, type ProduceBatch, systemClock } from '@turnpike/core/spi';
import { describe, expect, it } from 'vitest';
import { golden, plain, where } from './batch.fixture.ts';
import { decodeBatches } from './batch-reader.ts';
import { type BatchSequence, COMPRESSIONS, compressBatch, sealBatch } from './batch-writer.ts';

const record = (init: Partial<BufferedRecord> = {}): BufferedRecord => ({
  key: null,
  value: null,
  headers: undefined,
  timestampMs: 1_600_000_000_000,
  ...init,
});

const sequence: BatchSequence = { producerId: 4_000_000_000n, epoch: 7, sequence: 2 ** 31 - 2 };

/** As records become a batch on their way: appended, compressed, sealed. */
async function encode(
  records: readonly BufferedRecord[],
  compression: Compression,
  init: { sequence?: BatchSequence; transactional?: boolean } = {},
): Promise<Buffer> {
  const taken = Promise.withResolvers<ProduceBatch>();
  const driver = {
    warm: async () => {},
    partitions: () => 1,
    lane: () => 0,
    produce: async (_lane: number, batches: readonly ProduceBatch[]) => {
      for (const batch of batches) taken.resolve(batch);
      return batches.map(() => ({ baseOffset: 0n, attempts: 1 }));
    },
    [Symbol.asyncDispose]: async () => {},
  };
  const events = { settled: () => {}, retried: () => {}, wrote: () => {}, throttled: () => {} };
  await using port = accumulate(driver, { clock: systemClock, gate: openGate, events }, compileProducerOptions());
  const pending: Pending = { deadlineMs: systemClock.monotonic() + 10_000, attempts: 0, span: undefined, acknowledge: () => {}, fail: () => {} };
  for (const { key, value, headers, timestampMs } of records) {
    const buf = Buffer.concat([key ?? '', value ?? ''].map((b) => Buffer.from(b)));
    const keyEnd = key?.length ?? 0;
    const at = { keyStart: key ? 0 : -1, keyEnd: key ? keyEnd : -1, valueStart: value ? keyEnd : -1, valueEnd: value ? buf.length : -1 };
    port.append({ topic: 't', partition: 0, timestampMs, headers, buf, ...at }, pending);
  }
  const batch = await taken.promise;
  const bytes = await compressBatch(batch, compression);
  const sealed = sealBatch(batch, compression, init.sequence, init.transactional ?? false);
  expect(bytes).toBe(sealed.length);
  return sealed;
}

describe('a batch that is sealed', () => {
  const odd: BufferedRecord[] = [
    record({
      key: Buffer.from('k'),
      value: Buffer.from('v'),
      headers: [
        ['h', Buffer.from('1')],
        ['h', null],
        ['', Buffer.alloc(0)],
        ['\ud800', null],
      ],
    }),
    record({ timestampMs: 0 }),
    record({ timestampMs: 8.64e15, key: Buffer.alloc(0), value: Buffer.alloc(0) }),
    record({ timestampMs: 1_600_000_000_001, value: Buffer.alloc(70_000, 7) }),
  ];

  it.each(COMPRESSIONS)('is read back as it was: %s', async (compression) => {
    const { records: read, nextOffset } = decodeBatches(await encode(odd, compression), where(0n), []);
    const records = [...read];
    expect(nextOffset).toBe(4n);
    expect(records.map((r) => [r.key, r.value, r.timestampMs])).toEqual(odd.map((r) => [r.key, r.value, r.timestampMs]));
    expect([...(records[0]?.headers ?? [])]).toEqual([
      ['h', Buffer.from('1')],
      ['h', null],
      ['', Buffer.alloc(0)],
      ['\ufffd', null],
    ]);
  });

  it('is read by another client as it was', async () => {
    const some = odd.slice(0, 2).map((r) => ({ ...r, headers: r.headers?.slice(0, 1) }));
    const batch = readRecordsBatch(Reader.from(await encode(some, 'none', { sequence, transactional: true })));
    expect(batch).toMatchObject({
      magic: 2,
      attributes: 1 << 4, // transactional
      producerId: 4_000_000_000n,
      producerEpoch: 7,
      firstSequence: 2 ** 31 - 2,
      lastOffsetDelta: 1,
      maxTimestamp: 1_600_000_000_000n,
    });
    expect(batch.records.map((r) => [r.key && plain(r.key), r.value && plain(r.value)])[0]).toEqual(['k', 'v']);
  });

  it('makes of Java’s records the bytes that Java makes', async () => {
    const bytes = golden('none');
    const { records } = decodeBatches(bytes, where(100n), []);
    const same = [...records].map((r) => record({ key: r.key, value: r.value, timestampMs: r.timestampMs, headers: r.headers.entries() }));
    const ours = await encode(same, 'none', { sequence });
    // The broker's to set: base offset and leader epoch.
    bytes.copy(ours, 0, 0, 8);
    bytes.copy(ours, 12, 12, 16);
    expect(ours.toString('hex')).toBe(bytes.toString('hex'));
  });
});
