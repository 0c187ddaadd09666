import assert from 'node:assert/strict';
import { type HeadersInit, RecordHeaders, type TurnpikeError } from '@turnpike/core';
import { type OutboundRecord, type Pending, type ProducerPort, type SettledBatch, systemClock, type TransactionPort } from '@turnpike/core/spi';
import { aTurn } from './within.ts';

export interface RecordInit {
  readonly topic: string;
  /** Default 0. */
  readonly partition?: number;
  /** Text or bytes; default null. */
  readonly key?: string | Uint8Array | null;
  /** Text or bytes; default null, a tombstone. */
  readonly value?: string | Uint8Array | null;
  readonly headers?: HeadersInit;
  /** Default: now. */
  readonly timestampMs?: number;
  /** From now, in ms. Default: the producer's. */
  readonly deliveryTimeoutMs?: number;
}

export interface Sent {
  readonly topic: string;
  readonly partition: number;
  readonly offset: bigint;
  readonly timestampMs: number;
}

/** Core's side of one record. */
export class SeamPending implements Pending {
  readonly deadlineMs: number;
  readonly span = undefined;
  readonly promise: Promise<Sent>;
  attempts = 0;
  /** How often it was settled: more than once is the transport's mistake. */
  settled = 0;
  readonly #timestampMs: number;
  readonly #ends = Promise.withResolvers<Sent>();

  constructor(deadlineMs: number, timestampMs: number) {
    this.deadlineMs = deadlineMs;
    this.#timestampMs = timestampMs;
    this.promise = this.#ends.promise;
    this.promise.catch(() => {}); // A case may look at it later.
  }

  acknowledge({ topic, partition, baseOffset, logAppendTimeMs }: SettledBatch, index: number): void {
    this.settled++;
    const offset = baseOffset < 0n ? -1n : baseOffset + BigInt(index);
    this.#ends.resolve({ topic, partition, offset, timestampMs: logAppendTimeMs ?? this.#timestampMs });
  }

  fail(error: TurnpikeError): void {
    this.settled++;
    this.#ends.reject(error);
  }
}

/** A producer of the transport under test, driven at the seam. */
export class ProducerBench implements AsyncDisposable {
  readonly port: ProducerPort;
  readonly #deliveryTimeoutMs: number;
  readonly #warmed = new Set<string>();
  /** Of every record, in the order in which they were appended. */
  readonly pendings: SeamPending[] = [];

  constructor(port: ProducerPort, deliveryTimeoutMs: number) {
    this.port = port;
    this.#deliveryTimeoutMs = deliveryTimeoutMs;
  }

  get transaction(): TransactionPort {
    assert.ok(this.port.transaction, 'a producer with a transactional id has a transaction port');
    return this.port.transaction;
  }

  /** Warms the topic at its first record, waits for room, and resolves or rejects when the record has settled. */
  async send(record: RecordInit): Promise<Sent> {
    if (!this.#warmed.has(record.topic)) await this.port.warm([record.topic]);
    this.#warmed.add(record.topic);
    for (;;) {
      const sent = this.append(record);
      if (sent) return sent;
      await this.#room();
    }
  }

  /** All of them appended in one turn, in this order, once the topics are warm; waits for room in between. One outcome each. */
  async sendAll(records: readonly RecordInit[]): Promise<PromiseSettledResult<Sent>[]> {
    await this.port.warm([...new Set(records.map((r) => r.topic))]);
    const sent: Promise<Sent>[] = [];
    for (const record of records) {
      let appended = this.append(record);
      while (!appended) {
        await this.#room();
        appended = this.append(record);
      }
      sent.push(appended);
    }
    return Promise.allSettled(sent);
  }

  async #room(): Promise<void> {
    await this.port.drained();
    await aTurn();
  }

  /** Synchronous, of a warm topic. undefined = memory is full. */
  append(init: RecordInit): Promise<Sent> | undefined {
    const timestampMs = init.timestampMs ?? Date.now();
    const pending = new SeamPending(systemClock.monotonic() + (init.deliveryTimeoutMs ?? this.#deliveryTimeoutMs), timestampMs);
    if (!this.port.append(outbound(init, timestampMs), pending)) return undefined;
    this.pendings.push(pending);
    return pending.promise;
  }

  /** How many records have been settled more than once: none may. */
  get settledTwice(): number {
    return this.pendings.filter((p) => p.settled > 1).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.port[Symbol.asyncDispose]();
  }
}

function outbound(init: RecordInit, timestampMs: number): OutboundRecord {
  const key = bytes(init.key);
  const value = bytes(init.value);
  const keyLength = key?.length ?? 0;
  return {
    topic: init.topic,
    partition: init.partition ?? 0,
    timestampMs,
    headers: init.headers === undefined ? undefined : new RecordHeaders(init.headers).entries(),
    buf: Buffer.concat([key ?? Buffer.alloc(0), value ?? Buffer.alloc(0)]),
    keyStart: key ? 0 : -1,
    keyEnd: key ? keyLength : -1,
    valueStart: value ? keyLength : -1,
    valueEnd: value ? keyLength + value.length : -1,
  };
}

const bytes = (given: string | Uint8Array | null | undefined): Buffer | null => (given === null || given === undefined ? null : Buffer.from(given as string));
