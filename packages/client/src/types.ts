import type { BatchHandler, BatchOptions, ConsumedEvent, ConsumerOptions, Handler, HeadersInit, RecordMetadata, TurnpikeError } from '@turnpike/core';
import type { AnyTopic, ConsumedTopic, TopicContract } from './generated.ts';

export type Produces = Readonly<Record<string, AnyTopic>>;
export type Consumes = Readonly<Record<string, ConsumedTopic>>;

/** What send() takes. */
export type InputOf<T> = T extends TopicContract<infer In, infer _Out, infer _Key> ? In : never;
/** What a consumer gets. */
export type OutputOf<T> = T extends TopicContract<infer _In, infer Out, infer _Key> ? Out : never;
export type KeyOf<T> = T extends TopicContract<infer _In, infer _Out, infer Key> ? Key : never;

/** The events of these topics, told apart by `topic`. */
export type EventOf<C extends Consumes, T extends keyof C & string> = T extends string
  ? ConsumedEvent<T, OutputOf<C[T]['topic']>, NonNullable<KeyOf<C[T]['topic']>>>
  : never;

export type GroupOf<C extends Consumes, T extends keyof C & string> = C[T]['groups'][number];

/** What may be said of one record beside its value. */
export interface TypedSendOptions<Key> {
  /** Default: derived from the event where the topic says how (`key.from`), else null. */
  readonly key?: Key;
  readonly headers?: HeadersInit;
  /** Default: Java's choice, murmur2 of the key; without a key, sticky (KIP-480). */
  readonly partition?: number;
  /** ms since the epoch. Default: now. */
  readonly timestampMs?: number;
  /** Ends the wait with ABORTED, whose `written` says whether the record had been handed to a broker by then. */
  readonly signal?: AbortSignal;
}

/** Sends one topic's events. Disposing flushes. */
export interface Producer<In, Key> extends AsyncDisposable {
  readonly topic: string;
  /** Sends one event; many calls in one turn go in one request. Resolves when all in-sync replicas have it (`acks`). Rejects with a TurnpikeError whose `written`
   *  says whether it may be in the log all the same: ENCODE_FAILED, GRANT_DENIED, QUOTA_EXCEEDED, DELIVERY_TIMEOUT, AUTHORIZATION_FAILED, ... */
  send(event: In, options?: TypedSendOptions<Key>): Promise<RecordMetadata>;
  /** Sends one event without a promise for it, for streams of events that nobody awaits one by one: about a quarter cheaper than send(). What could not be sent is told to `onError`, with
   *  the error that send() would reject with; `flush()` waits for all. false = the producer's memory is full: this one waits in order, and who goes on should wait for `ready()` first.
   *  @throws TurnpikeError CONFIG_INVALID: `onError` is no function. Nothing else is thrown. */
  post(event: In, onError: (error: TurnpikeError, event: In) => void, options?: Omit<TypedSendOptions<Key>, 'signal'>): boolean;
  /** Resolves when nothing of this topic waits for memory any more. */
  ready(): Promise<void>;
  /** Sends many; an event that can't be encoded refuses all of them before any is sent. The error's `outcomes` tells of each, also when some fail later. */
  sendBatch(events: readonly In[], options?: TypedSendOptions<Key>): Promise<readonly RecordMetadata[]>;
  /** Sends a null value: on a compacted topic, deletes the key. */
  tombstone(key: NonNullable<Key>, options?: Omit<TypedSendOptions<Key>, 'key'>): Promise<RecordMetadata>;
  /** Resolves when everything sent before the call has settled. */
  flush(signal?: AbortSignal): Promise<void>;
  /** Flushes, then refuses with CLOSED; `kafka.producer(topic)` then gives another. Rarely needed: the connection closes its producers. */
  close(): Promise<void>;
}

/** One member of a consumer group: run() with a handler, runBatch(), or `for await`. Disposing drains, commits and leaves.
 *
 *  In a `for await` loop, asking for the next event says that the last one is handled. Leaving the loop closes the consumer, and the event in hand comes again. */
export interface Consumer<Event> extends AsyncDisposable, AsyncIterable<Event> {
  readonly group: string;
  /** Handles records until close(): those of a partition one after another, partitions side by side. An offset is committed only after its handler has finished: at least
   *  once. Rejects with what ended it: HANDLER_FAILED (the handler threw; its record comes again), DECODE_FAILED, GRANT_DENIED, AUTHORIZATION_FAILED, ... */
  run(handler: Handler<Event>): Promise<void>;
  /** As run(), with an array: the events of one partition that are there, in order, at most `maxBatchRecords`; the batch is awaited, and then all of it is handled. For a handler that
   *  does better with many at once, a bulk insert say. A throw is HANDLER_FAILED and commits none of the batch: all of it comes again. */
  runBatch(handler: BatchHandler<Event>, options?: BatchOptions): Promise<void>;
  /** Lets running handlers finish within `drainTimeoutMs`, commits, leaves the group. Don't await it inside a handler, nor in the loop, which it waits for. */
  close(): Promise<void>;
}

export interface ConsumerInit<Group extends string> extends ConsumerOptions {
  /** One of the groups that turnpike.yaml declares for these topics. Default: the one, where there is only one. */
  readonly group?: Group;
}

/** A service's connection: everything declared in its turnpike.yaml, nothing else. `await using kafka = await connect(...)` closes it at the end of the block. */
export interface Kafka<P extends Produces, C extends Consumes> extends AsyncDisposable {
  /** Who this process is to the brokers. */
  readonly principal: string;
  readonly environment: string;
  /** @throws TurnpikeError TOPIC_UNDECLARED at run time too, where types were bypassed. */
  producer<T extends keyof P & string>(topic: T): Producer<InputOf<P[T]>, KeyOf<P[T]>>;
  /** @throws TurnpikeError TOPIC_UNDECLARED, CONFIG_INVALID. */
  consumer<T extends keyof C & string>(topics: readonly T[], init?: ConsumerInit<GroupOf<C, T>>): Consumer<EventOf<C, T>>;
  /** Resolves when everything sent before the call has settled. */
  flush(signal?: AbortSignal): Promise<void>;
  /** Drains consumers, then flushes producers, then closes connections and the identity that it made. Idempotent. Bounded by `drainTimeoutMs` plus `deliveryTimeoutMs`.
   *  Runs by itself on the `shutdownSignals`. Don't await it inside a handler, which it waits for. */
  close(): Promise<void>;
}
