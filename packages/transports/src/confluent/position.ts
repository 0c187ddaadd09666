import type { Message } from '@confluentinc/kafka-javascript';
import type { FetchedBatch, InboundRecord, TopicPartition } from '@turnpike/core/spi';
import { fromRaw } from './headers.ts';

/** One assigned partition, from its assignment to its revocation: what has come of it and nobody has polled yet. */
export class Position {
  readonly tp: TopicPartition;
  /** By who polls. */
  paused = false;
  /** At the library. */
  stopped = false;
  /** How often it was sought. */
  seeks = 0;
  queuedBytes = 0;
  highWatermark: bigint | undefined;
  /** Where reading goes on; undefined = nothing has come yet. */
  #next: bigint | undefined;
  /** What is before it has been given out. */
  #given: bigint | undefined;
  #fetchedAtMs = 0;
  #revoked = false;
  #records: InboundRecord[] = [];

  constructor(tp: TopicPartition) {
    this.tp = tp;
  }

  /** How much of it is new: the library may give the last record twice where it was paused in that very moment. */
  push(messages: readonly Message[], fetchedAtMs: number): { readonly records: number; readonly bytes: number } {
    let bytes = 0;
    let records = 0;
    if (this.#revoked) return { records, bytes };
    for (const message of messages) {
      const offset = BigInt(message.offset);
      if (this.#next !== undefined && offset < this.#next) continue;
      this.#records.push(recordOf(message, offset));
      this.#next = offset + 1n;
      bytes += sizeOf(message);
      records++;
    }
    this.#fetchedAtMs = fetchedAtMs;
    this.queuedBytes += bytes;
    return { records, bytes };
  }

  /** The library has read to here: past control records and aborted ones, where the log ends with such. */
  passed(offset: bigint): void {
    if (this.#next === undefined || offset > this.#next) this.#next = offset;
  }

  /** What has come from elsewhere is dropped. */
  moved(offset: bigint): void {
    this.#records = [];
    this.queuedBytes = 0;
    this.#next = offset;
    this.#given = offset;
  }

  /** It is about to be given up: nothing more of it is given out. */
  revoke(): void {
    this.#revoked = true;
    this.#records = [];
    this.queuedBytes = 0;
  }

  /** What poll() gives; undefined = nothing. */
  take(): FetchedBatch | undefined {
    if (this.paused || this.#revoked || this.#next === undefined) return undefined;
    // Without records it tells only that the log goes on later: so much of it can be committed.
    if (this.#records.length === 0 && (this.#given === undefined || this.#next <= this.#given)) {
      this.#given ??= this.#next;
      return undefined;
    }
    const batch: FetchedBatch = {
      ...this.tp,
      records: this.#records,
      nextOffset: this.#next,
      highWatermark: this.highWatermark !== undefined && this.highWatermark > this.#next ? this.highWatermark : this.#next,
      bytes: this.queuedBytes,
      fetchedAtMs: this.#fetchedAtMs,
    };
    this.#given = this.#next;
    this.#records = [];
    this.queuedBytes = 0;
    return batch;
  }
}

function recordOf({ topic, partition, timestamp, leaderEpoch, key, value, headers }: Message, offset: bigint): InboundRecord {
  return {
    topic,
    partition,
    offset,
    timestampMs: timestamp ?? -1,
    ...(leaderEpoch === undefined ? {} : { leaderEpoch }),
    key: key as Buffer | null,
    value,
    headers: fromRaw(headers),
  };
}

function sizeOf({ key, value, headers }: Message): number {
  let bytes = (key?.length ?? 0) + (value?.length ?? 0);
  for (const header of headers ?? []) for (const [name, text] of Object.entries(header)) bytes += name.length + (text?.length ?? 0);
  return bytes;
}
