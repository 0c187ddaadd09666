// Batches as Java's own client builds them (org.apache.kafka.common.record.internal.MemoryRecordsBuilder, kafka-clients 4.3.1), in hex: base offset 100, leader epoch 5; four odd records and 24
// that compress well; the transactional one and the markers are of producer 77.
import { readFileSync } from 'node:fs';
import { Reader, readRecordsBatch } from '@platformatic/kafka';
import type { BufferedRecord } from '@turnpike/core/spi';
import { describe, expect, it } from 'vitest';
import { COMPRESSIONS, decodeBatches, encodeBatch } from './record-batch.ts';

const java = new Map(
  readFileSync(new URL('record-batch.golden.txt', import.meta.url), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => line.split(' ') as [string, string])
    .map(([name, hex]) => [name, Buffer.from(hex, 'hex')]),
);
const golden = (name: string): Buffer => Buffer.from(java.get(name) ?? expect.unreachable(`no ${name} in record-batch.golden.txt`));
/** The same batch elsewhere in the log; the offset isn't part of the checksum. */
const at = (offset: bigint, batch: Buffer): Buffer => {
  batch.writeBigInt64BE(offset, 0);
  return batch;
};
const where = (fetchOffset: bigint) => ({ topic: 't', partition: 3, fetchOffset });
const plain = (bytes: Uint8Array | null) => (bytes === null ? null : Buffer.from(bytes).toString());
const record = (init: Partial<BufferedRecord> = {}): BufferedRecord => ({
  key: null,
  value: null,
  headers: undefined,
  timestampMs: 1_600_000_000_000,
  ...init,
});

describe('decodeBatches', () => {
  it.each(['none', 'gzip', 'snappy', 'lz4', 'zstd'])('reads what Java writes: %s', (name) => {
    const { records, nextOffset } = decodeBatches(golden(name), where(100n), []);
    expect(nextOffset).toBe(128n);
    expect(records).toHaveLength(28);
    expect(records.slice(0, 4).map((r) => [r.offset, r.timestampMs, plain(r.key), plain(r.value)])).toEqual([
      [100n, 1_600_000_000_000, 'k1', 'v1'],
      [101n, 1_600_000_000_001, null, '東京'],
      [102n, 1_599_999_000_000, '', null],
      [103n, 1_700_000_000_000, 'far', ''],
    ]);
    expect([...(records[0]?.headers ?? [])].map(([k, v]) => [k, plain(v)])).toEqual([
      ['h', 'x'],
      ['h', null],
      ['né', ''],
    ]);
    expect(records.at(-1)).toMatchObject({ topic: 't', partition: 3, offset: 127n, leaderEpoch: 5, timestampMs: 1_600_000_000_025 });
    expect(plain(records.at(-1)?.value ?? null)).toMatch(/ 23$/);
  });

  it('gives every record the broker’s time where the topic uses LogAppendTime', () => {
    const { records } = decodeBatches(golden('append-time'), where(100n), []);
    expect(new Set(records.map((r) => r.timestampMs))).toEqual(new Set([1_700_000_000_123]));
  });

  it('passes over what lies before the offset that was asked for, in a batch and in whole batches', () => {
    const data = Buffer.concat([at(0n, golden('none')), at(100n, golden('gzip'))]);
    const { records, nextOffset } = decodeBatches(data, where(126n), []);
    expect(records.map((r) => r.offset)).toEqual([126n, 127n]);
    expect(nextOffset).toBe(128n);
  });

  it('never goes back, though all that came lies before', () => {
    expect(decodeBatches(golden('none'), where(500n), [])).toEqual({ records: [], nextOffset: 500n });
  });

  it('goes past the end of a batch whose last records compaction has removed, and of one that it has emptied', () => {
    const shorter = encodeBatch([record({ value: Buffer.from('kept') })], 'none', undefined);
    const empty = encodeBatch([], 'none', undefined);
    for (const [batch, lastDelta] of [
      [shorter, 9],
      [empty, 4],
    ] as const) {
      batch.writeInt32BE(lastDelta, 23);
      seal(batch);
    }
    const { records, nextOffset } = decodeBatches(Buffer.concat([at(10n, shorter), at(20n, empty)]), where(10n), []);
    expect(records.map((r) => r.offset)).toEqual([10n]);
    expect(nextOffset).toBe(25n);
  });

  it('leaves a last batch that is cut off for the next fetch, wherever the cut lies', () => {
    const two = Buffer.concat([at(0n, golden('none')), at(28n, golden('none'))]);
    const first = golden('none').length;
    for (const cut of [1, 11, 12, 60, 61, first - 1]) expect(decodeBatches(two.subarray(0, first + cut), where(0n), []).nextOffset).toBe(28n);
    expect(decodeBatches(two.subarray(0, 40), where(0n), [])).toEqual({ records: [], nextOffset: undefined });
  });

  it('hides aborted transactions and every control batch, and goes past them', () => {
    const data = Buffer.concat([
      at(0n, golden('transactional')), // aborted
      at(28n, golden('abort')),
      at(29n, golden('transactional')), // committed
      at(57n, golden('commit')),
      at(58n, golden('none')), // of nobody's transaction
      at(86n, golden('transactional')), // aborted again
      at(114n, golden('abort')),
    ]);
    // As the broker lists them: in no promised order.
    const aborted = [
      { producerId: 77n, firstOffset: 86n },
      { producerId: 77n, firstOffset: 0n },
    ];
    const committed = decodeBatches(data, where(0n), aborted);
    expect(committed.nextOffset).toBe(115n);
    expect(committed.records.map((r) => r.offset)).toEqual(
      [...Array(28).keys()].map((i) => BigInt(29 + i)).concat([...Array(28).keys()].map((i) => BigInt(58 + i))),
    );
    const all = decodeBatches(data, where(0n), []);
    expect(all.records).toHaveLength(4 * 28);
  });

  it('begins in the middle of an aborted transaction without showing its end', () => {
    const data = Buffer.concat([at(40n, golden('transactional')), at(68n, golden('abort')), at(69n, golden('none'))]);
    const { records } = decodeBatches(data, where(50n), [{ producerId: 77n, firstOffset: 12n }]);
    expect(records[0]?.offset).toBe(69n);
  });

  it('refuses what was damaged, and names the place', () => {
    const damaged = golden('none');
    damaged[200] = (damaged[200] ?? 0) ^ 1;
    expect(() => decodeBatches(damaged, where(100n), [])).toThrow(
      expect.objectContaining({ code: 'BROKER_REJECTED', facts: expect.objectContaining({ offset: 100n }) }),
    );
    const old = golden('none');
    old[16] = 1;
    expect(() => decodeBatches(old, where(100n), [])).toThrow(/format 1/);
  });

  it('ends on a length that lies instead of reading for ever', () => {
    const batch = encodeBatch([record({ value: Buffer.from('x') })], 'none', undefined);
    batch.writeInt32BE(1_000, 57); // more records than there are
    expect(() => decodeBatches(seal(batch), where(0n), [])).toThrow(RangeError);
  });
});

describe('encodeBatch', () => {
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

  it.each(COMPRESSIONS)('is read back as it was: %s', (compression) => {
    const { records, nextOffset } = decodeBatches(encodeBatch(odd, compression, undefined), where(0n), []);
    expect(nextOffset).toBe(4n);
    expect(records.map((r) => [r.key, r.value, r.timestampMs])).toEqual(odd.map((r) => [r.key, r.value, r.timestampMs]));
    expect([...(records[0]?.headers ?? [])]).toEqual([
      ['h', Buffer.from('1')],
      ['h', null],
      ['', Buffer.alloc(0)],
      ['\ufffd', null],
    ]);
  });

  it('is read by another client as it was', () => {
    const some = odd.slice(0, 2).map((r) => ({ ...r, headers: r.headers?.slice(0, 1) }));
    const batch = readRecordsBatch(Reader.from(encodeBatch(some, 'none', { producerId: 4_000_000_000n, epoch: 7, sequence: 2 ** 31 - 2 })));
    expect(batch).toMatchObject({
      magic: 2,
      producerId: 4_000_000_000n,
      producerEpoch: 7,
      firstSequence: 2 ** 31 - 2,
      lastOffsetDelta: 1,
      maxTimestamp: 1_600_000_000_000n,
    });
    expect(batch.records.map((r) => [r.key && plain(r.key), r.value && plain(r.value)])[0]).toEqual(['k', 'v']);
  });

  it('makes of Java’s records the bytes that Java makes', () => {
    const bytes = golden('none');
    const { records } = decodeBatches(bytes, where(100n), []);
    const same = records.map((r) => record({ key: r.key, value: r.value, timestampMs: r.timestampMs, headers: r.headers.entries() }));
    const ours = encodeBatch(same, 'none', { producerId: 4_000_000_000n, epoch: 7, sequence: 2 ** 31 - 2 });
    // The broker's to set: base offset and leader epoch.
    bytes.copy(ours, 0, 0, 8);
    bytes.copy(ours, 12, 12, 16);
    expect(ours.toString('hex')).toBe(bytes.toString('hex'));
  });
});

/** Writes the checksum anew, as whoever altered the batch would have. */
function seal(batch: Buffer): Buffer {
  const table = Array.from({ length: 256 }, (_, n) => {
    let c = n;
    for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
    return c >>> 0;
  });
  let crc = 0xffff_ffff;
  for (const byte of batch.subarray(21)) crc = ((table[(crc ^ byte) & 0xff] ?? 0) ^ (crc >>> 8)) >>> 0;
  batch.writeUInt32BE((crc ^ 0xffff_ffff) >>> 0, 17);
  return batch;
}
