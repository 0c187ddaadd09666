import { TurnpikeError } from '../errors.ts';
import { OptionReader } from '../options.ts';
import type { CompiledProducerOptions, Compression } from '../spi/transport.ts';

export interface ProducerOptions {
  /** Which replicas must have a record before it is acknowledged. Default "all". 1 and 0 may lose records and need `idempotent: false`. */
  readonly acks?: 'all' | 1 | 0;
  /** The broker drops duplicates of our own retries (KIP-98). Default true. */
  readonly idempotent?: boolean;
  /** Default "none"; which others there are depends on the transport. */
  readonly compression?: Compression;
  /** The most bytes of one partition in one request, before compression (1 KiB to 16 MiB). Default 1_000_000: below a broker's own limit of 1,048,588 (`max.message.bytes`). */
  readonly maxBatchBytes?: number;
  /** The largest record, in bytes of key and value (1 to `maxBatchBytes`). Default 1_000_000. */
  readonly maxRecordBytes?: number;
  /** Memory for records that wait or are under way, in bytes (>= maxBatchBytes). Default 32 MiB, as Java's `buffer.memory`. When it is full, send() waits, in order. */
  readonly maxBufferBytes?: number;
  /** The most send() calls that may wait for room in that memory (>= 0). Default 100_000; one more is BUFFER_FULL. */
  readonly maxWaitingSends?: number;
  /** How long one request may take, in ms (> 0). Default 10_000. */
  readonly requestTimeoutMs?: number;
  /** How long a record may take from send() to acknowledgement, in ms (> 0): room, quota, retries. Default 30_000: longer than a leader change, shorter than
   *  most job deadlines. */
  readonly deliveryTimeoutMs?: number;
  /** How long a flush waits for more records although nothing is in flight, in ms (0 to 1_000). Default 0; a grant may set a floor to spare the brokers. */
  readonly minLingerMs?: number;
}

export interface CompiledProducer extends CompiledProducerOptions {
  readonly maxRecordBytes: number;
  readonly maxWaitingSends: number;
}

/** Validates, fills in the defaults, freezes. Throws CONFIG_INVALID. */
export function compileProducerOptions(raw: ProducerOptions = {}): CompiledProducer {
  const read = new OptionReader('producer', raw);
  const idempotent = read.boolean('idempotent', true);
  const acks = read.oneOf<'all' | 1 | 0>('acks', ['all', 1, 0], 'all');
  if (idempotent && acks !== 'all')
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `producer.acks is ${acks} but idempotent is true; remove acks or set it to "all", or set idempotent to false and accept loss.`,
    );
  const maxBatchBytes = read.number('maxBatchBytes', { min: 1024, max: 16 * 1024 * 1024, default: 1_000_000 });
  const compiled = {
    acks,
    idempotent,
    transactionalId: undefined,
    compression: read.oneOf<Compression>('compression', ['none', 'gzip', 'snappy', 'lz4', 'zstd'], 'none'),
    maxBatchBytes,
    maxRecordBytes: read.number('maxRecordBytes', { min: 1, max: maxBatchBytes, default: Math.min(1_000_000, maxBatchBytes) }),
    maxBufferBytes: read.number('maxBufferBytes', { min: maxBatchBytes, default: Math.max(32 * 1024 * 1024, maxBatchBytes) }),
    maxWaitingSends: read.number('maxWaitingSends', { min: 0, default: 100_000 }),
    maxInFlight: 5,
    minLingerMs: read.number('minLingerMs', { min: 0, max: 1000, default: 0 }),
    requestTimeoutMs: read.number('requestTimeoutMs', { min: 1, default: 10_000 }),
    deliveryTimeoutMs: read.number('deliveryTimeoutMs', { min: 1, default: 30_000 }),
    transactionTimeoutMs: 60_000,
  };
  read.end();
  return Object.freeze(compiled);
}
