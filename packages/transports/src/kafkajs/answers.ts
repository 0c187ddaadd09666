import type { TopicPartition } from '@turnpike/core/spi';
import { partitionKey } from '../wire/assignor.ts';
import type { FetchedPartition } from '../wire/fetch.ts';
import { BodyReader, type LibraryRequest } from './request.ts';

/** A partition's part of a fetch of kafkajs', as the broker has answered it. */
export interface LibraryFetch extends FetchedPartition {
  readonly fetchOffset: bigint;
}

export interface ProducedPartition extends TopicPartition {
  readonly errorCode: number;
}

export interface AnswerHooks {
  /** Told of each fetch's answer before kafkajs is. */
  readonly onFetched?: (fetched: readonly LibraryFetch[]) => void;
  /** What became of each partition of a produce request: kafkajs tells the first error only. */
  readonly onProduced?: (partitions: readonly ProducedPartition[]) => void;
  /** A topic that kafkajs asked for and that the broker doesn't show. */
  readonly onHidden?: (topic: string, errorCode: number) => void;
  /** Ms, of a broker that asks for it (KIP-219). */
  readonly onThrottled?: (ms: number) => void;
}

/** Before a response's body: its size and the number of its request. */
const HEAD_BYTES = 8;
const OFFSET_OUT_OF_RANGE = 1;
const SASL_AUTHENTICATION_FAILED = 58;

interface Asked {
  readonly request: LibraryRequest;
  readonly fetchOffsets?: ReadonlyMap<string, bigint>;
}

/** What comes back on one socket, an answer at a time, and as kafkajs can stand it: without the records of a fetch, which it would decode for nothing; without "out of range", for which it would overwrite the group's offset; and
 *  without the topics and partitions of its metadata that have an error, for one of them and it takes nothing from the others. */
export class Answers {
  readonly #asked = new Map<number, Asked>();
  readonly #hooks: AnswerHooks;
  #chunks: Buffer[] = [];
  #length = 0;
  /** Of the answer that is being read; 0 = not known yet. */
  #expected = 0;

  constructor(hooks: AnswerHooks) {
    this.#hooks = hooks;
  }

  asked(request: LibraryRequest): void {
    if (request.api === 'fetch' && request.version === 11) this.#asked.set(request.correlationId, { request, fetchOffsets: fetchOffsets(request.body()) });
    else if (request.api === 'produce' || request.api === 'saslAuthenticate' || (request.api === 'metadata' && request.version >= 5))
      this.#asked.set(request.correlationId, { request });
  }

  /** The answers that are complete with this. */
  *received(data: Buffer): Generator<Buffer> {
    this.#chunks.push(data);
    this.#length += data.length;
    while (this.#length >= Math.max(this.#expected, 4)) {
      if (this.#expected === 0) {
        this.#expected = 4 + this.#joined().readInt32BE(0);
        continue;
      }
      const all = this.#joined();
      const answer = all.subarray(0, this.#expected);
      const rest = all.subarray(this.#expected);
      this.#chunks = rest.length > 0 ? [rest] : [];
      this.#length = rest.length;
      this.#expected = 0;
      yield this.#edited(answer);
    }
  }

  #joined(): Buffer {
    if (this.#chunks.length > 1) this.#chunks = [Buffer.concat(this.#chunks)];
    return this.#chunks[0] ?? Buffer.alloc(0);
  }

  #edited(answer: Buffer): Buffer {
    const number = answer.readInt32BE(4);
    const asked = this.#asked.get(number);
    this.#asked.delete(number);
    const { onFetched, onProduced, onHidden, onThrottled } = this.#hooks;
    if (!asked) return answer;
    if (asked.request.api === 'saslAuthenticate') return refusing(answer);
    const throttleMs = answer.readInt32BE(asked.request.api === 'produce' ? answer.length - 4 : HEAD_BYTES);
    if (throttleMs > 0) onThrottled?.(throttleMs);
    if (asked.request.api === 'metadata') return withoutErrors(answer, onHidden);
    if (asked.request.api === 'produce') onProduced?.(producedPartitions(answer));
    const { fetchOffsets } = asked;
    if (!fetchOffsets || !onFetched) return answer;
    const { partitions, bare } = readFetch(answer);
    onFetched(partitions.map((p) => ({ ...p, fetchOffset: fetchOffsets.get(partitionKey(p)) ?? -1n })));
    return bare;
  }
}

/** SaslAuthenticate response. A refused token is answered with a text and no error (RFC 7628), which kafkajs takes for consent; here it says what it means. */
function refusing(answer: Buffer): Buffer {
  const body = new BodyReader(answer, HEAD_BYTES);
  const errorCode = body.int16();
  body.string(); // the error's text
  if (errorCode === 0 && body.bytes().length > 0) answer.writeInt16BE(SASL_AUTHENTICATION_FAILED, HEAD_BYTES);
  return answer;
}

/** Produce response, versions 5 to 7. */
function producedPartitions(answer: Buffer): readonly ProducedPartition[] {
  return new BodyReader(answer, HEAD_BYTES)
    .array((r) => {
      const topic = r.string();
      return r.array((p) => {
        const partition = p.int32();
        const errorCode = p.int16();
        p.skip(8 + 8 + 8); // base offset, time of append, the log's start
        return { topic, partition, errorCode };
      });
    })
    .flat();
}

/** Fetch request, version 11. */
function fetchOffsets(body: BodyReader): ReadonlyMap<string, bigint> {
  body.skip(4 + 4 + 4 + 4 + 1 + 4 + 4); // replica, wait, min, max, isolation, session and its epoch
  const offsets = body.array((r) => {
    const topic = r.string();
    return r.array((p) => {
      const partition = p.int32();
      p.skip(4); // the leader's epoch
      const offset = p.int64();
      p.skip(8 + 4); // the log's start, max bytes
      return [partitionKey({ topic, partition }), offset] as const;
    });
  });
  return new Map(offsets.flat());
}

/** Fetch response, version 11; and the same without records and aborted transactions. */
function readFetch(answer: Buffer): { readonly partitions: readonly FetchedPartition[]; readonly bare: Buffer } {
  const body = new BodyReader(answer, HEAD_BYTES);
  body.skip(4 + 2 + 4); // throttle time, error, session
  const kept: Buffer[] = [];
  let from = 0;
  const partitions = body.array((r) => {
    const topic = r.string();
    return r.array((p) => {
      const partition = p.int32();
      const errorAt = p.at;
      const errorCode = p.int16();
      if (errorCode === OFFSET_OUT_OF_RANGE) answer.writeInt16BE(0, errorAt);
      const highWatermark = p.int64();
      p.skip(8 + 8); // last stable offset, the log's start
      kept.push(answer.subarray(from, p.at), NONE);
      const aborted = p.array((a) => ({ producerId: a.int64(), firstOffset: a.int64() }));
      const replicaAt = p.at;
      p.skip(4);
      kept.push(answer.subarray(replicaAt, p.at), NONE);
      const records = p.bytes();
      from = p.at;
      return { topic, partition, errorCode, highWatermark, aborted, records };
    });
  });
  kept.push(answer.subarray(from));
  return { partitions: partitions.flat(), bare: resized(kept) };
}

/** Metadata response, versions 5 and 6. A partition without a leader stays, as one without. */
function withoutErrors(answer: Buffer, onHidden: AnswerHooks['onHidden']): Buffer {
  const body = new BodyReader(answer, HEAD_BYTES);
  body.skip(4); // throttle time
  body.array((r) => {
    r.skip(4); // node
    r.string(); // host
    r.skip(4); // port
    return r.string(); // rack
  });
  body.string(); // the cluster's id
  body.skip(4); // controller
  const countAt = body.at;
  const topics = body.array((r) => {
    const start = r.at;
    const errorCode = r.int16();
    const topic = r.string();
    r.skip(1); // internal
    r.array((p) => {
      if (p.int16() !== 0) answer.writeInt16BE(0, p.at - 2);
      p.skip(4 + 4); // partition, leader
      for (let lists = 3; lists > 0; lists--) p.array((n) => n.int32()); // replicas, in sync, offline
    });
    if (errorCode !== 0) onHidden?.(topic, errorCode);
    return { errorCode, bytes: answer.subarray(start, r.at) };
  });
  const shown = topics.filter((t) => t.errorCode === 0);
  if (shown.length === topics.length) return answer;
  const count = Buffer.alloc(4);
  count.writeInt32BE(shown.length);
  return resized([answer.subarray(0, countAt), count, ...shown.map((t) => t.bytes), answer.subarray(body.at)]);
}

const NONE = Buffer.alloc(4);

function resized(parts: readonly Buffer[]): Buffer {
  const answer = Buffer.concat(parts);
  answer.writeInt32BE(answer.length - 4);
  return answer;
}
