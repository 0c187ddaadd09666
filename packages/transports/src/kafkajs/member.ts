import { heartbeatV4, leaveGroupV5 } from '@platformatic/kafka';
import { TurnpikeError } from '@turnpike/core';
import { type AssignmentListener, type CompiledConsumerOptions, type LinkContext, pause, type TopicPartition } from '@turnpike/core/spi';
import type { Consumer } from 'kafkajs';
import { partitionKey } from '../wire/assignor.ts';
import type { Control } from '../wire/control.ts';
import type { Coordinator } from '../wire/coordinator.ts';
import { brokerError, isKafkaError } from '../wire/errors.ts';
import type { LibraryFetch } from './answers.ts';
import { translateLibrary } from './errors.ts';
import { LibraryClient, type LibraryModule } from './library.ts';
import { joiningMember, type LibraryRequest, type MemberRef, syncingMember } from './request.ts';

const BACKOFF_MS = 300;
/** How long leaving may take at close, in ms: a broker that is gone finds out by the session's end. */
const LEAVE_MS = 3_000;
/** kafkajs asks each broker anew at least so often, in ms, and looks only then whether a partition was paused, resumed or sought. */
const MAX_FETCH_WAIT_MS = 250;
/** How old kafkajs' own knowledge of leaders may grow, in ms: only so does it find one for a partition that had none. */
const MAX_METADATA_AGE_MS = 5_000;
/** kafkajs has not fetched for so long, in ms: it may be waiting for something that never comes. */
const STALL_MS = 3_000;

export interface MemberListener extends AssignmentListener {
  /** A broker's answer for a partition: records, or an error. What isn't moved on from by a seek() is fetched again. */
  fetched(fetch: LibraryFetch): void;
}

export interface MemberParts {
  readonly library: LibraryModule;
  readonly context: LinkContext;
  readonly control: Control;
  /** Of the group, on connections of the consumer's own. */
  readonly coordinator: Coordinator;
  readonly addresses: () => readonly string[];
  readonly brokerAt: (host: string, port: number) => number | undefined;
  readonly options: CompiledConsumerOptions;
  readonly metadataMaxAgeMs: number;
  readonly topics: readonly string[];
  readonly listener: MemberListener;
}

/** One consumer of kafkajs', from its start to its end. */
interface Session {
  readonly topics: readonly string[];
  readonly client: LibraryClient;
  readonly consumer: Consumer;
  /** The member and generation that it takes part as, once the broker has said so. */
  syncing: MemberRef | undefined;
  joining: string;
  /** Monotonic ms. */
  fetchedAt: number;
}

/** A member of a classic group through kafkajs, which rebalances eagerly: all partitions are given up, and then some come back.
 *
 *  kafkajs tells nobody before it joins again. But it writes to sockets of ours: its request to join (or to leave) is held there until what was handed out is handled and committed, while heartbeats go on. The broker takes commits
 *  of the old generation for as long as it waits for its members to join. So nothing is lost, and nothing comes twice but what a handler has not finished within the drain's deadline, or of a member that the broker
 *  had put out of the group already.
 *
 *  After a crash of kafkajs, or when a topic goes away, for which it would join again and again, another consumer of it takes over. */
export class GroupMember {
  readonly #parts: MemberParts;
  readonly #owned = new Map<string, TopicPartition>();
  readonly #closing = new AbortController();
  readonly #joined = Promise.withResolvers<void>();
  #session: Session | undefined;
  #member: MemberRef = { id: '', generation: -1 };
  #revoking: Promise<void> | undefined;
  #changing: Promise<void> | undefined;
  #watch: Disposable | undefined;
  #refreshed: Disposable | undefined;
  #startedFetchAtMs = 0;
  #diagnosing = false;
  /** It has failed. */
  #over = false;

  constructor(parts: MemberParts) {
    this.#parts = parts;
    this.#joined.promise.catch(() => {});
  }

  /** Resolves with the first assignment. Rejects where the broker refuses the group. */
  start(): Promise<void> {
    this.#refreshed = this.#parts.control.metadata.onRefresh(() => this.#topicsMayHaveChanged());
    this.#scheduleWatch();
    this.#change(() => this.#open(this.#parts.topics));
    return this.#joined.promise;
  }

  member(): MemberRef {
    return this.#member;
  }

  owns(tp: TopicPartition): boolean {
    return this.#owned.has(partitionKey(tp));
  }

  /** Wall clock, ms: when kafkajs last sent a fetch. */
  get startedFetchAtMs(): number {
    return this.#startedFetchAtMs;
  }

  pause(tp: TopicPartition): void {
    this.#withConsumer((consumer) => consumer.pause([{ topic: tp.topic, partitions: [tp.partition] }]));
  }

  resume(tp: TopicPartition): void {
    this.#withConsumer((consumer) => consumer.resume([{ topic: tp.topic, partitions: [tp.partition] }]));
  }

  seek(tp: TopicPartition, offset: bigint): void {
    this.#withConsumer((consumer) => consumer.seek({ ...tp, offset: String(offset) }));
  }

  /** Leaves the group, so that the others need not wait for the session's end, and ends kafkajs. In bounded time. */
  async leave(): Promise<void> {
    const { group } = this.#parts.options;
    this.#closing.abort();
    this.#watch?.[Symbol.dispose]();
    this.#refreshed?.[Symbol.dispose]();
    this.#joined.reject(new TurnpikeError('CLOSED', `${group}: the consumer was closed while it joined.`, { group })); // No effect once joined.
    await this.#close();
    await this.#within(LEAVE_MS, this.#changing);
  }

  async #open(topics: readonly string[]): Promise<void> {
    const { library, context, addresses, brokerAt, options, metadataMaxAgeMs } = this.#parts;
    if (this.#closing.signal.aborted || this.#over || topics.length === 0) return;
    const client = new LibraryClient({
      library,
      context,
      addresses,
      requestTimeoutMs: options.requestTimeoutMs,
      intercept: (request) => (this.#session === session ? this.#intercept(session, request) : undefined),
      answers: {
        onFetched: (fetched) => {
          if (this.#session === session) for (const fetch of fetched) this.#parts.listener.fetched(fetch);
        },
        onHidden: (topic, errorCode) => {
          if (this.#session === session) this.#hidden(session, topic, errorCode);
        },
      },
      brokerAt,
    });
    const consumer = client.kafka.consumer({
      groupId: options.group,
      sessionTimeout: options.sessionTimeoutMs,
      rebalanceTimeout: options.rebalanceTimeoutMs,
      heartbeatInterval: options.heartbeatIntervalMs,
      maxBytesPerPartition: options.maxPartitionFetchBytes,
      minBytes: 1,
      maxBytes: Math.min(options.maxFetchBytes, options.maxPrefetchBytes),
      maxWaitTimeInMs: Math.max(1, Math.min(options.fetchWaitMs, options.heartbeatIntervalMs, MAX_FETCH_WAIT_MS)),
      metadataMaxAge: Math.min(metadataMaxAgeMs, MAX_METADATA_AGE_MS),
      allowAutoTopicCreation: false,
      readUncommitted: options.isolation === 'read_uncommitted',
      // kafkajs counts failures over all of its life: with a bound it would end by and by. What doesn't pass ends it at once.
      retry: { retries: Number.MAX_SAFE_INTEGER, initialRetryTime: 100, maxRetryTime: 1_000, restartOnFailure: async () => false },
    });
    const session: Session = { topics, client, consumer, syncing: undefined, joining: '', fetchedAt: context.clock.monotonic() };
    this.#session = session;
    const mine = <T>(f: (payload: T) => void) => {
      return ({ payload }: { readonly payload: T }) => {
        if (this.#session === session && !this.#closing.signal.aborted) f(payload);
      };
    };
    const { GROUP_JOIN, CRASH, FETCH_START, FETCH } = consumer.events;
    consumer.on(
      GROUP_JOIN,
      mine(({ memberAssignment }) => this.#assigned(session, memberAssignment)),
    );
    consumer.on(
      CRASH,
      mine(({ error }) => this.#change(() => this.#crashed(error))),
    );
    consumer.on(
      FETCH_START,
      mine(() => (this.#startedFetchAtMs = context.clock.now())),
    );
    consumer.on(
      FETCH,
      mine(() => (session.fetchedAt = context.clock.monotonic())),
    );
    try {
      await consumer.connect();
      await consumer.subscribe({ topics: [...topics], fromBeginning: options.startAt !== 'latest' });
      // Not awaited: joining waits for the other members, and a crash is told by its event.
      consumer
        // By the time a batch would come here its records have been taken from the broker's answer, and it is passed over by a seek.
        .run({ autoCommit: false, eachBatchAutoResolve: false, eachBatch: async () => {} })
        .catch((error: unknown) => this.#change(() => this.#crashed(error)));
    } catch (error) {
      this.#change(() => this.#crashed(error));
    }
  }

  #intercept(session: Session, request: LibraryRequest): Promise<void> | undefined {
    if (request.api === 'syncGroup') session.syncing = syncingMember(request);
    else if (request.api === 'joinGroup') {
      session.joining = joiningMember(request);
      if (this.#owned.size === 0) return undefined;
      // It asks for a new id: the broker doesn't know the old one any more.
      if (session.joining === '') this.#lose();
      else return this.#revoke();
    } else if (request.api === 'leaveGroup' && this.#owned.size > 0) return this.#revoke();
    return undefined;
  }

  #assigned(session: Session, assignment: Readonly<Record<string, readonly number[]>>): void {
    this.#lose(); // None is left after a round that has gone through #intercept().
    this.#member = session.syncing ?? this.#member;
    session.fetchedAt = this.#parts.context.clock.monotonic();
    const partitions = Object.entries(assignment).flatMap(([topic, of]) => of.map((partition) => ({ topic, partition })));
    for (const tp of partitions) this.#owned.set(partitionKey(tp), tp);
    this.#joined.resolve();
    if (partitions.length > 0) this.#parts.listener.assigned(partitions);
  }

  #revoke(): Promise<void> {
    this.#revoking ??= (async () => {
      const { context, listener, options } = this.#parts;
      const drained = new AbortController();
      void this.#beat(drained.signal);
      await Promise.race([listener.revoking([...this.#owned.values()]).catch(() => {}), pause(context.clock, options.rebalanceTimeoutMs, drained.signal)]);
      drained.abort();
      this.#owned.clear();
      this.#revoking = undefined;
    })();
    return this.#revoking;
  }

  /** kafkajs sends none while its request to join is held. */
  async #beat(done: AbortSignal): Promise<void> {
    const { context, coordinator, options } = this.#parts;
    for (;;) {
      await pause(context.clock, options.heartbeatIntervalMs, done);
      if (done.aborted) return;
      const args: Parameters<typeof heartbeatV4.createRequest> = [options.group, this.#member.generation, this.#member.id, null];
      try {
        await coordinator.call('offsets', heartbeatV4.api, args, `stay in the group ${options.group}`);
      } catch (error) {
        if (!isKafkaError(error as TurnpikeError, 'UNKNOWN_MEMBER_ID', 'ILLEGAL_GENERATION')) continue;
        // Others have the partitions already: handlers that still drain hear of it now.
        return this.#lose();
      }
    }
  }

  #lose(): void {
    const lost = [...this.#owned.values()];
    this.#owned.clear();
    if (lost.length > 0) this.#parts.listener.lost(lost);
  }

  async #crashed(cause: unknown): Promise<void> {
    const { context, options, topics } = this.#parts;
    const { group } = options;
    const facts = topics.length === 1 && topics[0] !== undefined ? { group, topic: topics[0] } : { group };
    const error = await this.#why(translateLibrary(cause, { doing: `take part in the group ${group}`, ...facts, principal: context.identity.principal }));
    if (!error.retriable) {
      await this.#close();
      this.#fail(error);
      return;
    }
    context.logger.debug('consumer.library_crashed', { group, message: error.message });
    await this.#untilReachable();
    await this.#close();
    await this.#open(this.#present());
  }

  /** The partitions are still ours, as long as the broker waits for a heartbeat: what is in hand can be committed when it is there again. */
  async #untilReachable(): Promise<void> {
    const { context, control, options } = this.#parts;
    const expires = context.clock.monotonic() + options.sessionTimeoutMs;
    for (;;) {
      await pause(context.clock, BACKOFF_MS, this.#closing.signal);
      if (this.#closing.signal.aborted) return;
      const error = await control.requireGroup(options.group).then(
        () => undefined,
        (e: TurnpikeError) => e,
      );
      if (!error?.retriable) return;
      if (context.clock.monotonic() > expires) this.#lose();
    }
  }

  #fail(error: TurnpikeError): void {
    if (this.#closing.signal.aborted) return;
    this.#over = true;
    this.#watch?.[Symbol.dispose]();
    this.#refreshed?.[Symbol.dispose]();
    this.#joined.reject(error);
    this.#parts.listener.failed(error);
  }

  /** Asks over wire where kafkajs masks the cause, or waits for ever. */
  async #why(error: TurnpikeError): Promise<TurnpikeError> {
    if (error.facts.kafkaError !== undefined && error.code !== 'AUTHENTICATION_FAILED') return error;
    const { control, options, topics } = this.#parts;
    const refusal = await control.refusal().catch(() => undefined);
    if (refusal) return refusal;
    const denied = await control.requireGroup(options.group).then(
      () => undefined,
      (e: TurnpikeError) => e,
    );
    if (denied && !denied.retriable) return denied;
    const errors = await control.metadata.refresh(topics).catch(() => undefined);
    return [...(errors?.values() ?? [])].find((e) => e.code === 'AUTHORIZATION_FAILED') ?? error;
  }

  /** Drains what is owned while the old membership stands, and ends kafkajs. */
  async #close(): Promise<void> {
    const session = this.#session;
    if (!session) return;
    if (this.#owned.size > 0 && !this.#closing.signal.aborted) await this.#revoke();
    this.#session = undefined;
    const { coordinator, options } = this.#parts;
    const memberId = session.joining !== '' ? session.joining : this.#member.id;
    // Its loops end as their requests fail; it sends nothing any more.
    void session.consumer.disconnect().catch(() => {});
    session.client[Symbol.dispose]();
    this.#owned.clear();
    if (memberId === '') return;
    // Until the session's end all would wait for a member that has only gone.
    const args = (): Parameters<typeof leaveGroupV5.createRequest> => [options.group, [{ memberId, reason: 'the consumer is closed' }]];
    const left = coordinator.persist('offsets', leaveGroupV5.api, args, { doing: `leave the group ${options.group}`, forMs: LEAVE_MS }).catch(() => {});
    await this.#within(LEAVE_MS, left);
  }

  async #within(ms: number, work: Promise<unknown> | undefined): Promise<void> {
    const done = new AbortController();
    await Promise.race([work, pause(this.#parts.context.clock, ms, done.signal)]);
    done.abort();
  }

  /** One after another. */
  #change(step: () => Promise<void>): void {
    this.#changing = (this.#changing ?? Promise.resolve()).then(step).catch((error: unknown) => {
      this.#fail(translateLibrary(error, { doing: `take part in the group ${this.#parts.options.group}` }));
    });
  }

  #present(): readonly string[] {
    const { control, topics } = this.#parts;
    return topics.filter((t) => control.metadata.topic(t) !== undefined);
  }

  #hidden(session: Session, topic: string, errorCode: number): void {
    const { context, control, options } = this.#parts;
    const error = brokerError(errorCode, { doing: `consume ${topic}`, topic, group: options.group, principal: context.identity.principal });
    if (error.retriable) void control.metadata.refresh([topic]).catch(() => {});
    else
      this.#change(async () => {
        if (this.#session !== session) return;
        await this.#close();
        this.#fail(error);
      });
  }

  /** Of a topic that is gone kafkajs asks the leaders over and over, and rejoins the group for it: it goes on without that, until it is there again. */
  #topicsMayHaveChanged(): void {
    const present = this.#present();
    if (this.#session && present.join() === this.#session.topics.join()) return;
    this.#change(async () => {
      const topics = this.#present();
      if (this.#closing.signal.aborted || topics.join() === (this.#session?.topics ?? []).join()) return;
      await this.#close();
      await this.#open(topics);
    });
  }

  #scheduleWatch(): void {
    const { clock } = this.#parts.context;
    this.#watch = clock.after(STALL_MS, () => {
      const session = this.#session;
      if (session && clock.monotonic() - session.fetchedAt > STALL_MS && !this.#diagnosing) void this.#diagnose(session);
      if (!this.#closing.signal.aborted) this.#scheduleWatch();
    });
  }

  /** kafkajs tries again for ever, and says nothing: whether it can come to anything, the brokers know. */
  async #diagnose(session: Session): Promise<void> {
    const { control, topics, options } = this.#parts;
    this.#diagnosing = true;
    try {
      const why = await this.#why(new TurnpikeError('BROKER_UNAVAILABLE', `${options.group}: kafkajs has not fetched for a while.`, { retriable: true }));
      await control.metadata.refresh(topics).catch(() => {});
      if (!why.retriable && this.#session === session)
        this.#change(async () => {
          await this.#close();
          this.#fail(why);
        });
    } finally {
      this.#diagnosing = false;
    }
  }

  #withConsumer(f: (consumer: Consumer) => void): void {
    if (this.#session && this.#owned.size > 0) f(this.#session.consumer);
  }
}
