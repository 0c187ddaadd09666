// What one child process is asked to measure, and what it answers.

export type Compression = 'none' | 'lz4' | 'zstd';

export type Work =
  /** `outstanding` callers, each of which sends `perCall` records and waits. */
  | { readonly kind: 'produce'; readonly outstanding: number; readonly perCall: number }
  /** One after another: how long each takes. */
  | { readonly kind: 'sequential' }
  /** So many a second, whether or not earlier ones have been answered. */
  | { readonly kind: 'rate'; readonly perSecond: number }
  /** Reads a topic that is there from its beginning. */
  | { readonly kind: 'consume'; readonly by: 'record' | 'batch'; readonly records: number }
  /** Produces and consumes at a steady rate; memory is sampled. */
  | { readonly kind: 'soak'; readonly perSecond: number; readonly seconds: number };

/** Where the issuer is, and who asks. */
export interface OAuthFiles {
  readonly tokenUrl: string;
  readonly clientId: string;
  readonly clientSecretFile: string;
  readonly scope: string;
  readonly caFile: string;
}

export interface Job {
  readonly client: string;
  readonly work: Work;
  /** "bytes": values as they are; "order": an event that is serialized at each send. */
  readonly payload: 'bytes' | 'order';
  /** Of a value, in bytes, with whatever frames it. */
  readonly valueBytes: number;
  readonly compression: Compression;
  readonly topic: string;
  readonly bootstrap: readonly string[];
  /** undefined = plaintext. */
  readonly oauth?: OAuthFiles;
  readonly brokerPids: readonly number[];
  readonly warmUpMs: number;
  /** For consuming: at most. */
  readonly measureMs: number;
  /** A folder for what the job needs on disk. */
  readonly folder: string;
}

/** Of the measured part alone. */
export interface Outcome {
  readonly records: number;
  /** With those of the warm-up. */
  readonly totalRecords: number;
  /** To the broker, in all of it; null where it doesn't say, or wasn't asked. */
  readonly requests?: number | null;
  readonly seconds: number;
  /** Of the whole client process; null where it can't be told from its start. */
  readonly cpuMicros: number | null;
  /** Of all brokers; null where the system doesn't say. */
  readonly brokerCpuMicros: number | null;
  readonly rssMiB: number | null;
  /** Ever, in this process. */
  readonly peakRssMiB: number | null;
  readonly p50Ms: number | null;
  readonly p99Ms: number | null;
  /** MiB a minute in the second half of a soak, of what is left after a collection. */
  readonly liveSlope?: number;
  /** MiB, one a second. */
  readonly rssSamples?: readonly number[];
  /** MiB: heap and buffers after a full collection, one each ten seconds. */
  readonly liveSamples?: readonly number[];
}

export type Answer = { readonly outcome: Outcome } | { readonly missing: string } | { readonly failed: string };

/** A producer as a test drives it: record `i` is one of those that it has made ready before. Nothing here is closed: the process is ended, and all of it with it. */
export interface BenchProducer {
  sendOne(i: number): Promise<unknown>;
  sendMany(i: number, count: number): Promise<unknown>;
  /** Nobody waits for a record: one caller hands over many with sendMany(), which resolves when there is room for more. */
  readonly unawaited?: boolean;
  /** Runs a caller's loop as the work of request `i`. Default: as it is. */
  inRequest?<T>(i: number, f: () => T): T;
}

export interface BenchConsumer {
  /** Reads from the topic's beginning and calls for each record with its bytes. */
  start(onRecord: (bytes: number) => void): Promise<void>;
}

export interface BenchClient {
  producer(): Promise<BenchProducer>;
  consumer(by: 'record' | 'batch'): Promise<BenchConsumer>;
}

/** A client that isn't here, or that can't do this: left out, and said so. */
export class Missing extends Error {}
