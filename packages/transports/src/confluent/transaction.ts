import type { LibrdKafkaError } from '@confluentinc/kafka-javascript';
import { TurnpikeError } from '@turnpike/core';
import { type CommitOffset, type CompiledProducerOptions, type LinkContext, pause, type TransactionPort } from '@turnpike/core/spi';
import type { Control } from '../wire/control.ts';
import { codeOf, KAFKA, LOCAL, libraryError } from './errors.ts';
import { call, close, connectionConfig, type Done, type Library, listen, open, type RawConsumer, type RawProducer } from './library.ts';

const RETRY_MS = 100;
/** How long the abort of what is open at the close may take, in ms. */
const ABORT_MS = 3_000;
const FENCED: ReadonlySet<number> = new Set([LOCAL.FENCED, KAFKA.INVALID_PRODUCER_EPOCH, KAFKA.PRODUCER_FENCED]);

interface Parts {
  readonly context: LinkContext;
  readonly control: Control;
  readonly library: Library;
  readonly options: CompiledProducerOptions;
  readonly metadataMaxAgeMs: number;
  readonly memberOf: (group: string) => RawConsumer | undefined;
  readonly client: () => RawProducer;
  /** Another client where the one at hand is worn; resolves with whether there is. */
  readonly renew: () => Promise<boolean>;
  readonly transactionalId: string;
  readonly closing: AbortSignal;
}

/** librdkafka's transactions, in errors of ours. */
export class Transactions implements TransactionPort, AsyncDisposable {
  readonly #parts: Parts;
  /** Clients that stand for groups of which this link has no member. */
  readonly #stands = new Map<string, Promise<RawConsumer>>();
  /** It has its producer id. */
  #begun = false;
  #open = false;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** The first fences who had the transactional id before, and ends what it left open. */
  async begin(): Promise<void> {
    // Only after a transaction that has ended: what is fenced must not come back and fence the other.
    if (!this.#open && (await this.#parts.renew())) this.#begun = false;
    if (!this.#begun) await this.#do('take over the transactional id', (ms, done) => this.#parts.client().initTransactions(ms, done));
    this.#begun = true;
    await this.#do('begin a transaction', (_ms, done) => this.#parts.client().beginTransaction(done));
    this.#open = true;
  }

  /** The error number at which the open transaction has failed; undefined = it has not. Asked by a step that a failed transaction refuses with it, and any open one refuses. */
  async failure(): Promise<number | undefined> {
    if (!this.#open) return undefined;
    const number = await call((done) => this.#parts.client().beginTransaction(done)).then(() => undefined, codeOf);
    return number === LOCAL.STATE ? undefined : number;
  }

  async sendOffsets(group: string, offsets: readonly CommitOffset[]): Promise<void> {
    if (offsets.length === 0) return;
    const { client, memberOf } = this.#parts;
    const member = memberOf(group) ?? (await this.#standFor(group));
    const raw = offsets.map(({ topic, partition, offset, leaderEpoch, metadata }) => ({
      topic,
      partition,
      offset: Number(offset),
      ...(leaderEpoch === undefined ? {} : { leaderEpoch }),
      ...(metadata === undefined ? {} : { metadata }),
    }));
    await this.#do(`commit offsets of ${group} with the transaction`, (ms, done) => client().sendOffsetsToTransaction(raw, member, ms, done), group);
  }

  async commit(): Promise<void> {
    await this.#do('commit the transaction', (ms, done) => this.#parts.client().commitTransaction(ms, done));
    this.#open = false;
  }

  async abort(): Promise<void> {
    await this.#do('abort the transaction', (ms, done) => this.#parts.client().abortTransaction(ms, done));
    this.#open = false;
  }

  /** What is open is aborted, as far as the broker is there: nobody has to wait for its timeout. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#open) await call((done) => this.#parts.client().abortTransaction(ABORT_MS, done)).catch(() => {});
    const stands = await Promise.allSettled(this.#stands.values());
    await Promise.all(stands.map((stand) => (stand.status === 'fulfilled' ? close(stand.value, this.#parts.context) : undefined)));
  }

  /** The library calls a step that may be tried again retriable; it goes on where it was. */
  async #do(doing: string, start: (ms: number, done: Done) => void, group?: string): Promise<void> {
    const { context, options, closing, transactionalId } = this.#parts;
    const { clock, identity } = context;
    const until = clock.monotonic() + options.deliveryTimeoutMs;
    for (;;) {
      try {
        const leftMs = Math.max(until - clock.monotonic(), 100);
        return await call((done) => start(Math.ceil(Math.min(options.requestTimeoutMs, leftMs)), done));
      } catch (error) {
        const { isRetriable, isTxnRequiresAbort } = error as LibrdKafkaError;
        if (isRetriable && !isTxnRequiresAbort && clock.monotonic() + RETRY_MS < until && !closing.aborted) {
          await pause(clock, RETRY_MS, closing);
          continue;
        }
        const facts = { transactionalId, principal: identity.principal, ...(group === undefined ? {} : { group }) };
        throw this.#translated(error as LibrdKafkaError, { doing: `${doing} of ${transactionalId}`, ...facts });
      }
    }
  }

  #translated(
    cause: LibrdKafkaError,
    where: { readonly doing: string; readonly transactionalId: string; readonly principal: string; readonly group?: string },
  ): TurnpikeError {
    const { doing, ...facts } = where;
    if (FENCED.has(codeOf(cause) ?? 0) || cause.isFatal)
      return new TurnpikeError('PRODUCER_FENCED', `${doing}: another producer has taken the transactional id; this one can't go on. Close it.`, {
        ...facts,
        cause,
      });
    const error = libraryError(cause, where);
    if (error.code === 'AUTHORIZATION_FAILED' || !cause.isTxnRequiresAbort) return error;
    return new TurnpikeError('TRANSACTION_ABORTED', `${doing}: it can't be committed any more (${error.code}); abort() and begin again.`, {
      ...facts,
      cause: error,
    });
  }

  /** Offsets go with a group's name and, of a member, its generation. The library takes both from a consumer: one that never joins has no generation, as before KIP-447. */
  #standFor(group: string): Promise<RawConsumer> {
    const { context, control, library, metadataMaxAgeMs, closing } = this.#parts;
    const found = this.#stands.get(group);
    if (found) return found;
    const opened = (async () => {
      await control.requireGroup(group);
      const client = new library.KafkaConsumer({ ...connectionConfig(context, metadataMaxAgeMs, closing), 'group.id': group, 'enable.auto.commit': false }, {});
      listen(client, context, { trouble: () => {} });
      await open(client, context, control);
      return client;
    })();
    this.#stands.set(group, opened);
    opened.catch(() => this.#stands.delete(group));
    return opened;
  }
}
