import { describeTransactionsV0 } from '@platformatic/kafka';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type CommitOffset, type LinkContext, pause, type TransactionPort } from '@turnpike/core/spi';
import type { Transaction } from 'kafkajs';
import { Connections } from '../wire/connections.ts';
import type { Control } from '../wire/control.ts';
import { findCoordinator } from '../wire/coordinator.ts';
import { isKafkaError, type Where } from '../wire/errors.ts';
import { translateLibrary } from './errors.ts';
import type { ProducerRef } from './request.ts';
import type { Sender } from './sender.ts';

export interface TransactionParts {
  readonly control: Control;
  readonly context: LinkContext;
  readonly transactionalId: string;
  /** How long a step may take, in ms. */
  readonly timeoutMs: number;
  readonly sender: () => Sender;
  /** The next sender is a new one, which takes over the transactional id: whatever the old one has left open is aborted by that. */
  readonly renew: () => void;
}

const RETRY_MS = 50;

/** Transactions through kafkajs (KIP-98). It can't end a transaction twice, nor begin one after an end whose answer was lost, and its sequences can't be trusted after a batch whose fate is unknown: in
 *  each case a new producer of kafkajs' takes over the transactional id, which aborts what is open and starts its sequences anew. */
export class KafkajsTransaction implements TransactionPort {
  readonly #parts: TransactionParts;
  readonly #groups = new Set<string>();
  #open: Transaction | undefined;
  /** Of the last end, whose sender can't go on. */
  #distrusted = false;
  /** A commit has failed: what it was to commit may be open still. */
  #unsettled = false;
  #fenced: TurnpikeError | undefined;

  constructor(parts: TransactionParts) {
    this.#parts = parts;
  }

  /** What records are sent through. @throws TurnpikeError CONFIG_INVALID outside of a transaction. */
  get open(): Transaction {
    if (this.#open) return this.#open;
    const { transactionalId } = this.#parts;
    throw new TurnpikeError('CONFIG_INVALID', `${transactionalId}: begin() a transaction before sending; this producer sends nothing outside of one.`, {
      transactionalId,
      written: 'no',
    });
  }

  async begin(): Promise<void> {
    const { transactionalId } = this.#parts;
    if (this.#fenced) throw this.#fenced;
    if (this.#open)
      throw new TurnpikeError('CONFIG_INVALID', `${transactionalId}: a transaction is open; commit() or abort() it before the next.`, { transactionalId });
    this.#open = await this.#start();
    this.#unsettled = false;
  }

  async sendOffsets(group: string, offsets: readonly CommitOffset[]): Promise<void> {
    const { control } = this.#parts;
    const { open } = this;
    // kafkajs finds no coordinator where the group is denied, and doesn't say why.
    if (!this.#groups.has(group)) await control.requireGroup(group);
    this.#groups.add(group);
    const topics = [...Map.groupBy(offsets, (o) => o.topic)].map(([topic, of]) => ({
      topic,
      partitions: of.map((o) => ({ partition: o.partition, offset: String(o.offset), ...(o.metadata === undefined ? {} : { metadata: o.metadata }) })),
    }));
    await this.#persist({ doing: `add offsets of the group ${group} to the transaction`, group }, () => open.sendOffsets({ consumerGroupId: group, topics }));
  }

  async commit(): Promise<void> {
    const { open } = this;
    const { transactionalId, sender } = this.#parts;
    const current = sender();
    const endedBefore = current.ending;
    this.#open = undefined;
    try {
      await open.commit();
    } catch (cause) {
      const error = this.#translate(cause, { doing: 'commit the transaction' });
      const asked = current.ending === endedBefore ? undefined : current.ending;
      const committed = error.retriable && asked !== undefined && (await this.#isCommitted(asked).catch(() => false));
      this.#renew();
      if (committed) return;
      this.#unsettled = true;
      if (!error.retriable) throw error;
      throw asked === undefined
        ? new TurnpikeError(
            'TRANSACTION_ABORTED',
            `${transactionalId}: its coordinator could not be reached to commit the transaction; abort() and begin again.`,
            {
              cause: error,
              transactionalId,
              written: 'no',
            },
          )
        : new TurnpikeError(
            'BROKER_UNAVAILABLE',
            `${transactionalId}: no answer says whether the transaction was committed; read what it wrote before sending it again.`,
            {
              cause: error,
              transactionalId,
              written: 'unknown',
            },
          );
    }
    if (this.#distrusted) this.#renew();
  }

  /** The answer to the commit was lost, and perhaps not the commit: its coordinator knows (KIP-664). */
  #isCommitted({ producerId, epoch }: ProducerRef): Promise<boolean> {
    const { control, context, transactionalId, timeoutMs } = this.#parts;
    const where: Where = { doing: 'ask what became of the transaction', transactionalId };
    return this.#persist(where, async () => {
      const connections = new Connections(context, () => timeoutMs);
      try {
        const address = await findCoordinator(control.metadata, connections, 'transactional id', transactionalId, context.identity.principal);
        const { transactionStates } = await connections.call(address, 'admin', describeTransactionsV0.api, [[transactionalId]], where);
        const [state] = transactionStates;
        if (state?.producerId !== producerId || state.producerEpoch !== epoch) return false;
        // The request may still be on its way there.
        if (state.transactionState === 'Ongoing') throw new TurnpikeError('BROKER_UNAVAILABLE', 'The transaction is open.', { retriable: true });
        return /^(Prepare|Complete)Commit$/.test(state.transactionState);
      } finally {
        await connections[Symbol.asyncDispose]();
      }
    });
  }

  async abort(): Promise<void> {
    if (!this.#open && this.#unsettled) {
      this.#unsettled = false;
      await this.#takeOver();
      return;
    }
    const { open } = this;
    this.#open = undefined;
    const aborted = await open.abort().then(
      () => undefined,
      (cause: unknown) => this.#translate(cause, { doing: 'abort the transaction' }),
    );
    if (aborted === undefined && !this.#distrusted) return;
    this.#renew();
    if (aborted === undefined) return;
    if (!aborted.retriable) throw aborted;
    await this.#takeOver();
  }

  /** Whoever takes over the transactional id aborts what is open under it; left to its timeout it would hold up all who read committed records. */
  async #takeOver(): Promise<void> {
    await (await this.#start()).abort().catch(() => this.#renew());
  }

  /** A batch of it failed. */
  spoilt(error: TurnpikeError): void {
    if (error.code === 'PRODUCER_FENCED') this.#fenced ??= error;
  }

  /** The sequences of the sender may be others than the broker's: this transaction is its last. */
  distrust(): void {
    this.#distrusted = true;
  }

  #renew(): void {
    this.#distrusted = false;
    this.#parts.renew();
  }

  #start(): Promise<Transaction> {
    const { control, transactionalId, sender } = this.#parts;
    return this.#persist({ doing: 'begin a transaction' }, async () => {
      await control.requireTransactionalId(transactionalId);
      const current = sender();
      await current.ready();
      return current.producer.transaction();
    });
  }

  /** Again and again, while the error may pass. */
  async #persist<T>(where: Where, step: () => Promise<T>): Promise<T> {
    const { context, timeoutMs } = this.#parts;
    const until = context.clock.monotonic() + timeoutMs;
    for (;;) {
      try {
        return await step();
      } catch (cause) {
        const error = this.#translate(cause, where);
        const passes = error.retriable || isKafkaError(error, 'CONCURRENT_TRANSACTIONS');
        if (!passes || context.clock.monotonic() + RETRY_MS >= until) throw error;
        await pause(context.clock, RETRY_MS);
      }
    }
  }

  #translate(cause: unknown, where: Where): TurnpikeError {
    const { context, transactionalId } = this.#parts;
    const error = asTurnpikeError(translateLibrary(cause, { ...where, transactionalId, principal: context.identity.principal }), 'INTERNAL', where.doing);
    this.spoilt(error);
    return error;
  }
}
