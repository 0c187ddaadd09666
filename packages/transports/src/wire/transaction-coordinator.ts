import type { API } from '@platformatic/kafka';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type LinkContext, pause } from '@turnpike/core/spi';
import type { Connections } from './connections.ts';
import { CoordinatorAddress, findCoordinator } from './coordinator.ts';
import { brokerError, isKafkaError, responseIn, type Where } from './errors.ts';
import type { Metadata } from './metadata.ts';

const BACKOFF_MS = 100;
/** The markers of the transaction before are being written: that is a matter of milliseconds. */
const CONCURRENT_BACKOFF_MS = 20;

export interface CoordinatorParts {
  readonly context: LinkContext;
  readonly metadata: Metadata;
  readonly connections: Connections;
  /** A request has gone of which nobody knows whether it arrived, or will. */
  readonly lost: () => void;
}

/** One step of a transaction, asked for again while its error may pass. */
export interface Step<Args extends unknown[], R> {
  readonly api: API<Args, R>;
  /** Anew for each try. */
  readonly args: () => Args;
  /** For the message: "end the transaction". */
  readonly doing: string;
  /** Whose offsets it is about, where the group is not the one that is asked. */
  readonly group?: string;
  /** The error code that an answer with several stands for: 0 = the answer is good, whatever single parts of it say. */
  readonly judge?: (answer: R) => number;
  /** Whether another try may have another end, beyond what Kafka calls retriable. */
  readonly again?: (error: TurnpikeError) => boolean;
  /** A try may have been carried out, though no answer says so. */
  maybeDone?: boolean;
}

/** The broker that keeps a transactional id, or a group whose offsets go with a transaction: found, and found again when it has moved. */
export class TransactionCoordinator {
  readonly #parts: CoordinatorParts;
  readonly #facts: Pick<Where, 'transactionalId' | 'group' | 'principal'>;
  readonly #address: CoordinatorAddress;

  constructor(parts: CoordinatorParts, what: 'transactional id' | 'group', name: string, transactionalId: string) {
    const { principal } = parts.context.identity;
    this.#parts = parts;
    this.#address = new CoordinatorAddress(() => findCoordinator(parts.metadata, parts.connections, what, name, principal));
    this.#facts = { transactionalId, principal, ...(what === 'group' ? { group: name } : {}) };
  }

  /** Rejects with our error: with one that is retriable where the deadline (monotonic ms) or the signal came first. */
  async ask<Args extends unknown[], R>(step: Step<Args, R>, until: number, signal: AbortSignal): Promise<R> {
    const { clock } = this.#parts.context;
    const where: Where = { doing: step.doing, ...this.#facts, ...(step.group === undefined ? {} : { group: step.group }) };
    for (;;) {
      if (signal.aborted) throw new TurnpikeError('ABORTED', `It ended before there was an answer: ${step.doing}.`, this.#facts);
      try {
        return await this.#try(step, until, where);
      } catch (cause) {
        const error = asTurnpikeError(cause, 'INTERNAL', step.doing);
        this.#address.failed(error);
        const backoffMs = isKafkaError(error, 'CONCURRENT_TRANSACTIONS') ? CONCURRENT_BACKOFF_MS : BACKOFF_MS;
        const passes = error.retriable || step.again?.(error) === true;
        if (!passes || signal.aborted || clock.monotonic() + backoffMs >= until) throw error;
        await pause(clock, backoffMs, signal);
      }
    }
  }

  async #try<Args extends unknown[], R>(step: Step<Args, R>, until: number, where: Where): Promise<R> {
    const { connections } = this.#parts;
    const address = await this.#before(until, this.#address.get(), where);
    const connection = await this.#before(until, connections.get(address, 'offsets', where), where);
    const args = step.args();
    try {
      return await this.#before(until, connections.request(connection, step.api, args, where), where);
    } catch (cause) {
      const partly = step.judge && responseIn<R>(cause);
      const code = partly === undefined ? undefined : step.judge?.(partly);
      if (partly !== undefined && code === 0) return partly;
      const error = code === undefined ? asTurnpikeError(cause, 'INTERNAL', step.doing) : brokerError(code, where);
      if (error.facts.kafkaError === undefined) this.#parts.lost();
      // The coordinator may have written down what it calls a passing failure, and go by it later; not after these two.
      if (error.retriable && !isKafkaError(error, 'CONCURRENT_TRANSACTIONS', 'COORDINATOR_LOAD_IN_PROGRESS')) step.maybeDone = true;
      throw error;
    }
  }

  async #before<T>(until: number, work: Promise<T>, { doing, ...facts }: Where): Promise<T> {
    const { clock } = this.#parts.context;
    const late = Promise.withResolvers<never>();
    const timer = clock.after(
      Math.max(until - clock.monotonic(), 0),
      () => late.reject(new TurnpikeError('BROKER_UNAVAILABLE', `No coordinator has answered in time to ${doing}.`, { ...facts, retriable: true })),
      { holds: true },
    );
    try {
      return await Promise.race([work, late.promise]);
    } finally {
      timer[Symbol.dispose]();
    }
  }
}
