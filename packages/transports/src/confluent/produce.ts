import type { LibrdKafkaError } from '@confluentinc/kafka-javascript';
import { TurnpikeError } from '@turnpike/core';
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
import { call, close, connectionConfig, type DeliveryReport, type Library, listen, open, type RawConsumer, type RawProducer } from './library.ts';
import { Transactions } from './transaction.ts';

/** How long a flush holds its lane where a partition of it is in trouble, in ms: the others of its leader go on without it. */
const LANE_MS = 1_000;
const RETRY_MS = 100;
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
  readonly onClosed: () => void;
}

/** Hands batches to librdkafka record by record, with a linger that makes one batch of each again, and waits for the delivery reports. */
export class ConfluentProduceDriver implements ProduceDriver {
  readonly transaction?: TransactionPort;
  readonly #parts: DriverParts;
  readonly #client: RawProducer;
  readonly #closing: AbortController;
  readonly #transactions: Transactions | undefined;
  #troubles = 0;

  private constructor(parts: DriverParts, client: RawProducer, closing: AbortController) {
    this.#parts = parts;
    this.#client = client;
    this.#closing = closing;
    if (parts.options.transactionalId !== undefined)
      this.transaction = this.#transactions = new Transactions({ ...parts, client, transactionalId: parts.options.transactionalId, closing: closing.signal });
    listen(client, parts.context, { trouble: () => this.#troubles++ });
    client.on('delivery-report', (error: LibrdKafkaError | null, report: DeliveryReport) => this.#report(error?.code, report));
  }

  static async open(parts: DriverParts): Promise<ConfluentProduceDriver> {
    const { context, control, library, options } = parts;
    const closing = new AbortController();
    if (options.transactionalId !== undefined) await control.requireTransactionalId(options.transactionalId);
    const client = new library.Producer(
      { ...connectionConfig(context, parts.metadataMaxAgeMs, closing.signal), ...producerConfig(options) },
      topicConfig(options),
    );
    const driver = new ConfluentProduceDriver(parts, client, closing);
    try {
      await open(client, context, control);
      // Reports and events come from a thread of the library's, when there are any: nothing is polled.
      client.setPollInBackground(true);
      await driver.#transactions?.init();
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
    const over = new AbortController();
    await Promise.race([Promise.all(outcomes), pause(clock, LANE_MS, over.signal)]);
    over.abort();
    const settled = new Map<Promise<ProduceOutcome>, ProduceOutcome>();
    for (const outcome of outcomes) void outcome.then((o) => settled.set(outcome, o));
    await null; // Lets those that have settled say so.
    return outcomes.map((outcome) => settled.get(outcome) ?? outcome);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#transactions?.[Symbol.asyncDispose]();
    await close(this.#client, this.#parts.context);
    this.#parts.onClosed();
  }

  async #send(batch: ProduceBatch): Promise<ProduceOutcome> {
    const { clock } = this.#parts.context;
    const named = batch.records.findIndex((r) => cutOff(r.headers) !== undefined);
    if (named >= 0) return this.#unsendable(batch, named);
    for (;;) {
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
      const refused = this.#handOver(flight);
      if (refused === undefined) return flight.done.promise;
      // The library looks for new partitions now and then; the metadata that chose this one knows better.
      const known = refused === LOCAL.UNKNOWN_PARTITION && batch.partition < (this.partitions(batch.topic) ?? 0);
      if (!known || clock.monotonic() + RETRY_MS >= batch.deadlineMs) return { baseOffset: -1n, attempts: 0, error: this.#error(flight, refused) };
      await call((done) => this.#client.getMetadata({ topic: batch.topic, timeout: 1_000 }, done)).catch(() => {});
      await pause(clock, RETRY_MS, this.#closing.signal);
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
    } else flight.failed.set(index, number);
    if (flight.waiting === 0) void this.#conclude(flight);
  }

  async #conclude(flight: Flight): Promise<void> {
    flight.deadline?.[Symbol.dispose]();
    const { batch, failed, offsets, logAppendTimeMs } = flight;
    if (failed.size === 0) {
      flight.done.resolve({ baseOffset: baseOf(offsets), attempts: 1, ...(logAppendTimeMs === undefined ? {} : { logAppendTimeMs }) });
      return;
    }
    // KIP-467: the broker names the records that spoil the batch, and the library gives the others an error of its own.
    const rejected = [...failed].filter(([, number]) => number === KAFKA.INVALID_RECORD).map(([index]) => index);
    const number = [...failed.values()].find((n) => n !== LOCAL.INVALID_DIFFERENT_RECORD) ?? LOCAL.TRANSPORT;
    const cause = number < 0 && !NEVER_SENT.has(number) ? await this.#parts.control.refusal().catch(() => undefined) : undefined;
    const error = this.#error(flight, number, cause);
    const some = rejected.length < batch.records.length && error.written === 'no' ? { rejected } : {};
    flight.done.resolve({ baseOffset: -1n, attempts: 1, error, ...some });
  }

  /** The library may still deliver it; its reports then come to nobody. */
  #tooLate({ batch, done }: Flight): void {
    const { topic, partition } = batch;
    const error = new TurnpikeError(
      'DELIVERY_TIMEOUT',
      `${topic}/${partition}: not acknowledged within the delivery timeout. The broker is slow or unreachable.`,
      {
        topic,
        partition,
        retriable: true,
        written: 'unknown',
      },
    );
    done.resolve({ baseOffset: -1n, attempts: 1, error });
  }

  #error(flight: Flight, number: number, cause?: TurnpikeError): TurnpikeError {
    const { identity } = this.#parts.context;
    const { topic, partition } = flight.batch;
    const written = this.#isCertain(flight, number) ? 'no' : 'unknown';
    return numberedError(number, { doing: `produce to ${topic}/${partition}`, topic, partition, principal: identity.principal, written }, cause);
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
    // What was handed over in one turn becomes one batch; the accumulator has gathered before.
    'linger.ms': '0.5',
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
