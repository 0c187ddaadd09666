import type { LibrdKafkaError } from '@confluentinc/kafka-javascript';
import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import {
  type BufferedRecord,
  type CompiledProducerOptions,
  type LinkContext,
  type ProduceBatch,
  type ProduceDriver,
  type ProduceOutcome,
  pause,
  type TransactionPort,
} from '@turnpike/core/spi';
import type { Control } from '../wire/control.ts';
import { KAFKA, LOCAL, numberedError } from './errors.ts';
import { cutOff, EMPTY, toRaw } from './headers.ts';
import { call, close, connectionConfig, type DeliveryReport, keepToken, type Library, listen, open, type RawConsumer, type RawProducer } from './library.ts';
import { Transactions } from './transaction.ts';

/** How long a flush holds its lane where a partition of it is in trouble, in ms: the others of its leader go on without it. */
const LANE_MS = 1_000;
const RETRY_MS = 100;
/** How long the library takes a flush for one, in ms: its threads have looked by then. What it misses goes when it has lingered. */
const FLUSH_MS = 5;
/** How often at most a refused identity is looked for while records wait, in ms. */
const DIAGNOSE_MS = 1_500;
const MOST_RENEWALS = 3;
/** Kafka's refusals of a record as such, or of who sends it: whatever is refused so was not written by this attempt. */
const REFUSALS: ReadonlySet<number> = new Set([
  KAFKA.MESSAGE_TOO_LARGE,
  18, // RECORD_LIST_TOO_LARGE
  KAFKA.TOPIC_AUTHORIZATION_FAILED,
  31, // CLUSTER_AUTHORIZATION_FAILED
  53, // TRANSACTIONAL_ID_AUTHORIZATION_FAILED
  32, // INVALID_TIMESTAMP
  KAFKA.INVALID_RECORD,
]);
/** The library's own, of records that never left it. */
const NEVER_SENT: ReadonlySet<number> = new Set([LOCAL.UNKNOWN_PARTITION, LOCAL.UNKNOWN_TOPIC, LOCAL.QUEUE_FULL, LOCAL.PURGE_QUEUE, LOCAL.STATE]);

/** What the library remembers of a topic and a cluster may have changed. */
const STALE: ReadonlySet<number> = new Set([LOCAL.UNKNOWN_PARTITION, LOCAL.UNKNOWN_TOPIC, KAFKA.UNKNOWN_TOPIC_OR_PARTITION, KAFKA.TOPIC_AUTHORIZATION_FAILED]);
const GIVEN_UP: ReadonlySet<number> = new Set([LOCAL.FATAL, LOCAL.PURGE_QUEUE, LOCAL.PURGE_INFLIGHT]);
/** Of records of a transaction that has failed: nobody will read them. */
const ENDED: ReadonlySet<number> = new Set([LOCAL.PURGE_QUEUE, LOCAL.PURGE_INFLIGHT, LOCAL.STATE, LOCAL.FATAL]);

/** One batch in the library's hands: every record of it gets a delivery report, however late. */
interface Flight {
  readonly batch: ProduceBatch;
  readonly startedAtMs: number;
  /** How much trouble the client had had when the batch was handed over. */
  readonly troubles: number;
  waiting: number;
  readonly offsets: number[];
  readonly failed: Map<number, number>;
  logAppendTimeMs: number | undefined;
  readonly done: PromiseWithResolvers<ProduceOutcome>;
  deadline: Disposable | undefined;
}

interface Ticket {
  readonly flight: Flight;
  readonly index: number;
}

export interface DriverParts {
  readonly context: LinkContext;
  readonly control: Control;
  readonly library: Library;
  readonly options: CompiledProducerOptions;
  readonly metadataMaxAgeMs: number;
  /** A client that is a member of the group, on this link. */
  readonly memberOf: (group: string) => RawConsumer | undefined;
}

/** Hands batches to librdkafka record by record, so that one batch of each is made again, and waits for the delivery reports. */
export class ConfluentProduceDriver implements ProduceDriver {
  readonly transaction?: TransactionPort;
  readonly #parts: DriverParts;
  readonly #closing = new AbortController();
  readonly #transactions: Transactions | undefined;
  readonly #flights = new Set<Flight>();
  readonly #changes: Disposable;
  #client: RawProducer;
  #token: Disposable | undefined;
  /** Its client can't go on, or speaks with a certificate of the past: the next batch gets another one. */
  #worn = false;
  #renewing: Promise<void> | undefined;
  #troubles = 0;
  #diagnosing: Promise<void> | undefined;
  #diagnosedAtMs = Number.NEGATIVE_INFINITY;

  private constructor(parts: DriverParts) {
    const { context, options } = parts;
    const { transactionalId } = options;
    this.#parts = parts;
    this.#client = this.#create();
    if (transactionalId !== undefined)
      this.transaction = this.#transactions = new Transactions({
        ...parts,
        client: () => this.#client,
        renew: async () => {
          if (!this.#worn) return false;
          await this.#renew();
          return true;
        },
        transactionalId,
        closing: this.#closing.signal,
      });
    this.#changes = context.identity.onChange(() => {
      if (context.identity.kind === 'mtls') this.#worn = true;
    });
  }

  static async open(parts: DriverParts): Promise<ConfluentProduceDriver> {
    const { control, options } = parts;
    if (options.transactionalId !== undefined) await control.requireTransactionalId(options.transactionalId);
    const driver = new ConfluentProduceDriver(parts);
    try {
      await driver.#start(driver.#client);
      return driver;
    } catch (error) {
      await driver[Symbol.asyncDispose]();
      throw error;
    }
  }

  warm(topics: readonly string[]): Promise<void> {
    return this.#parts.control.metadata.require(topics);
  }

  partitions(topic: string): number | undefined {
    return this.#parts.control.metadata.topic(topic)?.partitions.length;
  }

  lane(topic: string, partition: number): number {
    return this.#parts.control.metadata.leader(topic, partition);
  }

  async produce(_lane: number, batches: readonly ProduceBatch[]): Promise<readonly (ProduceOutcome | Promise<ProduceOutcome>)[]> {
    const { clock } = this.#parts.context;
    const outcomes = batches.map((batch) => this.#send(batch));
    this.#sendNow();
    const over = new AbortController();
    await Promise.race([Promise.all(outcomes), pause(clock, LANE_MS, over.signal)]);
    over.abort();
    if (this.#flights.size > 0) this.#diagnose();
    const settled = new Map<Promise<ProduceOutcome>, ProduceOutcome>();
    for (const outcome of outcomes) void outcome.then((o) => settled.set(outcome, o));
    await null; // Lets those that have settled say so.
    return outcomes.map((outcome) => settled.get(outcome) ?? outcome);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    this.#changes[Symbol.dispose]();
    this.#token?.[Symbol.dispose]();
    await this.#renewing?.catch(() => {});
    await this.#transactions?.[Symbol.asyncDispose]();
    await close(this.#client, this.#parts.context);
    const late = new AbortController();
    await Promise.race([this.#diagnosing, pause(this.#parts.context.clock, DIAGNOSE_MS, late.signal)]); // It asks brokers that may not answer.
    late.abort();
  }

  #create(): RawProducer {
    const { context, library, options, metadataMaxAgeMs } = this.#parts;
    const config = { ...connectionConfig(context, metadataMaxAgeMs, this.#closing.signal), ...producerConfig(options) };
    const client = new library.Producer(config, topicConfig(options));
    listen(client, context, {
      trouble: () => {
        this.#troubles++;
        if (this.#flights.size > 0) this.#diagnose();
      },
    });
    client.on('delivery-report', (error: LibrdKafkaError | null, report: DeliveryReport) => this.#report(error?.code, report));
    return client;
  }

  async #start(client: RawProducer): Promise<void> {
    const { context, control } = this.#parts;
    await open(client, context, control);
    // Reports and events come from a thread of the library's, when there are any: nothing is polled.
    client.setPollInBackground(true);
    this.#token?.[Symbol.dispose]();
    this.#token = keepToken(client, context);
  }

  /** Another client. What the old one still has under way ends with it, or has ended. */
  #renew(): Promise<void> {
    this.#renewing ??= (async () => {
      const old = this.#client;
      const client = this.#create();
      await this.#start(client);
      this.#client = client;
      this.#worn = false;
      void close(old, this.#parts.context);
    })().finally(() => {
      this.#renewing = undefined;
    });
    return this.#renewing;
  }

  /** What was handed over in this turn goes at once, each batch as one: the library lingers, but for the moment of a flush. */
  #sendNow(): void {
    if (this.#client.isConnected()) this.#client.flush(FLUSH_MS, () => {});
  }

  async #send(batch: ProduceBatch): Promise<ProduceOutcome> {
    const { clock } = this.#parts.context;
    const named = batch.records.findIndex((r) => cutOff(r.headers) !== undefined);
    if (named >= 0) return this.#unsendable(batch, named);
    for (let tries = 0; ; tries++) {
      const flight: Flight = {
        batch,
        startedAtMs: clock.monotonic(),
        troubles: this.#troubles,
        waiting: batch.records.length,
        offsets: [],
        failed: new Map(),
        logAppendTimeMs: undefined,
        done: Promise.withResolvers(),
        deadline: undefined,
      };
      try {
        if (this.#worn && this.#flights.size === 0 && !this.#transactions) await this.#renew();
        const refused = this.#handOver(flight);
        if (refused === undefined) return await flight.done.promise;
        await this.#remedy(refused, flight, tries);
      } catch (error) {
        return { baseOffset: -1n, attempts: 0, error: asTurnpikeError(error, 'INTERNAL', 'It could not be handed over.').withWritten('no') };
      }
    }
  }

  /** Resolves when another try may succeed. Rejects with why the library takes the batch not at all. */
  async #remedy(number: number, flight: Flight, tries: number): Promise<void> {
    const { context, control } = this.#parts;
    const { batch } = flight;
    if (context.clock.monotonic() + RETRY_MS >= batch.deadlineMs) throw this.#error(flight, number);
    if (number === LOCAL.FATAL && !this.#transactions && tries < MOST_RENEWALS) {
      this.#worn = true;
      await this.#requireProducerId(flight);
      if (this.#flights.size > 0) await pause(context.clock, RETRY_MS, this.#closing.signal); // They end with the old one.
      return;
    }
    // What the library knows of a topic may be of the past: the metadata that chose the partition knows better.
    const known = number === LOCAL.UNKNOWN_PARTITION && batch.partition < (this.partitions(batch.topic) ?? 0);
    if (!known && (tries > 0 || !STALE.has(number))) throw this.#error(flight, number);
    await control.metadata.refresh([batch.topic]);
    await call((done) => this.#client.getMetadata({ topic: batch.topic, timeout: 1_000 }, done)).catch(() => {});
    if (tries > 0) await pause(context.clock, RETRY_MS, this.#closing.signal);
  }

  /** Without one an idempotent producer ends for good; it is given to who may write to any topic. @throws TurnpikeError AUTHORIZATION_FAILED */
  async #requireProducerId(flight: Flight): Promise<void> {
    try {
      await this.#parts.control.requireProducerId();
    } catch (error) {
      throw (error as TurnpikeError).code === 'AUTHORIZATION_FAILED' ? this.#error(flight, KAFKA.TOPIC_AUTHORIZATION_FAILED) : error;
    }
  }

  /** Its error number, where the library takes none of it. */
  #handOver(flight: Flight): number | undefined {
    const { batch } = flight;
    for (const [index, record] of batch.records.entries()) {
      const number = this.#handOverOne(batch, record, { flight, index });
      if (number === undefined) continue;
      if (index === 0) return number;
      // Those before it are under way; none after it may overtake it.
      for (let i = index; i < batch.records.length; i++) flight.failed.set(i, number);
      flight.waiting -= batch.records.length - index;
      break;
    }
    this.#flights.add(flight);
    const { clock } = this.#parts.context;
    const ms = Math.max(batch.deadlineMs - clock.monotonic(), 0);
    flight.deadline = clock.after(ms, () => this.#tooLate(flight), { holds: true });
    if (flight.waiting === 0) void this.#conclude(flight);
    return undefined;
  }

  #handOverOne({ topic, partition }: ProduceBatch, { key, value, headers, timestampMs }: BufferedRecord, ticket: Ticket): number | undefined {
    try {
      // Its types don't know that a header's value may be bytes of any class.
      const raw = toRaw(headers) as Parameters<RawProducer['produce']>[6];
      this.#client.produce(topic, partition, filled(value), filled(key), timestampMs, ticket, raw);
      return undefined;
    } catch (error) {
      return (error as Partial<LibrdKafkaError>).code ?? LOCAL.STATE;
    }
  }

  #report(number: number | undefined, { offset, timestamp, opaque }: DeliveryReport): void {
    const { flight, index } = opaque as Ticket;
    flight.waiting--;
    if (number === undefined) {
      flight.offsets[index] = offset;
      // Of a topic that keeps the producer's time, it is that.
      if (timestamp !== undefined && timestamp !== flight.batch.records[index]?.timestampMs) flight.logAppendTimeMs = timestamp;
      // With the topic that is deleted ends the library's own object of it, and what waits there.
    } else flight.failed.set(index, number === LOCAL.DESTROY && !this.#closing.signal.aborted ? LOCAL.UNKNOWN_TOPIC : number);
    if (flight.waiting === 0) void this.#conclude(flight);
  }

  async #conclude(flight: Flight): Promise<void> {
    flight.deadline?.[Symbol.dispose]();
    this.#flights.delete(flight);
    const { batch, failed, offsets, logAppendTimeMs } = flight;
    if (failed.size === 0) {
      flight.done.resolve({ baseOffset: baseOf(offsets), attempts: 1, ...(logAppendTimeMs === undefined ? {} : { logAppendTimeMs }) });
      return;
    }
    // KIP-467: the broker names the records that spoil the batch, and the library gives the others an error of its own.
    const rejected = [...failed].filter(([, number]) => number === KAFKA.INVALID_RECORD).map(([index]) => index);
    const number = [...failed.values()].find((n) => n !== LOCAL.INVALID_DIFFERENT_RECORD) ?? LOCAL.TRANSPORT;
    // After a record that is refused, the library leaves a gap in the sequence of its transactional id, at which the next transaction would fail.
    if (this.#transactions) this.#worn = true;
    // Where the library gives up its producer, it drops what it has of it.
    if (GIVEN_UP.has(number) && !this.#transactions && !this.#closing.signal.aborted) {
      this.#worn = true;
      const denied = await this.#requireProducerId(flight).catch((error: TurnpikeError) => error);
      if (denied) {
        flight.done.resolve({ baseOffset: -1n, attempts: 1, error: denied });
        return;
      }
      if (failed.size === batch.records.length && [...failed.values()].every((n) => n === LOCAL.PURGE_QUEUE)) {
        await pause(this.#parts.context.clock, RETRY_MS, this.#closing.signal);
        flight.done.resolve(this.#send(batch));
        return;
      }
    }
    if (this.#transactions && ENDED.has(number)) {
      flight.done.resolve({ baseOffset: -1n, attempts: 1, error: await this.#endedWith(flight, number) });
      return;
    }
    const cause = number < 0 && !NEVER_SENT.has(number) ? await this.#parts.control.refusal().catch(() => undefined) : undefined;
    const error = this.#error(flight, number, cause);
    const some = rejected.length < batch.records.length && error.written === 'no' ? { rejected } : {};
    flight.done.resolve({ baseOffset: -1n, attempts: 1, error, ...some });
  }

  /** The library may still deliver it; its reports then come to nobody. */
  #tooLate(flight: Flight): void {
    this.#flights.delete(flight);
    const { topic, partition } = flight.batch;
    const text = `${topic}/${partition}: not acknowledged within the delivery timeout. The broker is slow or unreachable.`;
    const error = new TurnpikeError('DELIVERY_TIMEOUT', text, { topic, partition, retriable: true, written: 'unknown' });
    flight.done.resolve({ baseOffset: -1n, attempts: 1, error });
  }

  /** The library tries on until the delivery timeout; where it is the identity that is refused, no try helps. */
  #diagnose(): void {
    const { clock } = this.#parts.context;
    const now = clock.monotonic();
    if (this.#diagnosing || this.#closing.signal.aborted || now - this.#diagnosedAtMs < DIAGNOSE_MS) return;
    this.#diagnosedAtMs = now;
    this.#diagnosing = (async () => {
      const refusal = await this.#parts.control.refusal();
      if (!refusal || refusal.retriable) return;
      for (const flight of this.#flights) {
        flight.deadline?.[Symbol.dispose]();
        flight.done.resolve({ baseOffset: -1n, attempts: 1, error: refusal.withWritten('unknown') });
      }
      this.#flights.clear();
    })()
      .catch(() => {})
      .finally(() => {
        this.#diagnosing = undefined;
      });
  }

  #error(flight: Flight, number: number, cause?: TurnpikeError): TurnpikeError {
    const { identity } = this.#parts.context;
    const { topic, partition } = flight.batch;
    const written = this.#isCertain(flight, number) ? 'no' : 'unknown';
    return numberedError(number, { doing: `produce to ${topic}/${partition}`, topic, partition, principal: identity.principal, written }, cause);
  }

  /** Why a record was dropped with its transaction, which may have failed at another one. */
  async #endedWith(flight: Flight, number: number): Promise<TurnpikeError> {
    const { topic, partition } = flight.batch;
    const cause = await this.#transactions?.failure();
    const [denied] = cause === KAFKA.TOPIC_AUTHORIZATION_FAILED ? await this.#parts.control.metadata.denied('write', [topic]).catch(() => []) : [];
    if (denied) return denied;
    const text = `${topic}/${partition}: the transaction of the record can't be committed; abort() and begin again.`;
    return new TurnpikeError('TRANSACTION_ABORTED', text, { topic, partition, written: 'no', cause: this.#error(flight, cause ?? number) });
  }

  /** Whether nothing of the batch stands in the log. The library doesn't say how often it has tried; without trouble, and within the time of one request, it was once. */
  #isCertain({ batch, failed, startedAtMs, troubles }: Flight, number: number): boolean {
    const numbers = [...failed.values(), number];
    if (failed.size > 0 && failed.size < batch.records.length) return false;
    if (numbers.every((n) => NEVER_SENT.has(n))) return true;
    const refused = numbers.every((n) => REFUSALS.has(n) || n === LOCAL.INVALID_DIFFERENT_RECORD || NEVER_SENT.has(n));
    const once = troubles === this.#troubles && this.#parts.context.clock.monotonic() - startedAtMs < this.#parts.options.requestTimeoutMs;
    // What is too large was so at every try.
    return refused && (once || numbers.every((n) => n === KAFKA.MESSAGE_TOO_LARGE));
  }

  #unsendable({ topic, partition }: ProduceBatch, index: number): ProduceOutcome {
    const text = `${topic}: a header's name holds a NUL character, which Confluent's client would cut off there; use another name.`;
    return { baseOffset: -1n, attempts: 0, rejected: [index], error: new TurnpikeError('ENCODE_FAILED', text, { topic, partition, written: 'no' }) };
  }
}

/** The addon takes an empty buffer for null where its memory is nobody's. */
const filled = (bytes: Buffer | null): Buffer | null => (bytes !== null && bytes.length === 0 ? EMPTY : bytes);

/** Of records that lie one after another; -1n where the library had to send them in parts and others came between. */
function baseOf(offsets: readonly number[]): bigint {
  const first = offsets[0] ?? -1;
  return first >= 0 && offsets.every((offset, i) => offset === first + i) ? BigInt(first) : -1n;
}

function producerConfig(options: CompiledProducerOptions) {
  const { transactionalId, idempotent, maxInFlight, maxBatchBytes, maxBufferBytes, requestTimeoutMs, transactionTimeoutMs } = options;
  return {
    dr_cb: true,
    'enable.idempotence': idempotent,
    ...(transactionalId === undefined ? {} : { 'transactional.id': transactionalId, 'transaction.timeout.ms': transactionTimeoutMs }),
    'max.in.flight.requests.per.connection': idempotent ? Math.min(maxInFlight, 5) : maxInFlight,
    // Longer than a turn takes to hand over its batches, so that each becomes one of the library's again: a flush sends them.
    'linger.ms': 50,
    'batch.num.messages': 1_000_000,
    'batch.size': Math.min(maxBatchBytes + 1024 * 1024, 2_147_483_647),
    'message.max.bytes': 1_000_000_000,
    'queue.buffering.max.messages': 0,
    'queue.buffering.max.kbytes': Math.min(Math.ceil((maxBufferBytes * 4) / 1024) + 1_048_576, 2_147_483_647),
    'socket.timeout.ms': Math.min(Math.max(requestTimeoutMs, 10), 300_000),
  };
}

function topicConfig({ acks, compression, deliveryTimeoutMs, requestTimeoutMs, transactionalId, transactionTimeoutMs }: CompiledProducerOptions) {
  return {
    acks: acks === 'all' ? -1 : acks,
    'compression.codec': compression,
    'message.timeout.ms': transactionalId === undefined ? deliveryTimeoutMs : Math.min(deliveryTimeoutMs, transactionTimeoutMs),
    'request.timeout.ms': Math.min(requestTimeoutMs, 900_000),
  };
}
