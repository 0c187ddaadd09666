import { addOffsetsToTxnV3, addPartitionsToTxnV3, endTxnV3, initProducerIdV4, txnOffsetCommitV3 } from '@platformatic/kafka';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import type { CommitOffset, CompiledProducerOptions, LinkContext, TransactionPort } from '@turnpike/core/spi';
import { partitionKey } from './assignor.ts';
import type { Connections } from './connections.ts';
import { type GroupMember, offsetsByTopic } from './coordinator.ts';
import { brokerError, isKafkaError } from './errors.ts';
import type { Metadata } from './metadata.ts';
import { type Step, TransactionCoordinator } from './transaction-coordinator.ts';

/** Whose a batch is: the broker takes those of the newest epoch only. */
export interface TransactionalProducer {
  readonly producerId: bigint;
  readonly epoch: number;
}

/** Offsets that one member commits. */
export interface OffsetsOfMember {
  /** Asked before each try. Throws MEMBERSHIP_LOST. undefined = this link has no member of the group: they go from outside of it, unchecked. */
  readonly member: (() => GroupMember) | undefined;
  readonly offsets: readonly CommitOffset[];
}

export interface TransactionParts {
  readonly context: LinkContext;
  readonly metadata: Metadata;
  readonly connections: Connections;
  readonly options: CompiledProducerOptions;
  readonly transactionalId: string;
  /** By the group's members of this link. */
  readonly byMember: (group: string, offsets: readonly CommitOffset[]) => readonly OffsetsOfMember[];
}

type Args<Api extends { readonly createRequest: (...args: never) => unknown }> = Parameters<Api['createRequest']>;

/** A partition of the transaction. */
interface Entry {
  readonly topic: string;
  readonly partition: number;
  readonly entered: PromiseWithResolvers<void>;
  isIn: boolean;
}

class OpenTransaction {
  readonly producer: TransactionalProducer;
  readonly entries = new Map<string, Entry>();
  /** Those that the next request adds. */
  waiting: Entry[] = [];
  isAdding = false;
  readonly groups = new Set<string>();
  /** Something of it is at the coordinator, or may be: there it has to be ended. */
  begun = false;
  /** Why it can't be committed. */
  spoilt: TurnpikeError | undefined;
  /** Its commit was asked for, and has not been refused. */
  maybeCommitted = false;
  /** Its end has begun: nothing is added any more. */
  readonly over = new AbortController();

  constructor(producer: TransactionalProducer) {
    this.producer = producer;
  }
}

/** OPERATION_NOT_ATTEMPTED: another partition of the request is refused, so that none was added. */
const NOT_ATTEMPTED = 55;
/** Answers about one partition: UNKNOWN_TOPIC_OR_PARTITION, INVALID_TOPIC_EXCEPTION, TOPIC_AUTHORIZATION_FAILED. With any other the whole request is refused. */
const OF_ONE: ReadonlySet<number> = new Set([0, 3, 17, 29, NOT_ATTEMPTED]);
/** The coordinator has no such transaction of this producer. */
const NOT_THERE = ['INVALID_TXN_STATE', 'INVALID_PRODUCER_ID_MAPPING'];

/** Transactions (KIP-98), in the clients' versions of the requests: they need no right but those to the transactional id, the topics and the groups (AddPartitionsToTxn from version 4 on is the brokers').
 *  Where an answer was lost, or a batch's fate is open, the next transaction begins with a new epoch (KIP-360): nothing of this one can arrive in it. */
export class WireTransactions implements TransactionPort {
  readonly #parts: TransactionParts;
  readonly #coordinator: TransactionCoordinator;
  readonly #groups = new Map<string, TransactionCoordinator>();
  readonly #closed = new AbortController();
  #producer: TransactionalProducer | undefined;
  #open: OpenTransaction | undefined;
  #fenced: TurnpikeError | undefined;
  /** Something of this epoch may still be on its way. */
  #stale = false;

  constructor(parts: TransactionParts) {
    this.#parts = parts;
    this.#coordinator = this.#coordinatorOf('transactional id', parts.transactionalId);
  }

  /** Takes the transactional id over: who had it is fenced, and what that left open is aborted. Rejects with AUTHORIZATION_FAILED where this identity may not use it. */
  async init(): Promise<TransactionalProducer> {
    const { transactionalId, options } = this.#parts;
    const { producerId = -1n, epoch = -1 } = this.#producer ?? {};
    const answer = await this.#ask(this.#coordinator, {
      api: initProducerIdV4.api,
      args: (): Args<typeof initProducerIdV4> => [transactionalId, options.transactionTimeoutMs, producerId, epoch],
      doing: `take over the transactional id ${transactionalId}`,
    });
    this.#stale = false;
    this.#producer = { producerId: answer.producerId, epoch: answer.producerEpoch };
    return this.#producer;
  }

  async begin(): Promise<void> {
    if (this.#fenced) throw this.#fenced;
    if (this.#open) throw this.#misuse('a transaction is open; commit() or abort() it before the next');
    const producer = this.#stale || !this.#producer ? await this.init() : this.#producer;
    this.#open = new OpenTransaction(producer);
  }

  /** Whose the next batch of the partition is. undefined = the partition is not in the transaction, or none may go: `enter()` adds it, or says why not. */
  producerOf(topic: string, partition: number): TransactionalProducer | undefined {
    const open = this.#open;
    if (!open || open.spoilt || open.over.signal.aborted || this.#fenced) return undefined;
    return open.entries.get(partitionKey({ topic, partition }))?.isIn ? open.producer : undefined;
  }

  /** Adds the partition to the transaction; what comes while a request is under way goes together in the next. Rejects with the partition's error, and where no transaction is open that could be committed. */
  async enter(topic: string, partition: number): Promise<TransactionalProducer> {
    const open = this.#ready();
    const key = partitionKey({ topic, partition });
    const known = open.entries.get(key);
    const entry = known ?? { topic, partition, entered: Promise.withResolvers<void>(), isIn: false };
    if (!known) {
      open.entries.set(key, entry);
      open.waiting.push(entry);
      if (!open.isAdding) void this.#add(open);
    }
    await entry.entered.promise;
    return open.producer;
  }

  /** A batch has ended, and its place in the sequence may be taken, or not: nothing more can follow it. */
  spoil(error: TurnpikeError): void {
    this.#stale = true;
    if (this.#open) this.#open.spoilt ??= error;
  }

  /** The error, or what it means for a transactional producer: that another one has its place. */
  seen(cause: unknown): TurnpikeError {
    const { transactionalId, options } = this.#parts;
    const error = asTurnpikeError(cause, 'INTERNAL', `${transactionalId}: the transaction can't go on; report this.`);
    if (error.code !== 'PRODUCER_FENCED') return error;
    this.#fenced ??= new TurnpikeError(
      'PRODUCER_FENCED',
      `${transactionalId}: another producer has taken the transactional id, or a transaction was open for longer than ${options.transactionTimeoutMs} ms and was aborted; this producer can't go on. Close it.`,
      { ...error.facts, transactionalId, cause: error },
    );
    return this.#fenced;
  }

  async sendOffsets(group: string, offsets: readonly CommitOffset[]): Promise<void> {
    const open = this.#ready();
    if (offsets.length === 0) return;
    try {
      if (!open.groups.has(group)) await this.#addGroup(open, group);
      for (const of of this.#parts.byMember(group, offsets)) await this.#commitOffsets(open, group, of);
    } catch (error) {
      // What was made of these records must not be committed without their offsets.
      open.spoilt ??= error as TurnpikeError;
      throw error;
    }
  }

  /** Where no answer says whether it was committed: BROKER_UNAVAILABLE, and `written: "unknown"`; another commit() asks again. */
  async commit(): Promise<void> {
    const open = this.#open?.maybeCommitted ? this.#open : this.#ready();
    open.over.abort();
    if (open.begun) await this.#end(open, true).catch((error: TurnpikeError) => this.#uncommitted(open, error));
    this.#open = undefined;
  }

  async abort(): Promise<void> {
    const open = this.#open;
    if (!open) throw this.#fenced ?? this.#misuse('no transaction is open');
    open.over.abort();
    if (open.begun && !this.#fenced) await this.#end(open, false).catch((error: TurnpikeError) => this.#unaborted(open, error));
    this.#open = undefined;
    if (this.#fenced) throw this.#fenced; // Who has taken its place has aborted it.
  }

  /** What is open stays so: `abort()` it before. */
  close(): void {
    this.#closed.abort();
    this.#open?.over.abort();
  }

  #ready(): OpenTransaction {
    const open = this.#open;
    if (this.#fenced) throw this.#fenced;
    if (!open) throw this.#misuse('begin() a transaction before sending; this producer sends nothing outside of one');
    if (open.spoilt) throw this.#aborted(open.spoilt);
    if (open.over.signal.aborted) throw this.#misuse('the transaction is ending; wait for that, and begin() the next before sending');
    return open;
  }

  async #add(open: OpenTransaction): Promise<void> {
    open.isAdding = true;
    await undefined; // What goes out in one turn goes into one request.
    while (open.waiting.length > 0) {
      const entries = open.waiting;
      open.waiting = [];
      try {
        const codes = await this.#addPartitions(open, entries);
        for (const entry of entries) this.#added(open, entry, codes.get(partitionKey(entry)) ?? 0);
      } catch (error) {
        for (const entry of entries) leave(open, entry, error as TurnpikeError);
      }
    }
    open.isAdding = false;
  }

  /** Error codes by partition. */
  async #addPartitions(open: OpenTransaction, entries: readonly Entry[]): Promise<ReadonlyMap<string, number>> {
    const { transactionalId } = this.#parts;
    const { producerId, epoch: producerEpoch } = open.producer;
    const topics = [...Map.groupBy(entries, (e) => e.topic)].map(([name, of]) => ({ name, partitions: of.map((e) => e.partition) }));
    const codesOf = ({ resultsByTransaction }: { readonly resultsByTransaction: readonly AddedPartitions[] }) =>
      resultsByTransaction.flatMap(({ topicResults }) =>
        topicResults.flatMap((t) => t.resultsByPartition.map((p) => [`${t.name}/${p.partitionIndex}`, p.partitionErrorCode] as const)),
      );
    open.begun = true;
    const answer = await this.#ask(
      this.#coordinator,
      {
        api: addPartitionsToTxnV3.api,
        args: (): Args<typeof addPartitionsToTxnV3> => [[{ transactionalId, producerId, producerEpoch, verifyOnly: false, topics }]],
        doing: `add ${topics.map((t) => t.name).join(', ')} to the transaction of ${transactionalId}`,
        judge: (answer) => codesOf(answer).find(([, code]) => !OF_ONE.has(code))?.[1] ?? 0,
      },
      open.over.signal,
    );
    return new Map(codesOf(answer));
  }

  #added(open: OpenTransaction, entry: Entry, code: number): void {
    const { topic, partition, entered } = entry;
    if (code === 0) {
      entry.isIn = true;
      entered.resolve();
    } else if (code === NOT_ATTEMPTED)
      open.waiting.push(entry); // Again, without the one that is refused.
    else {
      const { transactionalId, context } = this.#parts;
      const doing = `add ${topic} to the transaction of ${transactionalId}`;
      leave(open, entry, brokerError(code, { doing, topic, partition, transactionalId, principal: context.identity.principal }));
    }
  }

  async #addGroup(open: OpenTransaction, group: string): Promise<void> {
    const { transactionalId } = this.#parts;
    const { producerId, epoch } = open.producer;
    open.begun = true;
    const doing = `add offsets of the group ${group} to the transaction of ${transactionalId}`;
    await this.#ask(
      this.#coordinator,
      { api: addOffsetsToTxnV3.api, args: (): Args<typeof addOffsetsToTxnV3> => [transactionalId, producerId, epoch, group], doing, group },
      open.over.signal,
    );
    open.groups.add(group);
  }

  async #commitOffsets(open: OpenTransaction, group: string, { member, offsets }: OffsetsOfMember): Promise<void> {
    const { transactionalId } = this.#parts;
    const { producerId, epoch } = open.producer;
    let asked: GroupMember | undefined;
    await this.#ask(
      this.#groupCoordinator(group),
      {
        api: txnOffsetCommitV3.api,
        args: (): Args<typeof txnOffsetCommitV3> => {
          asked = member?.();
          return [transactionalId, group, producerId, epoch, asked?.generation ?? -1, asked?.id ?? '', asked?.instanceId ?? null, offsetsByTopic(offsets)];
        },
        doing: `commit offsets of the group ${group} with the transaction of ${transactionalId}`,
        judge: (answer) => answer.topics.flatMap((t) => t.partitions).find((p) => p.errorCode !== 0)?.errorCode ?? 0,
        // A member goes on to the next generation while the request is under way; whether these partitions are still its own, member() tells.
        again: (error) =>
          isKafkaError(error, 'REBALANCE_IN_PROGRESS') || (isKafkaError(error, 'ILLEGAL_GENERATION') && asked?.generation !== member?.().generation),
      },
      open.over.signal,
    );
  }

  /** Idempotent: whoever was the last to ask gets the same answer again. */
  async #end(open: OpenTransaction, commits: boolean): Promise<void> {
    const { transactionalId } = this.#parts;
    const { producerId, epoch } = open.producer;
    const step: Step<Args<typeof endTxnV3>, unknown> = {
      api: endTxnV3.api,
      args: () => [transactionalId, producerId, epoch, commits],
      doing: `${commits ? 'commit' : 'abort'} the transaction of ${transactionalId}`,
    };
    try {
      await this.#ask(this.#coordinator, step);
    } finally {
      if (commits && step.maybeDone) open.maybeCommitted = true;
    }
  }

  #uncommitted(open: OpenTransaction, error: TurnpikeError): never {
    const { transactionalId } = this.#parts;
    if (isKafkaError(error, 'INVALID_TXN_STATE')) open.maybeCommitted = false; // One that was committed may be committed again.
    if (error.code === 'PRODUCER_FENCED') throw error.withWritten(open.maybeCommitted ? 'unknown' : 'no');
    if (open.maybeCommitted)
      throw new TurnpikeError(
        'BROKER_UNAVAILABLE',
        `${transactionalId}: no answer says whether the transaction was committed; commit() asks again, abort() ends it if it was not.`,
        { ...error.facts, transactionalId, cause: error, retriable: true, written: 'unknown' },
      );
    open.spoilt = error;
    throw error.retriable || isKafkaError(error, ...NOT_THERE) ? this.#aborted(error) : error.withWritten('no');
  }

  /** Throws what the caller must know. */
  #unaborted(open: OpenTransaction, error: TurnpikeError): void {
    if (error.code === 'PRODUCER_FENCED') return; // abort() tells.
    if (!isKafkaError(error, ...NOT_THERE)) throw error;
    // What was to begin it there has not arrived, and must not later.
    this.#stale = true;
    if (!open.maybeCommitted) return;
    this.#open = undefined;
    const { transactionalId } = this.#parts;
    throw new TurnpikeError(
      'BROKER_REJECTED',
      `${transactionalId}: the transaction can't be aborted: its commit, whose answer was lost, was carried out. begin() the next.`,
      {
        ...error.facts,
        transactionalId,
        cause: error,
      },
    );
  }

  async #ask<A extends unknown[], R>(coordinator: TransactionCoordinator, step: Step<A, R>, signal = this.#closed.signal): Promise<R> {
    const { context, options } = this.#parts;
    try {
      return await coordinator.ask(step, context.clock.monotonic() + options.deliveryTimeoutMs, signal);
    } catch (error) {
      throw this.seen(error);
    }
  }

  #groupCoordinator(group: string): TransactionCoordinator {
    const known = this.#groups.get(group) ?? this.#coordinatorOf('group', group);
    this.#groups.set(group, known);
    return known;
  }

  #coordinatorOf(what: 'transactional id' | 'group', name: string): TransactionCoordinator {
    const { transactionalId, ...parts } = this.#parts;
    const lost = (): void => {
      this.#stale = true;
    };
    return new TransactionCoordinator({ ...parts, lost }, what, name, transactionalId);
  }

  #aborted(cause: TurnpikeError): TurnpikeError {
    const { transactionalId } = this.#parts;
    const text = `${transactionalId}: the transaction can't be committed (${cause.code}); abort() and begin again.`;
    return new TurnpikeError('TRANSACTION_ABORTED', text, { ...cause.facts, transactionalId, cause, written: 'no' });
  }

  #misuse(text: string): TurnpikeError {
    const { transactionalId } = this.#parts;
    return new TurnpikeError('CONFIG_INVALID', `${transactionalId}: ${text}.`, { transactionalId, written: 'no' });
  }
}

type AddedPartitions = ReturnType<typeof addPartitionsToTxnV3.parseResponse>['resultsByTransaction'][number];

function leave({ entries }: OpenTransaction, entry: Entry, error: TurnpikeError): void {
  entries.delete(partitionKey(entry));
  entry.entered.reject(error);
}
