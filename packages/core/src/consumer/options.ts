import { TurnpikeError } from '../errors.ts';
import { OptionReader } from '../options.ts';
import type { CompiledConsumerOptions } from '../spi/transport.ts';
import type { BatchOptions } from './event.ts';

export interface ConsumerOptions {
  /** "classic" (default) or "consumer" (KIP-848), where transport and broker have it. */
  readonly groupProtocol?: 'classic' | 'consumer';
  /** A stable name for this member (static membership, KIP-345): a restart within the session timeout moves no partition. */
  readonly instanceId?: string;
  /** Default "read_uncommitted"; "read_committed" hides records of open and aborted transactions. */
  readonly isolation?: 'read_committed' | 'read_uncommitted';
  /** Where a group without a committed offset begins. Default "earliest": a new group loses nothing. "fail" = OFFSET_OUT_OF_RANGE. */
  readonly startAt?: 'earliest' | 'latest' | 'fail';
  /** A member that is silent for so long is put out of its group, in ms (>= 1_000; the broker has bounds of its own, 6_000 to 1_800_000 by default). Default 45_000, as Java's. */
  readonly sessionTimeoutMs?: number;
  /** ms (> 0, under a third of the session timeout). Default 3_000. */
  readonly heartbeatIntervalMs?: number;
  /** How long members have to give up partitions, in ms (> drainTimeoutMs). Default 60_000. */
  readonly rebalanceTimeoutMs?: number;
  /** How long running handlers have to finish on revoke and close, in ms (>= 0, < rebalanceTimeoutMs). Default 25_000: under Kubernetes' 30 s of grace. Then
   *  their AbortSignal fires and what they do is not committed. */
  readonly drainTimeoutMs?: number;
  /** How often handled offsets are committed, in ms (>= 10). Default 1_000: bounds what is handled again after a crash. */
  readonly commitIntervalMs?: number;
  /** Records of one partition that wait for its handler (>= 1); beyond it the partition is paused. Default 2_000. */
  readonly maxQueuedRecords?: number;
  /** Bytes of one fetch answer, at most (>= 1 KiB). Default 16 MiB; less is asked for while the handlers don't keep up. */
  readonly maxFetchBytes?: number;
  /** Bytes of one partition in it (>= 1 KiB). Default 1 MiB. */
  readonly maxPartitionFetchBytes?: number;
  /** How long the broker holds a fetch that finds nothing, in ms (>= 0). Default 500. */
  readonly fetchWaitMs?: number;
  /** Bytes that may be fetched ahead of the handlers, of all partitions together (>= 1 KiB). Default 32 MiB: enough for brokers that are far away. */
  readonly maxPrefetchBytes?: number;
  /** ms (> 0). Default 10_000. */
  readonly requestTimeoutMs?: number;
}

export interface CompiledConsumer extends CompiledConsumerOptions {
  readonly drainTimeoutMs: number;
  readonly commitIntervalMs: number;
  readonly maxQueuedRecords: number;
}

/** Validates, fills in the defaults, freezes. Throws CONFIG_INVALID. */
export function compileConsumerOptions(group: string, raw: ConsumerOptions = {}): CompiledConsumer {
  if (typeof group !== 'string' || group === '')
    throw new TurnpikeError('CONFIG_INVALID', `consumer.group is ${group === '' ? 'empty' : String(group)}; name the group as in turnpike.yaml.`);
  const read = new OptionReader('consumer', raw);
  const compiled = {
    group,
    groupProtocol: read.oneOf<'classic' | 'consumer'>('groupProtocol', ['classic', 'consumer'], 'classic'),
    instanceId: read.string('instanceId'),
    isolation: read.oneOf<'read_committed' | 'read_uncommitted'>('isolation', ['read_committed', 'read_uncommitted'], 'read_uncommitted'),
    startAt: read.oneOf<'earliest' | 'latest' | 'fail'>('startAt', ['earliest', 'latest', 'fail'], 'earliest'),
    sessionTimeoutMs: read.number('sessionTimeoutMs', { min: 1000, default: 45_000 }),
    heartbeatIntervalMs: read.number('heartbeatIntervalMs', { min: 1, default: 3000 }),
    rebalanceTimeoutMs: read.number('rebalanceTimeoutMs', { min: 1, default: 60_000 }),
    drainTimeoutMs: read.number('drainTimeoutMs', { min: 0, default: 25_000 }),
    commitIntervalMs: read.number('commitIntervalMs', { min: 10, default: 1000 }),
    maxQueuedRecords: read.number('maxQueuedRecords', { min: 1, default: 2000 }),
    maxFetchBytes: read.number('maxFetchBytes', { min: 1024, default: 16 * 1024 * 1024 }),
    maxPartitionFetchBytes: read.number('maxPartitionFetchBytes', { min: 1024, default: 1024 * 1024 }),
    fetchWaitMs: read.number('fetchWaitMs', { min: 0, default: 500 }),
    maxPrefetchBytes: read.number('maxPrefetchBytes', { min: 1024, default: 32 * 1024 * 1024 }),
    requestTimeoutMs: read.number('requestTimeoutMs', { min: 1, default: 10_000 }),
  };
  read.end();
  if (compiled.heartbeatIntervalMs * 3 > compiled.sessionTimeoutMs)
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `consumer.heartbeatIntervalMs is ${compiled.heartbeatIntervalMs}, more than a third of sessionTimeoutMs (${compiled.sessionTimeoutMs}); lower it, or one lost heartbeat ends the session.`,
    );
  if (compiled.drainTimeoutMs >= compiled.rebalanceTimeoutMs)
    throw new TurnpikeError(
      'CONFIG_INVALID',
      `consumer.drainTimeoutMs is ${compiled.drainTimeoutMs}, not under rebalanceTimeoutMs (${compiled.rebalanceTimeoutMs}); lower it, or the group goes on without this member before it has drained.`,
    );
  return Object.freeze(compiled);
}

/** @throws TurnpikeError CONFIG_INVALID. */
export function compileBatchOptions(raw: BatchOptions): Required<BatchOptions> {
  const read = new OptionReader('runBatch', raw);
  const compiled = { maxBatchRecords: read.number('maxBatchRecords', { min: 1, default: 500 }) };
  read.end();
  return compiled;
}
