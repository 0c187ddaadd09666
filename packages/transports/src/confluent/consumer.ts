import type { LibrdKafkaError, Message } from '@confluentinc/kafka-javascript';
import { isTurnpikeError, TurnpikeError } from '@turnpike/core';
import {
  type AssignmentListener,
  type CommitOffset,
  type CompiledConsumerOptions,
  type ConsumerPort,
  type FetchedBatch,
  type LinkContext,
  pause,
  type SeekTarget,
  type TopicPartition,
} from '@turnpike/core/spi';
import { partitionKey } from '../wire/assignor.ts';
import type { Control } from '../wire/control.ts';
import { Changes } from '../wire/read-ahead.ts';
import { Commits } from './commits.ts';
import { consumerConfig } from './consumer-config.ts';
import { codeOf, KAFKA, LOCAL, libraryError, numberedError } from './errors.ts';
import { type Config, call, close, connectionConfig, keepToken, type Library, listen, open, type PartitionOffset, type RawConsumer } from './library.ts';
import { Position } from './position.ts';

/** How many records one call takes out of the library's queue. */
const TAKE = 500;
/** How often the library is asked although it tells when there is something, in ms: so it knows that the member is alive. */
const TICK_MS = 250;
/** How long everything may be held back before the library is told, in ms: what it has read ahead of a paused partition is thrown away, and fetched again. */
const HOLD_MS = 1_000;
/** How often at most the causes of trouble are looked for, in ms. */
const DIAGNOSE_MS = 2_000;
const RETRY_MS = 100;

/** A commit that the group may have moved away from; whether it has, the assignment tells. */
const MOVED: ReadonlySet<number> = new Set([
  KAFKA.ILLEGAL_GENERATION,
  KAFKA.UNKNOWN_MEMBER_ID,
  KAFKA.REBALANCE_IN_PROGRESS,
  KAFKA.FENCED_MEMBER_EPOCH,
  KAFKA.STALE_MEMBER_EPOCH,
  LOCAL.STATE,
  LOCAL.ASSIGNMENT_LOST,
]);

export interface ConsumerParts {
  readonly context: LinkContext;
  readonly control: Control;
  readonly library: Library;
  readonly options: CompiledConsumerOptions;
  readonly metadataMaxAgeMs: number;
  readonly onClosed: () => void;
}

/** A group member over librdkafka: one loop takes out what has come, rebalances among it, whether anybody polls or not. */
export class ConfluentConsumer implements ConsumerPort {
  readonly group: string;
  readonly #parts: ConsumerParts;
  readonly #positions = new Map<string, Position>();
  readonly #stop = new AbortController();
  readonly #joined = Promise.withResolvers<void>();
  readonly #commits: Commits;
  readonly #changes: Changes;
  #client: RawConsumer | undefined;
  #listener: AssignmentListener | undefined;
  #topics: readonly string[] = [];
  #refreshed: Disposable | undefined;
  #token: Disposable | undefined;
  #identityChanges: Disposable | undefined;
  /** Its client speaks with a certificate of the past. */
  #worn = false;
  #running: Promise<void> = Promise.resolve();
  /** Calls that change what the library reads don't overlap one that reads. */
  #turn: Promise<unknown> = Promise.resolve();
  #rebalances: Promise<void> = Promise.resolve();
  /** Something has come since the last look. */
  #news = false;
  /** Ends of partitions that the read under way has come to. They are told before its records. */
  #ends: PartitionOffset[] = [];
  #full = false;
  /** Monotonic ms since when everything is held back. */
  #heldSinceMs: number | undefined;
  /** What a poll rejects with: the fetch gate's refusal. */
  #refusal: TurnpikeError | undefined;
  #failure: TurnpikeError | undefined;
  #diagnosing: Promise<void> | undefined;
  #nextDiagnosis: Disposable | undefined;
  /** Something has gone wrong since its cause was last looked for. */
  #troubled = false;
  #diagnosedAtMs = Number.NEGATIVE_INFINITY;
  #closing: Promise<void> | undefined;

  constructor(parts: ConsumerParts) {
    this.#parts = parts;
    this.group = parts.options.group;
    this.#commits = new Commits(parts.context.clock);
    this.#changes = new Changes(parts.context.clock);
    this.#joined.promise.catch(() => {}); // Of interest only to who subscribes.
  }

  /** While it is a member. */
  get client(): RawConsumer | undefined {
    return this.#stop.signal.aborted ? undefined : this.#client;
  }

  async subscribe(topics: readonly string[], listener: AssignmentListener): Promise<void> {
    const { context, control } = this.#parts;
    this.#listener = listener;
    this.#topics = topics;
    // Asked first: the library would go on asking for what it is denied, and say nothing.
    await control.metadata.require(topics);
    await control.requireGroup(this.group);
    const client = this.#create();
    this.#client = client;
    await open(client, context, control);
    if (this.#stop.signal.aborted) {
      await this.#closing; // Closes it, if it was there to be closed.
      return close(client, context);
    }
    this.#begin(client);
    this.#refreshed = control.metadata.onRefresh(() => this.#lookForGone());
    this.#identityChanges = context.identity.onChange(() => {
      if (context.identity.kind === 'mtls') this.#worn = true;
    });
    this.#running = this.#run();
    await this.#joined.promise;
  }

  async poll(maxWaitMs: number, signal?: AbortSignal): Promise<readonly FetchedBatch[]> {
    // In a turn of its own: who polls on must not keep everything else from running.
    if (this.#closing) await pause(this.#parts.context.clock, 1);
    return this.#changes.poll(() => this.#take(), maxWaitMs, { poller: signal, closed: this.#stop.signal });
  }

  pause(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) {
      const position = this.#positions.get(partitionKey(tp));
      if (position) position.paused = true;
    }
  }

  resume(partitions: readonly TopicPartition[]): void {
    for (const tp of partitions) {
      const position = this.#positions.get(partitionKey(tp));
      if (position) position.paused = false;
    }
    this.#changes.tell();
  }

  async seek(tp: TopicPartition, target: SeekTarget): Promise<void> {
    const { context, control, options } = this.#parts;
    const position = this.#owned(tp);
    const ticket = ++position.seeks;
    const [found] = await control.offsets([tp], target, options.isolation === 'read_committed', options.requestTimeoutMs);
    if (!found) return;
    await this.#inTurn(async () => {
      const until = context.clock.monotonic() + options.requestTimeoutMs;
      // A later seek wins.
      while (position.seeks === ticket && this.#positions.get(partitionKey(tp)) === position && this.#client) {
        const client = this.#client;
        try {
          await call((done) => client.seek({ ...tp, offset: Number(found.offset) }, options.requestTimeoutMs, done));
          position.moved(found.offset);
          return;
        } catch (error) {
          // Assigned a moment ago, it doesn't read the partition yet.
          if (codeOf(error) !== LOCAL.STATE || context.clock.monotonic() + RETRY_MS >= until)
            throw libraryError(error as Error, { doing: `seek in ${partitionKey(tp)}`, ...tp });
          await pause(context.clock, RETRY_MS, this.#stop.signal);
        }
      }
    });
    this.#changes.tell();
  }

  async commit(offsets: readonly CommitOffset[]): Promise<void> {
    const { context, options } = this.#parts;
    const { clock, identity } = context;
    const held = offsets.map((o) => this.#owned(o));
    const until = clock.monotonic() + options.requestTimeoutMs;
    for (;;) {
      try {
        return await this.#commit(offsets, until - clock.monotonic());
      } catch (error) {
        if (isTurnpikeError(error)) throw error;
        const number = codeOf(error) ?? LOCAL.TIMED_OUT;
        const moved = MOVED.has(number);
        // Partitions that are still ours may be committed in the group's new generation.
        if (moved && clock.monotonic() + RETRY_MS < until && offsets.every((o, i) => this.#owned(o) === held[i])) {
          await pause(clock, RETRY_MS, this.#stop.signal);
          continue;
        }
        if (moved || number === KAFKA.FENCED_INSTANCE_ID || number === LOCAL.FATAL) throw this.#membershipLost(this.group);
        const [first] = offsets;
        throw numberedError(
          number,
          { doing: `commit offsets of ${this.group}`, group: this.group, principal: identity.principal, ...(first ? { topic: first.topic } : {}) },
          error,
        );
      }
    }
  }

  committed(partitions: readonly TopicPartition[]): Promise<readonly CommitOffset[]> {
    return this.#parts.control.committed(this.group, partitions);
  }

  endOffsets(partitions: readonly TopicPartition[]): Promise<readonly CommitOffset[]> {
    const { control, options } = this.#parts;
    return control.offsets(partitions, 'end', options.isolation === 'read_committed', options.requestTimeoutMs);
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= (async () => {
      this.#stop.abort();
      this.#joined.resolve();
      this.#refreshed?.[Symbol.dispose]();
      this.#token?.[Symbol.dispose]();
      this.#identityChanges?.[Symbol.dispose]();
      this.#nextDiagnosis?.[Symbol.dispose]();
      this.#changes.tell();
      await this.#running;
      await this.#turn;
      this.#positions.clear();
      if (this.#client) await close(this.#client, this.#parts.context);
      this.#commits.end(this.#membershipLost(this.group));
      const late = new AbortController();
      await Promise.race([this.#diagnosing, pause(this.#parts.context.clock, DIAGNOSE_MS, late.signal)]); // It asks brokers that may not answer.
      late.abort();
      this.#parts.onClosed();
    })();
    return this.#closing;
  }

  #create(): RawConsumer {
    const { context, library, options, metadataMaxAgeMs } = this.#parts;
    const isCurrent = () => client === this.#client;
    const config: Config = {
      ...connectionConfig(context, metadataMaxAgeMs, this.#stop.signal),
      ...consumerConfig(options),
      rebalance_cb: (error: LibrdKafkaError | undefined, partitions: readonly TopicPartition[]) => this.#rebalance(client, codeOf(error), partitions),
      offset_commit_cb: (error: LibrdKafkaError | undefined, offsets: readonly PartitionOffset[]) => this.#commits.settle(error, offsets),
      queue_non_empty_cb: () => {
        this.#news = true;
        this.#changes.tell();
      },
    };
    const client = new library.KafkaConsumer(config, { 'auto.offset.reset': options.startAt === 'fail' ? 'error' : options.startAt });
    listen(client, context, {
      trouble: () => {
        if (isCurrent()) this.#diagnose();
      },
    });
    client.on('partition.eof', (eof: PartitionOffset) => this.#ends.push(eof));
    return client;
  }

  #begin(client: RawConsumer): void {
    this.#token?.[Symbol.dispose]();
    this.#token = keepToken(client, this.#parts.context);
    client.setDefaultConsumeTimeout(0);
    client.subscribe([...this.#topics]);
  }

  /** Another client, with the certificate of now: the one at hand keeps its own for good, and gets no new connection with it. Only then: every member that leaves and
   *  comes back makes its group rebalance. As the old one can't say that it leaves, the group waits for its session to end. */
  async #renew(): Promise<void> {
    const { context, control } = this.#parts;
    const client = this.#create();
    this.#worn = false;
    await open(client, context, control);
    const old = this.#client;
    const isTaken = await this.#inTurn(async () => {
      if (this.#stop.signal.aborted) return false;
      const tps = [...this.#positions.values()].map((p) => p.tp);
      this.#positions.clear();
      this.#client = client;
      if (tps.length > 0) this.#listener?.lost(tps);
      return true;
    });
    if (!isTaken) return close(client, context);
    if (old) void close(old, context);
    this.#begin(client);
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      const client = this.#client;
      if (!client) return;
      const holding = this.#regulate(client);
      this.#news = false;
      const took = holding ? 0 : await this.#inTurn(async () => (client === this.#client ? this.#consume(client) : 0));
      if (took === 0 && !this.#news) await this.#changes.within(TICK_MS, this.#stop.signal);
    }
  }

  /** Takes out what has come, without waiting. */
  async #consume(client: RawConsumer): Promise<number> {
    const { context } = this.#parts;
    const messages = await new Promise<readonly Message[]>((resolve) =>
      client.consume(TAKE, (error, taken) => {
        if (error) this.#trouble(error);
        resolve(error ? [] : taken);
      }),
    );
    const fetchedAtMs = context.clock.now();
    for (const [key, of] of Map.groupBy(messages, partitionKey)) {
      const position = this.#positions.get(key);
      const [first] = of;
      if (!position || !first) continue; // Given up since.
      const { records, bytes } = position.push(of, fetchedAtMs);
      position.highWatermark = highWatermark(client, first);
      context.fetchGate.charge(first.topic, this.group, records, bytes);
    }
    const ends = this.#ends;
    this.#ends = [];
    for (const end of ends) this.#positions.get(partitionKey(end))?.passed(BigInt(end.offset));
    if (messages.length + ends.length > 0) this.#changes.tell();
    return messages.length;
  }

  /** Pauses at the library what mustn't come now, and resumes what may. true = nothing may, for so short a time so far that the library needn't know: nothing is taken out. */
  #regulate(client: RawConsumer): boolean {
    const { context, options } = this.#parts;
    const positions = [...this.#positions.values()];
    const queued = positions.reduce((sum, p) => sum + (p.paused ? 0 : p.queuedBytes), 0);
    this.#full = queued >= options.maxPrefetchBytes / (this.#full ? 4 : 2);
    const held = new Set(positions.filter((p) => this.#full || !this.#mayFetch(p.tp.topic)));
    const now = context.clock.monotonic();
    if (positions.length > 0 && held.size === positions.length) {
      this.#heldSinceMs ??= now;
      if (now - this.#heldSinceMs < HOLD_MS) return true;
    } else this.#heldSinceMs = undefined;
    const wanted = (p: Position) =>
      held.has(p) || (p.paused && p.queuedBytes >= Math.min(options.maxPartitionFetchBytes, options.maxPrefetchBytes / 2 / positions.length));
    this.#switch(
      positions.filter((p) => !p.stopped && wanted(p)),
      true,
      (tps) => client.pause(tps),
    );
    this.#switch(
      positions.filter((p) => p.stopped && !wanted(p)),
      false,
      (tps) => client.resume(tps),
    );
    return false;
  }

  #switch(positions: readonly Position[], stopped: boolean, tell: (tps: TopicPartition[]) => void): void {
    if (positions.length === 0) return;
    try {
      tell(positions.map((p) => p.tp));
      for (const position of positions) position.stopped = stopped;
    } catch (error) {
      this.#parts.context.logger.debug('confluent.pause_failed', { group: this.group, number: codeOf(error) });
    }
  }

  #mayFetch(topic: string): boolean {
    try {
      return this.#parts.context.fetchGate.permit(topic, this.group) <= 0;
    } catch (error) {
      this.#refusal = error as TurnpikeError;
      return false;
    }
  }

  #take(): readonly FetchedBatch[] {
    if (this.#refusal) throw this.#refusal;
    const batches = [...this.#positions.values()].flatMap((p) => p.take() ?? []);
    if (batches.length > 0) this.#changes.tell();
    return batches;
  }

  /** Called by the library, which waits for (un)assign before it goes on with the group. */
  #rebalance(client: RawConsumer, number: number | undefined, partitions: readonly TopicPartition[]): void {
    if (this.#stop.signal.aborted || client !== this.#client) {
      this.#unassign(client, partitions);
      return;
    }
    if (number === LOCAL.ASSIGN_PARTITIONS) {
      this.#rebalances = this.#rebalances.then(() => this.#inTurn(async () => this.#assign(client, partitions)));
      return;
    }
    const lost = number !== LOCAL.REVOKE_PARTITIONS || client.assignmentLost();
    this.#rebalances = this.#rebalances.then(() => this.#revoke(client, partitions, lost));
  }

  #assign(client: RawConsumer, partitions: readonly TopicPartition[]): void {
    if (this.#stop.signal.aborted) return;
    const tps = partitions.map(({ topic, partition }) => ({ topic, partition }));
    for (const tp of tps) this.#positions.set(partitionKey(tp), new Position(tp));
    // Without an offset: the library asks for the committed one, and waits for one that a transaction is about to commit.
    if (client.rebalanceProtocol() === 'COOPERATIVE') client.incrementalAssign(tps.map((tp) => ({ ...tp, offset: OFFSET_INVALID })));
    else client.assign(tps.map((tp) => ({ ...tp, offset: OFFSET_INVALID })));
    this.#listener?.assigned(tps);
    this.#joined.resolve();
    if (this.#parts.options.startAt === 'fail') void this.#requireCommitted();
  }

  async #revoke(client: RawConsumer, partitions: readonly TopicPartition[], lost: boolean): Promise<void> {
    const { context, options } = this.#parts;
    const tps = partitions.map(({ topic, partition }) => ({ topic, partition }));
    for (const tp of tps) this.#positions.get(partitionKey(tp))?.revoke();
    if (!lost && tps.length > 0) {
      const late = new AbortController();
      const drained = this.#listener?.revoking(tps).catch(() => {});
      await Promise.race([drained, pause(context.clock, options.rebalanceTimeoutMs, late.signal), this.#stopped(late.signal)]);
      late.abort();
    }
    await this.#inTurn(async () => {
      for (const tp of tps) this.#positions.delete(partitionKey(tp));
      if (lost) this.#listener?.lost(tps);
      this.#unassign(client, tps);
    });
    this.#changes.tell();
  }

  #unassign(client: RawConsumer, partitions: readonly TopicPartition[]): void {
    try {
      if (client.rebalanceProtocol() === 'EAGER') client.unassign();
      else client.incrementalUnassign(partitions.map(({ topic, partition }) => ({ topic, partition })));
    } catch (error) {
      this.#parts.context.logger.debug('confluent.unassign_failed', { group: this.group, number: codeOf(error) });
    }
  }

  /** What the library would only tell by a number: which partition has no committed offset, or one that the log doesn't have any more. */
  async #requireCommitted(cause?: LibrdKafkaError): Promise<void> {
    const tps = [...this.#positions.values()].filter((p) => p.seeks === 0).map((p) => p.tp);
    const unsought = (tp: TopicPartition) => this.#positions.get(partitionKey(tp))?.seeks === 0;
    const at = (offsets: readonly CommitOffset[], tp: TopicPartition) => offsets.find((o) => partitionKey(o) === partitionKey(tp))?.offset;
    try {
      const committed = await this.committed(tps);
      const without = tps.find((tp) => unsought(tp) && at(committed, tp) === undefined);
      if (without) return this.#fail(outOfRange(this.group, without, 'has no committed offset'));
      const { control, options } = this.#parts;
      const [first, last] = await Promise.all((['beginning', 'end'] as const).map((target) => control.offsets(tps, target, false, options.requestTimeoutMs)));
      const outside = committed.find((o) => unsought(o) && (o.offset < (at(first ?? [], o) ?? 0n) || o.offset > (at(last ?? [], o) ?? o.offset)));
      if (outside) return this.#fail(outOfRange(this.group, outside, `has committed ${outside.offset}, which the log does not have any more`));
    } catch (error) {
      if (!cause && !(error as TurnpikeError).retriable) this.#fail(error as TurnpikeError);
    }
    if (cause) this.#fail(numberedError(cause.code, { doing: `read as ${this.group}`, group: this.group }, cause));
  }

  async #commit(offsets: readonly CommitOffset[], forMs: number): Promise<void> {
    const client = this.#client;
    if (!client || this.#stop.signal.aborted) throw this.#membershipLost(this.group);
    await this.#commits.commit(client, offsets, forMs);
  }

  /** An error that came instead of records. */
  #trouble(error: LibrdKafkaError): void {
    const { context, options } = this.#parts;
    const number = error.code;
    context.logger.debug('confluent.consume_failed', { group: this.group, number });
    if (number === KAFKA.GROUP_AUTHORIZATION_FAILED || number === KAFKA.TOPIC_AUTHORIZATION_FAILED) void this.#denied(number, error);
    else if (number === LOCAL.AUTO_OFFSET_RESET || number === LOCAL.NO_OFFSET) {
      if (options.startAt === 'fail') void this.#requireCommitted(error);
    } else if (number === KAFKA.FENCED_INSTANCE_ID || number === LOCAL.FATAL) this.#fail(this.#fenced(error));
    else this.#diagnose();
  }

  /** The library doesn't say which topic it may not read. */
  async #denied(number: number, cause: LibrdKafkaError): Promise<void> {
    const { context, control } = this.#parts;
    const { principal } = context.identity;
    const [topic] = number === KAFKA.TOPIC_AUTHORIZATION_FAILED ? await control.metadata.denied('read', this.#topics).catch(() => []) : [];
    this.#fail(topic ?? numberedError(number, { doing: `read ${this.#topics.join(', ')} as ${this.group}`, group: this.group, principal }, cause));
  }

  #fenced(cause: LibrdKafkaError): TurnpikeError {
    const { instanceId } = this.#parts.options;
    const text =
      instanceId === undefined ? 'the group puts this member out for good.' : `another member has taken the instance id ${instanceId}; give each its own.`;
    return new TurnpikeError('MEMBERSHIP_LOST', `${this.group}: ${text}`, { group: this.group, cause });
  }

  /** The library tries for ever, and tells nobody why it fails: asked over wire, the cluster does. */
  #diagnose(): void {
    const { clock } = this.#parts.context;
    this.#troubled = true;
    if (this.#diagnosing || this.#nextDiagnosis || this.#stop.signal.aborted) return;
    const waitMs = Math.max(this.#diagnosedAtMs + DIAGNOSE_MS - clock.monotonic(), 0);
    this.#nextDiagnosis = clock.after(waitMs, () => {
      this.#nextDiagnosis = undefined;
      this.#diagnosedAtMs = clock.monotonic();
      this.#diagnosing = this.#lookForCause().finally(() => {
        this.#diagnosing = undefined;
        if (this.#troubled) this.#diagnose();
      });
    });
  }

  async #lookForCause(): Promise<void> {
    const { control } = this.#parts;
    this.#troubled = false;
    try {
      const refused = await control.refusal();
      if (refused) throw refused;
      await control.requireGroup(this.group);
      await control.metadata.refresh();
      if (this.#worn && !this.#stop.signal.aborted) await this.#renew();
    } catch (error) {
      const ours = error as TurnpikeError;
      // A broker that is away now may refuse when it is back, and the library may not tell again.
      if (ours.retriable) this.#troubled = true;
      else this.#fail(ours);
    }
  }

  #lookForGone(): void {
    const gone = this.#topics.map((topic) => this.#parts.control.metadata.gone(topic)).find((error) => error?.code === 'AUTHORIZATION_FAILED');
    if (gone) this.#fail(gone);
  }

  #fail(error: TurnpikeError): void {
    if (this.#failure || this.#stop.signal.aborted) return;
    this.#failure = error;
    this.#joined.reject(error);
    this.#listener?.failed(error);
  }

  #owned(tp: TopicPartition): Position {
    const position = this.#positions.get(partitionKey(tp));
    if (!position) throw this.#membershipLost(`${this.group}: ${partitionKey(tp)}`, tp);
    return position;
  }

  #membershipLost(what: string, tp?: TopicPartition): TurnpikeError {
    const place = tp ? { topic: tp.topic, partition: tp.partition } : {};
    return new TurnpikeError('MEMBERSHIP_LOST', `${what} is not this member's any more; whoever has it reads on from the last commit.`, {
      group: this.group,
      ...place,
    });
  }

  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(run);
    this.#turn = done.catch(() => {});
    return done;
  }

  #stopped(unless: AbortSignal): Promise<void> {
    return new Promise((resolve) => this.#stop.signal.addEventListener('abort', () => resolve(), { once: true, signal: unless }));
  }
}

/** rdkafka.h, RD_KAFKA_OFFSET_INVALID: read on from the commit. */
const OFFSET_INVALID = -1001;

const outOfRange = (group: string, { topic, partition }: TopicPartition, what: string) =>
  new TurnpikeError('OFFSET_OUT_OF_RANGE', `${topic}/${partition}: ${group} ${what}, and consumer.startAt is "fail".`, { topic, partition, group });

/** As the last fetch saw it. */
function highWatermark(client: RawConsumer, { topic, partition }: TopicPartition): bigint | undefined {
  try {
    return BigInt(client.getWatermarkOffsets(topic, partition).highOffset);
  } catch {
    return undefined;
  }
}
