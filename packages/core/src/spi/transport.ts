import type { TurnpikeError } from '../errors.ts';
import type { HeaderEntry, RecordHeaders } from '../headers.ts';
import type { AdminPort } from './admin.ts';
import type { Clock } from './clock.ts';
import type { Identity } from './identity.ts';
import type { Logger } from './logger.ts';
import type { DrainGate, FetchGate } from './policy.ts';
import type { RecordSpan } from './telemetry.ts';

export type Compression = 'none' | 'gzip' | 'snappy' | 'lz4' | 'zstd';

/** What a transport can do. What it can't is false (or left out of a list), and asking for it is CAPABILITY_MISSING at `connect()`. */
export interface Capabilities {
  /** "wire": gate bytes are compressed and charged per attempt; "estimate": uncompressed, at hand-over to a library that retries inside. */
  readonly quotaBasis: 'wire' | 'estimate';
  readonly compression: readonly Compression[];
  readonly idempotence: boolean;
  readonly transactions: boolean;
  readonly readCommitted: boolean;
  /** "classic" and "consumer" (KIP-848). */
  readonly groupProtocols: readonly ('classic' | 'consumer')[];
  /** Incremental rebalance under the classic protocol (KIP-429). */
  readonly cooperativeRebalance: boolean;
  readonly staticMembership: boolean;
  /** KIP-368: re-authenticates on a live connection. */
  readonly reauthentication: boolean;
  readonly throttleTime: boolean;
  /** A consumed header's null is told from an empty value; false: both come as empty. What is produced always goes as it is. */
  readonly nullHeaders: boolean;
  readonly admin: boolean;
}

/** A cluster as one identity reaches it. */
export interface ClusterRef {
  /** The logical name, as in manifests and grants. */
  readonly name: string;
  /** The cluster id that must answer (CLUSTER_MISMATCH otherwise); undefined = not checked. */
  readonly id?: string;
  /** host:port of the listener for this identity's kind. */
  readonly bootstrap: readonly string[];
}

export interface Transport {
  /** "wire", "memory", ... */
  readonly name: string;
  readonly capabilities: Capabilities;
  /** Reaches the cluster and proves the identity, or rejects within `connectTimeoutMs` with TLS_FAILED, AUTHENTICATION_FAILED, BROKER_UNAVAILABLE or CLUSTER_MISMATCH. */
  connect(context: LinkContext): Promise<Link>;
}

export interface LinkContext {
  readonly cluster: ClusterRef;
  readonly identity: Identity;
  readonly clientId: string;
  /** ms (> 0). */
  readonly connectTimeoutMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly gate: DrainGate;
  readonly fetchGate: FetchGate;
  readonly events: TransportEvents;
}

/** One identity at one cluster. Disposing closes every port of it and leaves no handle. */
export interface Link extends AsyncDisposable {
  readonly clusterId: string | undefined;
  producer(options: CompiledProducerOptions): Promise<ProducerPort>;
  consumer(options: CompiledConsumerOptions): ConsumerPort;
  readonly admin?: AdminPort;
}

/** What a transport tells core. None of these may throw. */
export interface TransportEvents {
  /** Once a flush: every record of it ends here, as acknowledged or with an error that says whether it may have been written. */
  settled(batches: readonly SettledBatch[], startedAtMs: number): void;
  retried(topic: string, bytes: number): void;
  wrote(topic: string, encodedBytes: number, wireBytes: number): void;
  throttled(broker: number, ms: number): void;
}

/** One partition's part of a flush. `pendings[i]` has offset `baseOffset + i`. */
export interface SettledBatch {
  readonly topic: string;
  readonly partition: number;
  readonly pendings: readonly Pending[];
  readonly bytes: number;
  /** -1n where the broker doesn't say (a duplicate that it had already written). */
  readonly baseOffset: bigint;
  /** The broker's clock, ms since the epoch, where the topic uses LogAppendTime. */
  readonly logAppendTimeMs?: number;
  readonly error?: TurnpikeError;
}

/** Core's side of a record under way; a transport only hands it back. One may be appended for several records of a caller's batch. */
export interface Pending {
  /** Monotonic ms by which it must have settled; a transport expires it with DELIVERY_TIMEOUT. */
  readonly deadlineMs: number;
  /** How often it was handed to a broker, where that was more than once or it went back to wait; 0 while it waits = it was certainly never written. Counted by the transport. */
  attempts: number;
  readonly span: RecordSpan | undefined;
  acknowledge(batch: SettledBatch, index: number): void;
  fail(error: TurnpikeError): void;
}

/** A record in core's scratch buffer; a start of -1 is null. */
export interface OutboundRecord {
  topic: string;
  partition: number;
  timestampMs: number;
  headers: readonly HeaderEntry[] | undefined;
  buf: Buffer;
  keyStart: number;
  keyEnd: number;
  valueStart: number;
  valueEnd: number;
}

export interface ProducerPort extends AsyncDisposable {
  /** Fetches the metadata of these topics. Rejects with TOPIC_UNKNOWN or AUTHORIZATION_FAILED. */
  warm(topics: readonly string[]): Promise<void>;
  /** Synchronous once warmed; kept fresh in the background. */
  partitions(topic: string): number | undefined;
  /** Whether the partition has a leader, as far as is known. */
  isLed(topic: string, partition: number): boolean;
  /** Copies the record. false = memory is full: wait for `drained()`. */
  append(record: OutboundRecord, pending: Pending): boolean;
  /** Removes those that are not yet handed to a broker, and returns them; the others are under way, and may be written. Doesn't settle any. Many at once: one signal may belong to thousands. */
  cancel(pendings: ReadonlySet<Pending>): ReadonlySet<Pending>;
  /** Resolves when an append that was refused may succeed. */
  drained(): Promise<void>;
  /** Resolves when everything appended before the call has settled. Rejects with ABORTED when the signal does. */
  flush(signal?: AbortSignal): Promise<void>;
  readonly transaction?: TransactionPort;
}

/** One transaction after another (KIP-98). What is appended outside of one, or once its end has begun, is refused with CONFIG_INVALID. */
export interface TransactionPort {
  /** What is appended from now on belongs to it. Rejects with PRODUCER_FENCED when another producer has taken the transactional id. */
  begin(): Promise<void>;
  /** Part of the transaction: committed with it, or not at all. Its end waits for them; of which they are refused, it can't be committed. */
  sendOffsets(group: string, offsets: readonly CommitOffset[]): Promise<void>;
  /** Flushes, then commits. Rejects with TRANSACTION_ABORTED when a record of it has failed, or its offsets: nothing of it is read, abort() and begin again. With `written: "unknown"` no answer says what became of it. */
  commit(): Promise<void>;
  /** Nothing of it will be read. */
  abort(): Promise<void>;
}

export interface TopicPartition {
  readonly topic: string;
  readonly partition: number;
}

/** The next offset to read, as Kafka stores it. */
export interface CommitOffset extends TopicPartition {
  readonly offset: bigint;
  readonly leaderEpoch?: number;
  readonly metadata?: string;
}

/** Safe to keep; a transport may parse lazily. */
export interface InboundRecord {
  readonly topic: string;
  readonly partition: number;
  readonly offset: bigint;
  readonly timestampMs: number;
  readonly leaderEpoch?: number;
  readonly key: Buffer | null;
  readonly value: Buffer | null;
  readonly headers: RecordHeaders;
  /** Bytes of key and value together, from a transport that makes these only when they are read. */
  readonly size?: number;
}

/** Records in order: an array, or what makes each when it is come to, anew for each walk. */
export interface InboundRecords extends Iterable<InboundRecord> {
  readonly length: number;
  /** What they take in memory, where that is known without a walk. */
  readonly bytes?: number;
  /** As the iterator, without an object for each step. What it gives gives the next one, undefined at the end. */
  walk?(): () => InboundRecord | undefined;
}

export interface FetchedBatch {
  readonly topic: string;
  readonly partition: number;
  readonly records: InboundRecords;
  /** Where reading goes on: past control records and aborted ones too. */
  readonly nextOffset: bigint;
  readonly highWatermark: bigint;
  readonly bytes: number;
  /** Wall clock, ms: when the fetch was sent. */
  readonly fetchedAtMs: number;
}

export interface AssignmentListener {
  assigned(partitions: readonly TopicPartition[]): void;
  /** Drain and commit; the port gives the partitions up when this resolves, at the latest after the rebalance timeout. */
  revoking(partitions: readonly TopicPartition[]): Promise<void>;
  /** Gone without notice (the session expired): a commit for them would be refused. */
  lost(partitions: readonly TopicPartition[]): void;
  /** The port can't go on (authorisation withdrawn, fenced): nothing more will come. */
  failed(error: TurnpikeError): void;
}

export type SeekTarget = bigint | 'beginning' | 'end' | { readonly timestampMs: number };

export interface ConsumerPort extends AsyncDisposable {
  /** Joins the group. Rejects with AUTHORIZATION_FAILED, TOPIC_UNKNOWN, ... once that is known. */
  subscribe(topics: readonly string[], listener: AssignmentListener): Promise<void>;
  /** What has arrived for partitions that are assigned and not paused; waits at most `maxWaitMs`, or until the signal aborts, then []. A partition's batches come in order. */
  poll(maxWaitMs: number, signal?: AbortSignal): Promise<readonly FetchedBatch[]>;
  /** How many bytes of what was polled wait for their handlers, each time it has changed by a good part: a port that has this reads ahead so much less. */
  waiting?(bytes: number): void;
  pause(partitions: readonly TopicPartition[]): void;
  resume(partitions: readonly TopicPartition[]): void;
  /** What was prefetched from elsewhere is dropped. */
  seek(partition: TopicPartition, target: SeekTarget): Promise<void>;
  /** Rejects with MEMBERSHIP_LOST when the generation has moved on. */
  commit(offsets: readonly CommitOffset[]): Promise<void>;
  committed(partitions: readonly TopicPartition[]): Promise<readonly CommitOffset[]>;
  endOffsets(partitions: readonly TopicPartition[]): Promise<readonly CommitOffset[]>;
}

/** Read once, validated, frozen. */
export interface CompiledProducerOptions {
  readonly acks: 'all' | 1 | 0;
  readonly idempotent: boolean;
  readonly transactionalId: string | undefined;
  readonly compression: Compression;
  readonly maxBatchBytes: number;
  readonly maxBufferBytes: number;
  readonly maxInFlight: number;
  readonly minLingerMs: number;
  readonly requestTimeoutMs: number;
  readonly deliveryTimeoutMs: number;
  readonly transactionTimeoutMs: number;
}

export interface CompiledConsumerOptions {
  readonly group: string;
  readonly groupProtocol: 'classic' | 'consumer';
  readonly instanceId: string | undefined;
  readonly isolation: 'read_committed' | 'read_uncommitted';
  /** Where a group without a committed offset begins, and what an offset out of range does; "fail" = OFFSET_OUT_OF_RANGE. */
  readonly startAt: 'earliest' | 'latest' | 'fail';
  readonly sessionTimeoutMs: number;
  readonly heartbeatIntervalMs: number;
  readonly rebalanceTimeoutMs: number;
  readonly maxFetchBytes: number;
  readonly maxPartitionFetchBytes: number;
  readonly fetchWaitMs: number;
  readonly maxPrefetchBytes: number;
  readonly requestTimeoutMs: number;
}
