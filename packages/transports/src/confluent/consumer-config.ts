import type { CompiledConsumerOptions } from '@turnpike/core/spi';
import type { Config } from './library.ts';

/** A consumer's options as librdkafka's properties. */
export function consumerConfig(options: CompiledConsumerOptions): Config {
  const { group, groupProtocol, instanceId, isolation, sessionTimeoutMs, heartbeatIntervalMs, rebalanceTimeoutMs } = options;
  const { maxFetchBytes, maxPartitionFetchBytes, fetchWaitMs, maxPrefetchBytes, requestTimeoutMs } = options;
  return {
    'group.id': group,
    'group.protocol': groupProtocol,
    ...(groupProtocol === 'classic'
      ? {
          'partition.assignment.strategy': 'cooperative-sticky',
          'session.timeout.ms': sessionTimeoutMs,
          'heartbeat.interval.ms': heartbeatIntervalMs,
        }
      : {}),
    ...(instanceId === undefined ? {} : { 'group.instance.id': instanceId }),
    // Also how long the group waits for this member to give up partitions.
    'max.poll.interval.ms': Math.min(Math.max(rebalanceTimeoutMs, groupProtocol === 'classic' ? sessionTimeoutMs : 0), 86_400_000),
    'enable.auto.commit': false,
    'enable.auto.offset.store': false,
    'enable.partition.eof': true,
    'isolation.level': isolation,
    'fetch.wait.max.ms': Math.min(fetchWaitMs, 300_000),
    'fetch.max.bytes': maxFetchBytes,
    'fetch.message.max.bytes': maxPartitionFetchBytes,
    'receive.message.max.bytes': Math.min(Math.max(maxFetchBytes + 1024 * 1024, 100_000_000), 2_147_483_647),
    'fetch.queue.backoff.ms': 10,
    // Half of it in the library, half of it here.
    'queued.max.messages.kbytes': Math.min(Math.max(Math.floor(maxPrefetchBytes / 2048), 1), 2_097_151),
    'socket.timeout.ms': Math.min(Math.max(requestTimeoutMs, fetchWaitMs + 1_000), 300_000),
  };
}
