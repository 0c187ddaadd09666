import { promisify } from 'node:util';
import { gunzip, zstdDecompress } from 'node:zlib';
import { compressionsAlgorithmsByBitmask } from '@platformatic/kafka';
import { type HeaderEntry, RecordHeaders, TurnpikeError } from '@turnpike/core';
import { Cursor, type InboundRecord, type InboundRecords } from '@turnpike/core/spi';
import {
  ATTRIBUTES,
  BASE_OFFSET,
  BASE_TIMESTAMP,
  COMPRESSION_MASK,
  CONTROL,
  COUNT,
  CRC,
  HEADER_BYTES,
  LAST_OFFSET_DELTA,
  LEADER_EPOCH,
  LENGTH,
  LENGTH_FROM,
  LOG_APPEND_TIME,
  MAGIC,
  MAX_TIMESTAMP,
  PRODUCER_ID,
  TRANSACTIONAL,
} from './batch-format.ts';
import { crc32c } from './crc32c.ts';

const ABORT_MARKER = 0;
const FORMAT = 2;
/** From so many bytes on a batch is decompressed in the thread pool: below it the way there costs more than the work. */
const ASIDE_BYTES = 16 * 1024;

/** Those that have work for a thread of their own, by their bits. */
const ASIDE: Readonly<Record<number, (data: Buffer) => Promise<Buffer>>> = { 1: promisify(gunzip), 4: promisify(zstdDecompress) };

/** Where a partition's answer was asked for. */
export interface FetchPlace {
  readonly topic: string;
  readonly partition: number;
  readonly fetchOffset: bigint;
}

export interface FetchedRecords {
  /** Views into the answer, made as they are come to. */
  readonly records: InboundRecords;
  /** Past everything that was read: control records and aborted ones too. undefined = not even one whole batch was there. */
  readonly nextOffset: bigint | undefined;
}

export interface AbortedTransaction {
  readonly producerId: bigint;
  readonly firstOffset: bigint;
}

/** What the headers of an answer's batches say, without a look at the records. */
export interface ScannedBatches {
  /** As FetchedRecords.nextOffset. */
  readonly nextOffset: bigint | undefined;
  /** How many records there are from the fetch offset on; those of aborted transactions too. */
  readonly count: number;
  /** The leader's epoch of the last batch. */
  readonly leaderEpoch: number;
}

/** @throws TurnpikeError BROKER_REJECTED: a format is unknown. */
export function scanBatches(data: Buffer, place: FetchPlace): ScannedBatches {
  const { fetchOffset } = place;
  let nextOffset: bigint | undefined;
  let count = 0;
  let leaderEpoch = -1;
  for (const { start, lastOffset } of wholeBatches(data, place)) {
    nextOffset = lastOffset < fetchOffset ? fetchOffset : lastOffset + 1n;
    leaderEpoch = data.readInt32BE(start + LEADER_EPOCH);
    if (lastOffset < fetchOffset || data.readInt16BE(start + ATTRIBUTES) & CONTROL) continue;
    count += Math.min(data.readInt32BE(start + COUNT), Number(lastOffset - fetchOffset) + 1);
  }
  return { nextOffset, count, leaderEpoch };
}

/** The bodies of those batches that are better decompressed in the thread pool, by where they begin; undefined = there are none. Never rejects: what can't be decompressed is left to
 *  decodeBatches(), which says why. */
export function inflateAside(data: Buffer, place: FetchPlace): Promise<ReadonlyMap<number, Buffer>> | undefined {
  const bodies = new Map<number, Buffer>();
  const work: Promise<void>[] = [];
  for (const { start, end } of wholeBatches(data, place)) {
    const inflate = ASIDE[data.readInt16BE(start + ATTRIBUTES) & COMPRESSION_MASK];
    if (inflate === undefined || end - start < ASIDE_BYTES) continue;
    work.push(
      inflate(data.subarray(start + HEADER_BYTES, end)).then(
        (body) => void bodies.set(start, body),
        () => {},
      ),
    );
  }
  return work.length === 0 ? undefined : Promise.all(work).then(() => bodies);
}

/** Reads the batches of one partition's answer from `fetchOffset` on. A last batch that is cut off is left for the next fetch. Records are views into `data`, which must not change.
 *  @throws TurnpikeError BROKER_REJECTED: a checksum is wrong, or a format is unknown. */
export function decodeBatches(
  data: Buffer,
  place: FetchPlace,
  aborted: readonly AbortedTransaction[],
  inflated: ReadonlyMap<number, Buffer> = new Map(),
): FetchedRecords {
  const batches: BatchView[] = [];
  let nextOffset: bigint | undefined;
  // Several aborted ranges of one producer come one after another; each ends with that producer's abort marker.
  const ranges = aborted.length < 2 ? aborted : [...aborted].sort((a, b) => (a.firstOffset < b.firstOffset ? -1 : 1));
  let begun = 0;
  const aborting = new Set<bigint>();
  for (const { start, end, lastOffset } of wholeBatches(data, place)) {
    check(data, start, end, place);
    nextOffset = lastOffset < place.fetchOffset ? place.fetchOffset : lastOffset + 1n;
    if (lastOffset < place.fetchOffset) continue;
    const attributes = data.readInt16BE(start + ATTRIBUTES);
    for (let range = ranges[begun]; range !== undefined && range.firstOffset <= lastOffset; range = ranges[++begun]) aborting.add(range.producerId);
    if (attributes & CONTROL) {
      if (aborting.size > 0 && controlType(data, start) === ABORT_MARKER) aborting.delete(data.readBigInt64BE(start + PRODUCER_ID));
    } else if (!(aborting.size > 0 && attributes & TRANSACTIONAL && aborting.has(data.readBigInt64BE(start + PRODUCER_ID))))
      batches.push(new BatchView(data, start, end, place, inflated.get(start)));
  }
  return { records: new LazyRecords(batches), nextOffset };
}

/** Batches that are there as a whole. */
function* wholeBatches(data: Buffer, place: FetchPlace): Generator<{ readonly start: number; readonly end: number; readonly lastOffset: bigint }> {
  for (let start = 0; start + LENGTH_FROM <= data.length; ) {
    const length = data.readInt32BE(start + LENGTH);
    const end = start + LENGTH_FROM + length;
    if (end > data.length) return;
    const magic = data[start + MAGIC];
    if (magic !== FORMAT || length < HEADER_BYTES - LENGTH_FROM) throw unknownFormat(place, magic);
    yield { start, end, lastOffset: data.readBigInt64BE(start + BASE_OFFSET) + BigInt(data.readInt32BE(start + LAST_OFFSET_DELTA)) };
    start = end;
  }
}

function check(data: Buffer, start: number, end: number, { topic, partition }: FetchPlace): void {
  if (crc32c(data.subarray(start + ATTRIBUTES, end)) === data.readUInt32BE(start + CRC)) return;
  const offset = data.readBigInt64BE(start + BASE_OFFSET);
  throw new TurnpikeError(
    'BROKER_REJECTED',
    `${topic}/${partition}@${offset}: the batch's checksum is wrong: it was damaged on the way or on the broker's disk.`,
    { topic, partition, offset },
  );
}

function unknownFormat({ topic, partition }: FetchPlace, magic: number | undefined): TurnpikeError {
  return new TurnpikeError(
    'BROKER_REJECTED',
    `${topic}/${partition} holds a batch of format ${magic}; only 2 (Kafka 0.11 and newer) can be read. Let retention remove it, or seek past it.`,
    { topic, partition },
  );
}

/** A control batch holds one record, whose key is a version and a type, two bytes each. */
function controlType(data: Buffer, start: number): number {
  const cursor = new Cursor(data, start + HEADER_BYTES);
  cursor.varint();
  cursor.pos++;
  cursor.varlong();
  cursor.varint();
  const key = cursor.bytes();
  return key === null ? -1 : key.readInt16BE(2);
}

/** What the records of a batch have in common. */
class BatchView {
  readonly topic: string;
  readonly partition: number;
  readonly leaderEpoch: number;
  readonly count: number;
  readonly baseTimestampMs: number;
  readonly appendTimeMs: number | undefined;
  /** Decompressed. */
  readonly body: Buffer;
  readonly bodyStart: number;
  readonly bodyEnd: number;
  /** A batch begins before the offset that was asked for when that lies in its middle: records with a lower delta are passed over. */
  readonly firstDelta: number;
  readonly #baseOffset: bigint;
  /** The same where a number can hold it: a bigint is cheaper to make from that. */
  readonly #base: number;
  readonly #isDense: boolean;

  constructor(data: Buffer, start: number, end: number, place: FetchPlace, inflated: Buffer | undefined) {
    const attributes = data.readInt16BE(start + ATTRIBUTES);
    this.topic = place.topic;
    this.partition = place.partition;
    this.leaderEpoch = data.readInt32BE(start + LEADER_EPOCH);
    this.count = data.readInt32BE(start + COUNT);
    this.baseTimestampMs = Number(data.readBigInt64BE(start + BASE_TIMESTAMP));
    this.appendTimeMs = attributes & LOG_APPEND_TIME ? Number(data.readBigInt64BE(start + MAX_TIMESTAMP)) : undefined;
    this.#baseOffset = data.readBigInt64BE(start + BASE_OFFSET);
    this.#base = Number(this.#baseOffset);
    const compression = attributes & COMPRESSION_MASK;
    this.body = inflated ?? (compression === 0 ? data : decompress(data.subarray(start + HEADER_BYTES, end), compression, this));
    this.bodyStart = this.body === data ? start + HEADER_BYTES : 0;
    this.bodyEnd = this.body === data ? end : this.body.length;
    this.firstDelta = Number(place.fetchOffset - this.#baseOffset);
    this.#isDense = this.count === data.readInt32BE(start + LAST_OFFSET_DELTA) + 1;
  }

  /** How many records it gives. Only where compaction has left gaps, and the first ones are passed over, they have to be counted. */
  get length(): number {
    if (this.firstDelta <= 0) return this.count;
    if (this.#isDense) return this.count - this.firstDelta;
    let length = 0;
    for (const walk = new BatchWalk(this); walk.next() !== undefined; ) length++;
    return length;
  }

  offsetAt(delta: number): bigint {
    const offset = this.#base + delta;
    return Number.isSafeInteger(offset) ? BigInt(offset) : this.#baseOffset + BigInt(delta);
  }

  damaged(cause: unknown): TurnpikeError {
    const { topic, partition } = this;
    const offset = this.offsetAt(0);
    return new TurnpikeError(
      'BROKER_REJECTED',
      `${topic}/${partition}@${offset}: a record of this batch reaches past its end: its producer has built it wrongly. Seek past it.`,
      { topic, partition, offset, cause },
    );
  }
}

function decompress(data: Buffer, compression: number, batch: BatchView): Buffer {
  const codec = compressionsAlgorithmsByBitmask[compression];
  if (codec) return codec.decompressSync(data);
  const { topic, partition } = batch;
  const offset = batch.offsetAt(0);
  throw new TurnpikeError('BROKER_REJECTED', `${topic}/${partition}@${offset}: compressed in a way that is unknown (${compression}).`, {
    topic,
    partition,
    offset,
  });
}

/** The records of some batches, one after another: each walk makes them anew, so that those that wait cost no object. */
class LazyRecords implements InboundRecords {
  readonly length: number;
  readonly bytes: number;
  readonly #batches: readonly BatchView[];

  constructor(batches: readonly BatchView[]) {
    this.#batches = batches;
    this.length = batches.reduce((sum, b) => sum + b.length, 0);
    this.bytes = batches.reduce((sum, b) => sum + b.bodyEnd - b.bodyStart, 0);
  }

  walk(): () => InboundRecord | undefined {
    const batches = this.#batches;
    let at = 0;
    let walk: BatchWalk | undefined;
    return () => {
      for (;;) {
        const record = walk?.next();
        if (record !== undefined) return record;
        const batch = batches[at++];
        if (batch === undefined) return undefined;
        walk = new BatchWalk(batch);
      }
    };
  }

  *[Symbol.iterator](): Generator<InboundRecord, void, undefined> {
    const next = this.walk();
    for (let record = next(); record !== undefined; record = next()) yield record;
  }
}

class BatchWalk {
  readonly #batch: BatchView;
  readonly #cursor: Cursor;
  #left: number;
  #failure: TurnpikeError | undefined;

  constructor(batch: BatchView) {
    this.#batch = batch;
    this.#cursor = new Cursor(batch.body, batch.bodyStart);
    this.#left = batch.count;
  }

  /** undefined at the end. @throws TurnpikeError BROKER_REJECTED: a length lies; again for each call. */
  next(): InboundRecord | undefined {
    if (this.#failure) throw this.#failure;
    try {
      while (this.#left > 0) {
        this.#left--;
        const record = this.#read();
        if (record !== undefined) return record;
      }
      return undefined;
    } catch (error) {
      this.#failure = this.#batch.damaged(error);
      throw this.#failure;
    }
  }

  #read(): InboundRecord | undefined {
    const batch = this.#batch;
    const cursor = this.#cursor;
    const length = cursor.varint();
    const end = cursor.pos + length;
    if (length < 0 || end > batch.bodyEnd) throw new RangeError('its length');
    cursor.pos++; // attributes: none are defined
    const timestampMs = cursor.varlong() + batch.baseTimestampMs;
    const delta = cursor.varint();
    if (delta < batch.firstDelta) {
      cursor.pos = end;
      return undefined;
    }
    const keyLength = cursor.pass();
    const keyEnd = cursor.pos;
    const valueLength = cursor.pass();
    const valueEnd = cursor.pos;
    // Passed over now, so that what is read when somebody asks for it can't fail.
    for (let headers = cursor.varint(); headers > 0; headers--) {
      cursor.pass();
      cursor.pass();
    }
    if (cursor.pos > end) throw new RangeError('its fields');
    cursor.pos = end;
    return new LazyRecord(batch, delta, batch.appendTimeMs ?? timestampMs, { keyEnd, keyLength, valueEnd, valueLength });
  }
}

/** Where key and value lie; a length of -1 = null. Headers begin where the value ends. */
interface Extent {
  readonly keyEnd: number;
  readonly keyLength: number;
  readonly valueEnd: number;
  readonly valueLength: number;
}

/** A record where it lies in the answer: key, value and headers are made when they are read. Safe to keep; it keeps its batch's bytes in memory. */
class LazyRecord implements InboundRecord {
  readonly #batch: BatchView;
  readonly #delta: number;
  readonly timestampMs: number;
  readonly #keyEnd: number;
  readonly #keyLength: number;
  readonly #valueEnd: number;
  readonly #valueLength: number;
  #headers: RecordHeaders | undefined;

  constructor(batch: BatchView, delta: number, timestampMs: number, { keyEnd, keyLength, valueEnd, valueLength }: Extent) {
    this.#batch = batch;
    this.#delta = delta;
    this.timestampMs = timestampMs;
    this.#keyEnd = keyEnd;
    this.#keyLength = keyLength;
    this.#valueEnd = valueEnd;
    this.#valueLength = valueLength;
    this.#headers = undefined;
  }

  get topic(): string {
    return this.#batch.topic;
  }

  get partition(): number {
    return this.#batch.partition;
  }

  get leaderEpoch(): number {
    return this.#batch.leaderEpoch;
  }

  get offset(): bigint {
    return this.#batch.offsetAt(this.#delta);
  }

  get key(): Buffer | null {
    return this.#keyLength < 0 ? null : this.#batch.body.subarray(this.#keyEnd - this.#keyLength, this.#keyEnd);
  }

  get value(): Buffer | null {
    return this.#valueLength < 0 ? null : this.#batch.body.subarray(this.#valueEnd - this.#valueLength, this.#valueEnd);
  }

  get size(): number {
    return Math.max(0, this.#keyLength) + Math.max(0, this.#valueLength);
  }

  get headers(): RecordHeaders {
    // Nearly always a record has none: a count of 0. Those aren't kept: an old object that points to a new one costs the collector more than the new one.
    if (this.#batch.body[this.#valueEnd] === 0) return new RecordHeaders();
    this.#headers ??= RecordHeaders.from(this);
    return this.#headers;
  }

  readHeaders(): HeaderEntry[] {
    const cursor = new Cursor(this.#batch.body, this.#valueEnd);
    const entries: HeaderEntry[] = [];
    for (let left = cursor.varint(); left > 0; left--) entries.push([cursor.bytes()?.toString() ?? '', cursor.bytes()]);
    return entries;
  }
}
