import { partitionKey } from '../wire/assignor.ts';
import type { FetchedPartition } from '../wire/fetch.ts';
import { BodyReader, type LibraryRequest } from './request.ts';

/** A partition's part of a fetch of kafkajs', as the broker has answered it. */
export interface LibraryFetch extends FetchedPartition {
  readonly fetchOffset: bigint;
}

const SIZE_BYTES = 4;
/** Before a response's body: its size and the number of its request. */
const HEAD_BYTES = 8;

/** Reads along with one socket: which fetches kafkajs sends (version 11), and what comes back. Other answers are passed over. */
export class FetchTap {
  readonly #asked = new Map<number, ReadonlyMap<string, bigint>>();
  readonly #onFetched: (fetched: readonly LibraryFetch[]) => void;
  #head: Buffer = Buffer.alloc(0);
  /** Of the answer that is being read: what is still to come, and what has, if it is to a fetch. */
  #left = 0;
  #number = 0;
  #chunks: Buffer[] | undefined;

  constructor(onFetched: (fetched: readonly LibraryFetch[]) => void) {
    this.#onFetched = onFetched;
  }

  asked(request: LibraryRequest): void {
    if (request.api === 'fetch') this.#asked.set(request.correlationId, fetchOffsets(request.body()));
  }

  received(data: Buffer): void {
    for (let rest = data; rest.length > 0; ) {
      if (this.#left === 0) {
        const head = Buffer.concat([this.#head, rest.subarray(0, HEAD_BYTES - this.#head.length)]);
        rest = rest.subarray(head.length - this.#head.length);
        this.#head = head;
        if (head.length < HEAD_BYTES) return;
        this.#head = Buffer.alloc(0);
        this.#left = head.readInt32BE(0) - (HEAD_BYTES - SIZE_BYTES);
        this.#number = head.readInt32BE(SIZE_BYTES);
        this.#chunks = this.#asked.has(this.#number) ? [] : undefined;
      }
      const chunk = rest.subarray(0, this.#left);
      rest = rest.subarray(chunk.length);
      this.#left -= chunk.length;
      this.#chunks?.push(chunk);
      if (this.#left === 0) this.#answered();
    }
  }

  #answered(): void {
    const offsets = this.#asked.get(this.#number);
    this.#asked.delete(this.#number);
    if (offsets === undefined || this.#chunks === undefined) return;
    const body = Buffer.concat(this.#chunks);
    this.#chunks = undefined;
    const partitions = fetchedPartitions(new BodyReader(body, 0));
    this.#onFetched(partitions.flatMap((p) => ({ ...p, fetchOffset: offsets.get(partitionKey(p)) ?? -1n })));
  }
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

/** Fetch response, version 11. */
function fetchedPartitions(body: BodyReader): readonly FetchedPartition[] {
  body.skip(4 + 2 + 4); // throttle time, error, session
  return body
    .array((r) => {
      const topic = r.string();
      return r.array((p) => {
        const partition = p.int32();
        const errorCode = p.int16();
        const highWatermark = p.int64();
        p.skip(8 + 8); // last stable offset, the log's start
        const aborted = p.array((a) => ({ producerId: a.int64(), firstOffset: a.int64() }));
        p.skip(4); // the preferred replica
        return { topic, partition, errorCode, highWatermark, aborted, records: p.bytes() };
      });
    })
    .flat();
}
