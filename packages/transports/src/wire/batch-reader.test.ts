import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { golden, plain, where } from './batch.fixture.ts';
import * as reader from './batch-reader.ts';

const { inflateAside, scanBatches } = reader;
const decodeBatches = (...args: Parameters<typeof reader.decodeBatches>) => {
  const { records, nextOffset } = reader.decodeBatches(...args);
  return { records: [...records], nextOffset };
};

/** The same batch elsewhere in the log; the offset isn't part of the checksum. */
const at = (offset: bigint, batch: Buffer): Buffer => {
  batch.writeBigInt64BE(offset, 0);
  return batch;
};

/** A batch of records without keys, for what Java doesn't build. */
function batchOf(values: readonly string[]): Buffer {
  const records = values.map((value, i) => {
    // No attributes, deltas of 0 and i, no key (-1), the value, no headers; zigzag.
    const body = Buffer.concat([Buffer.from([0, 0, i << 1, 1]), varint(Buffer.byteLength(value)), Buffer.from(value), Buffer.from([0])]);
    return Buffer.concat([varint(body.length), body]);
  });
  const batch = Buffer.concat([golden('none').subarray(0, 61), ...records]);
  batch.writeInt32BE(batch.length - 12, 8);
  batch.writeInt32BE(values.length - 1, 23);
  batch.writeInt32BE(values.length, 57);
  return seal(batch);
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let z = value << 1;
  for (; z > 0x7f; z >>>= 7) bytes.push((z & 0x7f) | 0x80);
  return Buffer.from([...bytes, z]);
}

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
    const shorter = batchOf(['kept']);
    const empty = batchOf([]);
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
    const batch = batchOf(['x']);
    batch.writeInt32BE(1_000, 57); // more records than there are
    expect(() => decodeBatches(seal(batch), where(0n), [])).toThrow(
      expect.objectContaining({ code: 'BROKER_REJECTED', facts: expect.objectContaining({ topic: 't', offset: 100n }) }),
    );
  });

  it('makes the same key, value and headers however often they are read, and headers that may be changed', () => {
    const [record] = decodeBatches(golden('none'), where(0n), []).records;
    expect([record?.key, record?.value, record?.size]).toEqual([record?.key, record?.value, 4]);
    expect([...(record?.headers ?? [])]).toHaveLength(3);
    expect(record?.headers).toBe(record?.headers);
    const [bare, other] = decodeBatches(batchOf(['a', 'b']), where(0n), []).records;
    const { headers } = bare ?? expect.unreachable();
    headers.append('h', 'x');
    expect([headers.size, other?.headers.size]).toEqual([1, 0]);
  });

  it('knows how many records there are without a walk, and makes them anew for each', () => {
    const { records } = reader.decodeBatches(Buffer.concat([at(0n, golden('none')), at(28n, golden('zstd'))]), where(5n), []);
    expect([records.length, [...records].length, [...records].length]).toEqual([51, 51, 51]);
    const next = records.walk?.() ?? expect.unreachable();
    const walked = [];
    for (let record = next(); record !== undefined; record = next()) walked.push(record.offset);
    expect(walked).toEqual([...records].map((r) => r.offset));
    expect(next()).toBeUndefined();
  });

  it('counts what compaction has left of a batch that is read from its middle', () => {
    const gaps = batchOf(['a', 'b', 'c']);
    gaps[gaps.length - 5] = 18; // The last one's delta: 9.
    gaps.writeInt32BE(9, 23);
    const { records, nextOffset } = reader.decodeBatches(at(100n, seal(gaps)), where(101n), []);
    expect([records.length, [...records].map((r) => r.offset), nextOffset]).toEqual([2, [101n, 109n], 110n]);
  });

  it('knows offsets beyond what a number can hold', () => {
    const offset = 2n ** 60n;
    expect(decodeBatches(at(offset, batchOf(['a', 'b'])), where(offset), []).records.map((r) => r.offset)).toEqual([offset, offset + 1n]);
  });

  it('refuses a header that reaches past its record, before anybody asks for it', () => {
    const batch = batchOf(['x']);
    batch[batch.length - 1] = 2; // one header, and nothing behind
    expect(() => decodeBatches(seal(batch), where(0n), [])).toThrow(
      expect.objectContaining({ code: 'BROKER_REJECTED', facts: expect.objectContaining({ topic: 't', offset: 100n }) }),
    );
  });

  it('goes through as many aborted ranges as there are, each once', () => {
    const many = 20_000;
    const pair = Buffer.concat([golden('transactional'), golden('abort')]);
    const data = Buffer.concat(Array(many).fill(pair));
    const aborted = Array.from({ length: many }, (_, i) => ({ producerId: 77n, firstOffset: BigInt(i * 29) }));
    for (let i = 0; i < many; i++) {
      data.writeBigInt64BE(BigInt(i * 29), i * pair.length);
      data.writeBigInt64BE(BigInt(i * 29 + 28), i * pair.length + golden('transactional').length);
    }
    const started = performance.now();
    expect(decodeBatches(data, where(0n), aborted.reverse())).toEqual({ records: [], nextOffset: BigInt(many * 29) });
    // Some 30 ms; with a list that is shifted, or looked through for each batch, seconds.
    expect(performance.now() - started).toBeLessThan(1_000);
  });
});

describe('scanBatches', () => {
  it('finds where reading goes on, how many records come and of which epoch, as decodeBatches() will', () => {
    const data = Buffer.concat([at(0n, golden('none')), at(28n, golden('gzip')), at(56n, golden('commit')), at(57n, golden('zstd'))]);
    for (const offset of [0n, 5n, 28n, 55n, 56n, 84n, 85n, 500n]) {
      const { records, nextOffset } = decodeBatches(data, where(offset), []);
      expect(scanBatches(data, where(offset))).toEqual({ nextOffset, count: records.length, leaderEpoch: 5 });
    }
  });

  it('finds nothing where not one whole batch is there, and refuses what it does not know', () => {
    expect(scanBatches(golden('none').subarray(0, 40), where(0n))).toEqual({ nextOffset: undefined, count: 0, leaderEpoch: -1 });
    const old = golden('none');
    old[16] = 0;
    expect(() => scanBatches(old, where(0n))).toThrow(/format 0/);
  });
});

describe('inflateAside', () => {
  const big = (): Buffer => {
    const noise = Array.from({ length: 200 }, (_, i) => String(Math.sin(i)).repeat(20));
    const batch = batchOf(noise.slice(0, 60));
    const compressed = Buffer.concat([batch.subarray(0, 61), gzipSync(batch.subarray(61), { level: 0 })]);
    compressed.writeInt32BE(compressed.length - 12, 8);
    compressed.writeInt16BE(1, 21);
    return seal(compressed);
  };

  it('leaves small batches and those that are not compressed to the reader', () => {
    expect(inflateAside(Buffer.concat([golden('gzip'), golden('none'), golden('lz4')]), where(0n))).toBeUndefined();
  });

  it('decompresses large ones beside the event loop; the records are the same', async () => {
    const data = Buffer.concat([at(0n, golden('none')), at(28n, big())]);
    const inflated = await inflateAside(data, where(0n));
    expect([...(inflated?.keys() ?? [])]).toEqual([golden('none').length]);
    const [aside, here] = [decodeBatches(data, where(0n), [], inflated), decodeBatches(data, where(0n), [])];
    expect(aside.records).toHaveLength(88);
    expect(aside.records.map((r) => [r.offset, plain(r.value)])).toEqual(here.records.map((r) => [r.offset, plain(r.value)]));
  });

  it('says nothing of one that can’t be decompressed: its checksum does', async () => {
    const data = big();
    data.fill(0, 70, 90);
    expect((await inflateAside(data, where(0n)))?.size).toBe(0);
    expect(() => decodeBatches(data, where(0n), [])).toThrow(/checksum is wrong/);
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
