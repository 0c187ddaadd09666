import { listOffsetsV7 } from '@platformatic/kafka';
import { TurnpikeError } from '@turnpike/core';
import { type CommitOffset, type LinkContext, pause, type SeekTarget, type TopicPartition } from '@turnpike/core/spi';
import type { Connections } from './connections.ts';
import { brokerError, responseIn, translate, type Where } from './errors.ts';
import type { Metadata } from './metadata.ts';

const LATEST = -1n;
const EARLIEST = -2n;
const BACKOFF_MS = 100;

type Response = Awaited<ReturnType<typeof listOffsetsV7.api.async>>;

interface ListOffsetsParts {
  readonly context: LinkContext;
  readonly metadata: Metadata;
  readonly connections: Connections;
  readonly readCommitted: boolean;
}

/** The offsets of these partitions at a target, asked of each leader; goes on while errors may pass, for `forMs`. A time past the last record is the end. */
export async function listOffsets(
  parts: ListOffsetsParts,
  partitions: readonly TopicPartition[],
  target: SeekTarget,
  forMs: number,
): Promise<readonly CommitOffset[]> {
  if (typeof target === 'bigint') return partitions.map((tp) => ({ ...tp, offset: target }));
  const { clock } = parts.context;
  const until = clock.monotonic() + forMs;
  const timestamp = timestampOf(target);
  const found: CommitOffset[] = [];
  let left = partitions;
  for (;;) {
    const round = await askLeaders(parts, left, timestamp);
    found.push(...round.found);
    left = round.left;
    if (left.length === 0) break;
    if (!round.error.retriable || clock.monotonic() + BACKOFF_MS >= until) throw round.error;
    await pause(clock, BACKOFF_MS);
    await parts.metadata.refresh([...new Set(left.map((tp) => tp.topic))]).catch(() => {});
  }
  const past = found.filter((o) => o.offset < 0n);
  if (past.length === 0) return found;
  return [...found.filter((o) => o.offset >= 0n), ...(await listOffsets(parts, past, 'end', forMs))];
}

/** One round of it: of those whose leader can't be asked at the moment there is nothing in the answer, and they hold up no others. Rejects with what doesn't pass. */
export async function offsetsAtHand(
  parts: ListOffsetsParts,
  partitions: readonly TopicPartition[],
  target: 'beginning' | 'end',
): Promise<readonly CommitOffset[]> {
  const { found, left, error } = await askLeaders(parts, partitions, timestampOf(target));
  if (left.length === 0) return found;
  if (!error.retriable) throw error;
  await parts.metadata.refresh([...new Set(left.map((tp) => tp.topic))]).catch(() => {});
  return found;
}

const timestampOf = (target: Exclude<SeekTarget, bigint>): bigint =>
  target === 'beginning' ? EARLIEST : target === 'end' ? LATEST : BigInt(target.timestampMs);

async function askLeaders(
  parts: ListOffsetsParts,
  partitions: readonly TopicPartition[],
  timestamp: bigint,
): Promise<{ readonly found: readonly CommitOffset[]; readonly left: readonly TopicPartition[]; readonly error: TurnpikeError }> {
  const found: CommitOffset[] = [];
  const left: TopicPartition[] = [];
  let error = new TurnpikeError('BROKER_UNAVAILABLE', 'A partition has no leader at the moment.', { retriable: true });
  const byLeader = Map.groupBy(partitions, (tp) => parts.metadata.leader(tp.topic, tp.partition));
  await Promise.all(
    [...byLeader].map(async ([leader, of]) => {
      try {
        for (const { tp, offset, errorCode } of await askLeader(parts, leader, of, timestamp)) {
          if (errorCode === 0) found.push({ topic: tp.topic, partition: tp.partition, offset });
          else {
            left.push(tp);
            error = worse(
              error,
              brokerError(errorCode, { doing: `read the offsets of ${tp.topic}`, ...place(tp), principal: parts.context.identity.principal }),
            );
          }
        }
      } catch (cause) {
        left.push(...of);
        error = worse(error, translate(cause, { doing: 'read offsets' }));
      }
    }),
  );
  return { found, left, error };
}

async function askLeader(
  { metadata, connections, readCommitted }: ListOffsetsParts,
  leader: number,
  partitions: readonly TopicPartition[],
  timestamp: bigint,
): Promise<readonly { readonly tp: TopicPartition; readonly offset: bigint; readonly errorCode: number }[]> {
  const broker = metadata.broker(leader);
  if (!broker) throw new TurnpikeError('BROKER_UNAVAILABLE', 'A partition has no leader at the moment.', { retriable: true });
  const topics = [...Map.groupBy(partitions, (tp) => tp.topic)].map(([name, of]) => ({
    name,
    partitions: of.map((tp) => ({ partitionIndex: tp.partition, currentLeaderEpoch: -1, timestamp })),
  }));
  const where: Where = { doing: 'read offsets' };
  const response = await connections.call(broker, 'offsets', listOffsetsV7.api, [-1, readCommitted ? 1 : 0, topics], where).catch((error: unknown) => {
    const answer = responseIn<Response>(error);
    if (answer === undefined) throw error;
    return answer;
  });
  return response.topics.flatMap((t) =>
    t.partitions.map((p) => ({ tp: { topic: t.name, partition: p.partitionIndex }, offset: p.offset, errorCode: p.errorCode })),
  );
}

const place = ({ topic, partition }: TopicPartition) => ({ topic, partition });
/** One that doesn't pass outweighs one that may. */
const worse = (a: TurnpikeError, b: TurnpikeError): TurnpikeError => (a.retriable ? b : a);
