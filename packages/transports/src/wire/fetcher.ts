import type { Connection } from '@platformatic/kafka';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type CompiledConsumerOptions, type LinkContext, pause, type TopicPartition } from '@turnpike/core/spi';
import { partitionKey } from './assignor.ts';
import { decodeBatches, inflateAside, scanBatches } from './batch-reader.ts';
import type { Address, Connections } from './connections.ts';
import { brokerError } from './errors.ts';
import { type DivergingEpoch, type FetchedPartition, type FetchResponse, fetchApi } from './fetch.ts';
import { FetchSession, type SessionPartition } from './fetch-session.ts';
import type { Metadata } from './metadata.ts';
import { newPosition, type Position, type ReadAhead } from './read-ahead.ts';

export interface FetchPosition extends Position {
  readonly key: string;
  /** Raised by a seek: a fetch that was sent before it is thrown away. */
  version: number;
  /** The leader's epoch of the record before `offset`; -1 = not known. And the id of the topic that it was read of, for a topic may be deleted and made again. */
  epoch: number;
  topicId: string | undefined;
  /** Asked for, and not answered yet. */
  fetching: boolean;
  /** Bytes that have come and are not decoded yet, and from where. */
  arriving: number;
  from: Source | undefined;
  /** Monotonic ms before which it is not asked for again: its leader has refused it. */
  notBeforeMs: number;
}

export const newFetchPosition = (tp: TopicPartition): FetchPosition => ({
  ...newPosition(tp),
  key: partitionKey(tp),
  version: 0,
  epoch: -1,
  topicId: undefined,
  fetching: false,
  arriving: 0,
  from: undefined,
  notBeforeMs: 0,
});

interface Parts {
  readonly context: LinkContext;
  readonly metadata: Metadata;
  readonly connections: Connections;
  readonly options: CompiledConsumerOptions;
  readonly ahead: ReadAhead<FetchPosition>;
  readonly closed: AbortSignal;
  /** Its offset is out of range: it goes on where `startAt` says. */
  reset(position: FetchPosition, target: 'beginning' | 'end'): void;
  failed(error: TurnpikeError): void;
}

/** A broker that leads partitions of ours. */
interface Source {
  readonly leader: number;
  readonly session: FetchSession;
  connection: { readonly to: Address; readonly connection: Connection } | undefined;
  /** Where the next fetch begins among its partitions: an answer has room for some, and those must not always be the same. */
  turn: number;
  /** How long it may hold a fetch while partitions are left out, in ms. */
  patienceMs: number;
  /** What a fetch asks for. */
  askBytes: number;
}

interface Due {
  readonly due: readonly FetchPosition[];
  readonly waitMs: number;
  readonly maxBytes: number;
  readonly partitionBytes: number;
  /** Others would be asked for too, if there weren't enough of them here. */
  readonly leftOut: boolean;
}

interface Question {
  readonly asks: ReadonlyMap<string, Ask>;
  readonly maxBytes: number;
  readonly fetchedAtMs: number;
  readonly answer: Promise<FetchResponse>;
}

interface Ask extends SessionPartition {
  readonly position: FetchPosition;
  readonly version: number;
  readonly topicId: string | undefined;
}

interface Arrived {
  readonly ask: Ask;
  readonly fetched: FetchedPartition;
  readonly nextOffset: bigint;
}

const RETRY_MS = 200;
/** How long until fresh metadata is asked for where a partition has no leader, or one that refuses it, in ms. */
const LEADER_RETRY_MS = { first: 100, most: 1_000 };
/** A fetch that leaves partitions out, since enough of them is there, mustn't wait long for news of the others: those are soon wanted again. Doubled with each one that brings nothing. */
const PATIENCE_MS = 5;
/** No more is asked for at a time than keeps the handlers at work until it has come: what lies about longer only costs memory, and the collector's time. Doubled when an answer finds nothing
 *  left to do, halved when it finds as much as half of it. */
const LEAST_BYTES = 1024 * 1024;
/** Of one partition in it. One whose next batch is larger comes when it is the first of its fetch. */
const LEAST_PARTITION_BYTES = 256 * 1024;
// Kafka's error codes (protocol guide, "Error codes").
const OUT_OF_RANGE = 1;
const SESSION_GONE = 70;
const SESSION_EPOCH_WRONG = 71;

/** A loop for each broker that leads partitions of ours. The next fetch is sent before the answer to the last one is decoded, so that the broker is at work meanwhile; the bytes that are asked
 *  for, that have come and that wait for handlers stay under `maxPrefetchBytes` together. */
export class Fetcher {
  readonly #parts: Parts;
  readonly #loops = new Map<number, Promise<void>>();
  /** Bytes that fetches under way may bring; how many such fetches there are. */
  #asked = 0;
  #underWay = 0;
  /** Bytes that are being decoded. */
  #arriving = 0;
  /** Bytes that were polled and wait for their handlers. */
  #backlog = 0;
  readonly #checks = new Set<Promise<void>>();
  #looking: Promise<void> | undefined;
  #lookAfterMs = LEADER_RETRY_MS.first;
  #isOver = false;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** A loop for each broker that leads one of our partitions; it ends when it leads none. */
  ensureLoops(): void {
    const { ahead, metadata, closed } = this.#parts;
    let leaderless = false;
    for (const { tp } of ahead.all()) {
      const leader = metadata.leader(tp.topic, tp.partition);
      if (leader < 0) leaderless = true;
      if (leader < 0 || this.#loops.has(leader) || closed.aborted) continue;
      const source: Source = { leader, session: new FetchSession(), connection: undefined, turn: 0, patienceMs: PATIENCE_MS, askBytes: LEAST_BYTES };
      this.#loops.set(leader, this.#fetchFrom(source));
    }
    if (leaderless) this.#lookForLeaders();
    else this.#lookAfterMs = LEADER_RETRY_MS.first;
  }

  /** Nothing more is fetched: who polls is told why. */
  #fail(error: TurnpikeError): void {
    this.#isOver = true;
    this.#parts.failed(error);
  }

  /** How many bytes of what was polled wait for their handlers. */
  set backlog(bytes: number) {
    this.#backlog = bytes;
    this.#parts.ahead.changes.tell();
  }

  /** Resolves when its loops have ended, once it is closed. */
  async ended(): Promise<void> {
    await Promise.all([...this.#loops.values(), ...this.#checks, this.#looking]);
  }

  async #fetchFrom(source: Source): Promise<void> {
    const { ahead, closed, context, metadata } = this.#parts;
    let question: Question | undefined;
    while (!closed.aborted && !this.#isOver) {
      try {
        if (question === undefined) {
          if (!this.#leads(source)) {
            this.#loops.delete(source.leader); // At once: the next assignment may come before this function's end is seen.
            this.ensureLoops();
            return;
          }
          if (!this.#isConnected(source)) await this.#connect(source);
          const { next, waitMs } = this.#ask(source);
          question = next;
          if (question === undefined) {
            await ahead.changes.within(waitMs, closed);
            continue;
          }
        }
        const response: FetchResponse = await question.answer;
        const answered: Question = question;
        question = undefined;
        const arrived = this.#accept(source, answered, response);
        try {
          if (response.throttleTimeMs === 0 && this.#isConnected(source)) question = this.#ask(source).next;
        } finally {
          await this.#decode(arrived, answered.fetchedAtMs);
        }
        if (response.throttleTimeMs > 0) {
          context.events.throttled(source.leader, response.throttleTimeMs);
          // The broker hears nothing from this connection meanwhile (KIP-219): a request would only run into its timeout.
          await pause(context.clock, response.throttleTimeMs, closed);
        }
      } catch (error) {
        if (question) this.#failed(source, question);
        question = undefined;
        source.connection = undefined;
        const ours = asTurnpikeError(error, 'INTERNAL', 'fetching failed.');
        if (closed.aborted) return;
        if (!ours.retriable) {
          this.#fail(ours);
          return;
        }
        context.logger.debug('consumer.fetch_failed', { broker: source.leader, message: ours.message });
        await pause(context.clock, RETRY_MS, closed);
        await metadata.refresh().catch(() => {});
        this.ensureLoops();
      }
    }
  }

  #leads({ leader }: Source): boolean {
    const { ahead, metadata } = this.#parts;
    for (const { tp } of ahead.all()) if (metadata.leader(tp.topic, tp.partition) === leader) return true;
    return false;
  }

  #isConnected({ leader, connection }: Source): boolean {
    const broker = this.#parts.metadata.broker(leader);
    if (!connection || !broker || connection.to.host !== broker.host || connection.to.port !== broker.port) return false;
    return connection.connection.status === 'connected' || connection.connection.status === 'reauthenticating';
  }

  async #connect(source: Source): Promise<void> {
    const { metadata, connections, options } = this.#parts;
    const to = metadata.broker(source.leader);
    if (!to) throw new TurnpikeError('BROKER_UNAVAILABLE', `The broker ${source.leader} is not known at the moment.`, { retriable: true });
    // The broker keeps a session by its id, whatever connection it comes on.
    source.connection = { to, connection: await connections.get(to, 'fetch', { doing: 'fetch', group: options.group }) };
  }

  /** Sends the next fetch, in this turn; none where nothing is due, and how long to wait then. */
  #ask(source: Source): { readonly next: Question | undefined; readonly waitMs: number } {
    const { due, waitMs, maxBytes, partitionBytes, leftOut } = this.#due(source);
    if (due.length === 0 || !source.connection) return { next: undefined, waitMs };
    const { context, metadata, connections, options } = this.#parts;
    const { group, fetchWaitMs, isolation } = options;
    const asks = new Map<string, Ask>();
    for (const position of due) {
      const { tp, key, version, epoch } = position;
      asks.set(key, {
        position,
        version,
        key,
        topic: tp.topic,
        partition: tp.partition,
        offset: position.offset as bigint,
        leaderEpoch: metadata.leaderEpoch(tp.topic, tp.partition),
        lastEpoch: epoch,
        topicId: metadata.topic(tp.topic)?.id,
      });
      position.fetching = true;
    }
    this.#asked += maxBytes;
    this.#underWay++;
    const request = {
      ...source.session.next([...asks.values()]),
      maxWaitMs: leftOut ? Math.min(fetchWaitMs, source.patienceMs) : fetchWaitMs,
      maxBytes,
      maxPartitionBytes: partitionBytes,
      readCommitted: isolation === 'read_committed',
    };
    const answer = connections.request(source.connection.connection, fetchApi, [request], { doing: 'fetch', group });
    answer.catch(() => {}); // Looked at later.
    return { next: { asks, maxBytes, fetchedAtMs: context.clock.now(), answer }, waitMs };
  }

  /** The partitions to ask for now, and how long to wait where there are none: no permit, no fetch. */
  #due(source: Source): Due {
    const { ahead, context, metadata, options } = this.#parts;
    const { group, maxFetchBytes, maxPartitionFetchBytes, requestTimeoutMs } = options;
    const now = context.clock.monotonic();
    const room = this.#room();
    const partitionBytes = Math.min(maxPartitionFetchBytes, Math.max(LEAST_PARTITION_BYTES, source.askBytes / 4));
    const due: FetchPosition[] = [];
    let waitMs = requestTimeoutMs;
    let leftOut = false;
    for (const position of room > 0 ? ahead.all() : []) {
      const { tp } = position;
      if (position.offset === undefined || position.fetching || metadata.leader(tp.topic, tp.partition) !== source.leader) continue;
      if (position.from !== undefined && position.from !== source) continue; // Led by another until now, whose answer is still being decoded.
      const held = position.queuedBytes + position.arriving;
      // A paused one is read ahead of by an answer, so that something is there when it is resumed.
      if (position.paused ? held > 0 : held >= partitionBytes) {
        leftOut = true;
        continue;
      }
      const heldMs = Math.max(position.notBeforeMs - now, context.fetchGate.permit(tp.topic, group));
      if (heldMs > 0) waitMs = Math.min(waitMs, heldMs);
      else due.push(position);
    }
    const maxBytes = Math.max(1, Math.min(maxFetchBytes, room, source.askBytes, due.length * partitionBytes));
    if (due.length < 2) return { due, waitMs, maxBytes, partitionBytes, leftOut };
    const from = source.turn++ % due.length;
    return { due: [...due.slice(from), ...due.slice(0, from)], waitMs, maxBytes, partitionBytes, leftOut };
  }

  /** What one more fetch may bring: an equal share for each broker that has none under way. 0 = too little to be worth one. */
  #room(): number {
    const { ahead, options } = this.#parts;
    const { maxPrefetchBytes, maxPartitionFetchBytes } = options;
    const left = maxPrefetchBytes - ahead.queuedBytes - this.#arriving - this.#backlog - this.#asked;
    const share = Math.floor(left / Math.max(1, this.#loops.size - this.#underWay));
    return share < Math.min(maxPartitionFetchBytes, maxPrefetchBytes / 2 / Math.max(1, this.#loops.size)) ? 0 : share;
  }

  /** Takes note of what has come, so that the next fetch can be sent, and leaves the records for #decode(). */
  #accept(source: Source, question: Question, response: FetchResponse): readonly Arrived[] {
    const { ahead, options } = this.#parts;
    const { group } = options;
    this.#settle(question);
    if (response.errorCode === SESSION_GONE) source.session.gone();
    else if (response.errorCode !== 0) source.session.unsure();
    else source.session.answered(response.sessionId);
    if (response.errorCode === SESSION_GONE || response.errorCode === SESSION_EPOCH_WRONG) return [];
    if (response.errorCode !== 0) throw brokerError(response.errorCode, { doing: 'fetch', group });
    const arrived: Arrived[] = [];
    const left = ahead.queuedBytes + this.#arriving + this.#backlog;
    for (const fetched of response.partitions) {
      const ask = question.asks.get(partitionKey(fetched));
      if (!ask || ask.position.version !== ask.version) continue;
      if (fetched.errorCode !== 0) this.#refused(ask.position, fetched.errorCode);
      else if (fetched.diverging !== undefined) this.#diverged(ask, fetched.diverging);
      else this.#arrived(source, ask, fetched, arrived);
    }
    this.#regulate(source, { asked: question.maxBytes, brought: arrived.reduce((sum, a) => sum + a.fetched.records.length, 0), left });
    source.patienceMs = arrived.length > 0 ? PATIENCE_MS : source.patienceMs * 2;
    return arrived;
  }

  #regulate(source: Source, { asked, brought, left }: { readonly asked: number; readonly brought: number; readonly left: number }): void {
    if (left > asked / 2) source.askBytes = Math.max(LEAST_BYTES, source.askBytes / 2);
    else if (left === 0 && asked === source.askBytes && brought > asked / 2) source.askBytes = Math.min(this.#parts.options.maxFetchBytes, source.askBytes * 2);
  }

  #arrived(source: Source, ask: Ask, fetched: FetchedPartition, into: Arrived[]): void {
    const { context, options } = this.#parts;
    const { position } = ask;
    const bytes = fetched.records.length;
    if (bytes === 0) return;
    const { nextOffset, count, leaderEpoch } = scanBatches(fetched.records, placeOf(ask));
    if (nextOffset === undefined) return;
    context.fetchGate.charge(ask.topic, options.group, count, bytes);
    position.offset = nextOffset;
    position.epoch = leaderEpoch;
    position.topicId = ask.topicId;
    position.arriving += bytes;
    position.from = source;
    this.#arriving += bytes;
    into.push({ ask, fetched, nextOffset });
  }

  async #decode(arrived: readonly Arrived[], fetchedAtMs: number): Promise<void> {
    const later: Promise<void>[] = [];
    try {
      for (const part of arrived) {
        const inflating = inflateAside(part.fetched.records, placeOf(part.ask));
        if (inflating) later.push(inflating.then((inflated) => this.#read(part, fetchedAtMs, inflated)));
        else this.#read(part, fetchedAtMs, undefined);
      }
    } finally {
      if (later.length > 0) await Promise.all(later);
    }
  }

  #read({ ask, fetched, nextOffset }: Arrived, fetchedAtMs: number, inflated: ReadonlyMap<number, Buffer> | undefined): void {
    const { ahead, options } = this.#parts;
    const { position, topic, partition } = ask;
    const bytes = fetched.records.length;
    this.#arriving -= bytes;
    position.arriving -= bytes;
    if (position.arriving === 0) position.from = undefined;
    if (position.version !== ask.version || !ahead.holds(position)) return;
    const aborted = options.isolation === 'read_committed' ? fetched.aborted : [];
    const { records } = decodeBatches(fetched.records, placeOf(ask), aborted, inflated);
    ahead.push(position, { topic, partition, records, nextOffset, highWatermark: fetched.highWatermark, bytes, fetchedAtMs });
    ahead.changes.tell();
  }

  #settle({ asks, maxBytes }: Question): void {
    for (const { position } of asks.values()) position.fetching = false;
    this.#asked -= maxBytes;
    this.#underWay--;
    this.#parts.ahead.changes.tell(); // Another broker's fetch may wait for the room.
  }

  #failed(source: Source, question: Question): void {
    source.session.unsure();
    this.#settle(question);
  }

  /** An error for one partition: it is left out for a while, the others of its broker go on. */
  #refused(position: FetchPosition, errorCode: number): void {
    const { context, options } = this.#parts;
    const { topic, partition } = position.tp;
    const { group, startAt } = options;
    const { clock, logger } = context;
    const error = brokerError(errorCode, { doing: `consume ${topic}`, topic, partition, group, principal: context.identity.principal });
    if (error.code === 'OFFSET_OUT_OF_RANGE' && startAt !== 'fail') {
      const target = startAt === 'latest' ? 'end' : 'beginning';
      logger.warn('consumer.offset_reset', { topic, partition, group, from: String(position.offset), to: target });
      // What was fetched before is still delivered: by now it may be nowhere else.
      position.offset = undefined;
      position.epoch = -1;
      this.#parts.reset(position, target);
      return;
    }
    if (!error.retriable) {
      this.#fail(error);
      return;
    }
    logger.debug('consumer.partition_unavailable', { topic, partition, group, message: error.message });
    position.notBeforeMs = clock.monotonic() + RETRY_MS;
    // Most such errors mean that its leader is another, or that it is gone.
    this.#lookForLeaders();
  }

  /** What was read isn't in the leader's log. Of a topic that was made again that says nothing: there is no place in it to go on from, and its offset is as good as out of range. */
  #diverged(ask: Ask, diverging: DivergingEpoch): void {
    const { context, metadata, ahead } = this.#parts;
    const { position, topic, version } = ask;
    position.notBeforeMs = Number.POSITIVE_INFINITY;
    const check = async () => {
      const isFresh = await metadata.refresh([topic]).then(
        () => true,
        () => false,
      );
      position.notBeforeMs = isFresh ? 0 : context.clock.monotonic() + RETRY_MS;
      if (!isFresh || position.version !== version || position.offset !== ask.offset || !ahead.holds(position)) return;
      if (position.topicId === undefined || position.topicId === metadata.topic(topic)?.id) this.#truncated(ask, diverging);
      else this.#refused(position, OUT_OF_RANGE);
    };
    const checking = check().finally(() => {
      this.#checks.delete(checking);
      ahead.changes.tell();
    });
    this.#checks.add(checking);
  }

  /** An unclean election: the leader's log ends before what was read of it, and other records may come to stand there. What was fetched before is still delivered, as with an offset out of range. */
  #truncated({ position, topic, partition, offset }: Ask, { epoch, endOffset }: DivergingEpoch): void {
    const { context, options } = this.#parts;
    const { group, startAt } = options;
    const to = endOffset < offset ? endOffset : offset;
    if (startAt === 'fail') {
      this.#fail(
        new TurnpikeError(
          'OFFSET_OUT_OF_RANGE',
          `${topic}/${partition}: its log was cut back to ${to}, and ${group} has read up to ${offset}: a broker without its newest records was elected leader. What was written since may stand at offsets that count as handled. Seek, or reset the group's offset to ${to}; with another consumer.startAt than "fail" reading goes on there by itself.`,
          { topic, partition, group, offset },
        ),
      );
      return;
    }
    context.logger.warn('consumer.truncated', { topic, partition, group, from: String(offset), to: String(to) });
    position.offset = to;
    position.epoch = epoch;
  }

  /** No loop asks for a partition without a leader, so no error of it would refresh the metadata. */
  #lookForLeaders(): void {
    const { context, metadata, ahead, closed } = this.#parts;
    if (this.#looking || closed.aborted) return;
    this.#looking = (async () => {
      await pause(context.clock, this.#lookAfterMs, closed);
      this.#lookAfterMs = Math.min(this.#lookAfterMs * 2, LEADER_RETRY_MS.most);
      if (!closed.aborted) await metadata.refresh().catch(() => {});
      this.#looking = undefined;
      this.ensureLoops();
      ahead.changes.tell();
    })();
  }
}

const placeOf = ({ topic, partition, offset }: Ask) => ({ topic, partition, fetchOffset: offset });
