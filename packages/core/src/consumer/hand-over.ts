import { asTurnpikeError, TurnpikeError, withoutCode } from '../errors.ts';
import type { RecordHeaders } from '../headers.ts';
import { type Clock, pause } from '../spi/clock.ts';
import type { Serde } from '../spi/codec.ts';
import type { Logger } from '../spi/logger.ts';
import type { Telemetry } from '../spi/telemetry.ts';
import type { InboundRecord } from '../spi/transport.ts';
import { type BatchHandler, Consumed, type ConsumedEvent, type Handler } from './event.ts';
import type { Lane } from './lane.ts';
import { Turn } from './turn.ts';

interface Serdes {
  readonly key: Serde<unknown>;
  readonly value: Serde<unknown>;
}

/** How run() or runBatch() wants its records. */
export type Delivery = { readonly each: Handler<ConsumedEvent> } | { readonly batches: BatchHandler<ConsumedEvent>; readonly maxBatchRecords: number };

interface HandOverInit {
  readonly topics: ReadonlyMap<string, Serdes>;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly group: string;
  readonly delivery: Delivery;
  /** So many bytes of a lane have been handled. */
  handled(lane: Lane, bytes: number): void;
  failed(error: TurnpikeError): void;
}

const RETRY_MS = 250;

/** A lane at work. Its functions are made once, so that a record costs no closure. */
interface Worker {
  readonly lane: Lane;
  readonly serdes: Serdes | undefined;
  /** What the handler has in hand. */
  records: readonly InboundRecord[];
  event: ConsumedEvent | undefined;
  events: readonly ConsumedEvent[];
  /** The record whose schemas were waited for. */
  known: InboundRecord | undefined;
  /** For the next turn. */
  waiting: boolean;
  readonly call: () => void | Promise<void>;
  readonly onHandled: () => void;
  readonly onThrown: (cause: unknown) => void;
}

/** decode -> trace -> handler, a lane's records one after another. Synchronous where nothing waits: a promise is awaited only where a handler gives one, or a schema isn't known yet. */
export class HandOver {
  readonly #init: HandOverInit;
  readonly #most: number;
  readonly #turn: Turn;
  readonly #workers = new WeakMap<Lane, Worker>();
  #waiting: Worker[] = [];

  constructor(init: HandOverInit) {
    this.#init = init;
    this.#most = 'each' in init.delivery ? 1 : init.delivery.maxBatchRecords;
    this.#turn = new Turn(init.clock, () => this.#goOn());
  }

  /** Hands out what waits in a lane; if its handler is at work, that is done after it. */
  work(lane: Lane): void {
    let worker = this.#workers.get(lane);
    if (worker === undefined) {
      worker = this.#workerOf(lane);
      this.#workers.set(lane, worker);
    }
    if (!lane.busy && !worker.waiting) this.#work(worker);
  }

  #workerOf(lane: Lane): Worker {
    const { delivery, topics } = this.#init;
    const worker: Worker = {
      lane,
      serdes: topics.get(lane.topic),
      records: [],
      event: undefined,
      events: [],
      known: undefined,
      waiting: false,
      call: 'each' in delivery ? () => delivery.each(worker.event as ConsumedEvent, lane.context) : () => delivery.batches(worker.events, lane.context),
      onHandled: () => {
        if (this.#done(worker)) this.#work(worker);
      },
      onThrown: (cause) => this.#failed(worker, this.#handlerFailed(worker, cause)),
    };
    return worker;
  }

  #goOn(): void {
    const waiting = this.#waiting;
    if (waiting.length === 0) return;
    this.#waiting = [];
    for (const [i, worker] of waiting.entries()) {
      if (this.#turn.over()) {
        // The first of the next turn: else the lane that goes first would have every turn for itself.
        this.#waiting.unshift(...waiting.slice(i));
        return;
      }
      worker.waiting = false;
      this.#work(worker);
    }
  }

  #work(worker: Worker): void {
    const { lane } = worker;
    lane.busy = true;
    try {
      while (!lane.stopped) {
        const record = lane.next();
        if (record === undefined) break;
        if (this.#turn.over()) {
          worker.waiting = true;
          this.#waiting.push(worker);
          break;
        }
        const unknown = this.#take(worker, record);
        if (unknown !== undefined) {
          void this.#untilKnown(worker, record, unknown);
          return;
        }
        const waits = this.#call(worker);
        if (waits !== undefined) {
          waits.then(worker.onHandled, worker.onThrown);
          return;
        }
        if (!this.#done(worker)) return;
      }
      // In the same turn in which the lane was found empty: a batch that comes in the next one must start it again.
      lane.idle();
    } catch (error) {
      this.#failed(worker, error as TurnpikeError);
    }
  }

  /** Decodes what comes next, into the handler's hand. A promise = its schema isn't known yet; nothing is in hand then. */
  #take(worker: Worker, record: InboundRecord): Promise<void> | undefined {
    const { lane, serdes } = worker;
    if (serdes === undefined) throw new TurnpikeError('INTERNAL', `${lane.topic} was not subscribed to.`, { topic: lane.topic });
    let opened: Consumed | Promise<void>;
    try {
      opened = open(serdes, record, worker.known === record);
    } catch (cause) {
      throw this.#decodeFailed(record, cause);
    }
    if (!(opened instanceof Consumed)) return opened;
    worker.event = opened;
    lane.take(record);
    this.#turn.spend(1);
    if (this.#most === 1) worker.records = [record];
    else this.#fill(worker, serdes, record, opened);
    return undefined;
  }

  /** The rest of a batch: as much as is there and can be decoded now. What can't is the first of the next batch, which tells why. */
  #fill(worker: Worker, serdes: Serdes, first: InboundRecord, event: ConsumedEvent): void {
    const { lane } = worker;
    const records = [first];
    const events = [event];
    try {
      while (records.length < this.#most) {
        const record = lane.next();
        if (record === undefined) break;
        const opened = open(serdes, record, false);
        if (!(opened instanceof Consumed)) {
          opened.catch(() => {}); // Waited for when it is its turn.
          break;
        }
        events.push(opened);
        records.push(record);
        lane.take(record);
      }
    } catch {
      // Thrown again when it is its turn.
    }
    this.#turn.spend(records.length - 1);
    worker.records = records;
    worker.events = events;
  }

  #call(worker: Worker): Promise<unknown> | undefined {
    try {
      const result: unknown = this.#init.telemetry.process(worker.records, this.#init.group, worker.call);
      return isPromise(result) ? result : undefined;
    } catch (cause) {
      throw this.#handlerFailed(worker, cause);
    }
  }

  /** false = past its deadline the partition is somebody else's: this progress must not be committed. */
  #done(worker: Worker): boolean {
    const { lane } = worker;
    if (lane.aborted) {
      lane.idle();
      return false;
    }
    this.#init.handled(lane, lane.done());
    return true;
  }

  /** A registry that can't be reached is never poison: the partition waits, the others go on. */
  async #untilKnown(worker: Worker, record: InboundRecord, first: Promise<void>): Promise<void> {
    const { lane, serdes } = worker;
    try {
      const { key, value, headers } = record;
      const unknown = () => serdes && (unknownOf(serdes.key, key, headers) ?? unknownOf(serdes.value, value, headers));
      await this.#persist(lane, record, first, unknown);
      // It was the key's: the value's may be unknown too.
      const second = serdes && unknownOf(serdes.value, value, headers);
      if (second !== undefined && second !== first) await this.#persist(lane, record, second, unknown);
    } catch (cause) {
      // Given up meanwhile: another member meets it.
      if (lane.stopped) lane.idle();
      else this.#failed(worker, this.#decodeFailed(record, cause));
      return;
    }
    worker.known = record;
    this.#work(worker);
  }

  async #persist(lane: Lane, record: InboundRecord, first: Promise<void>, retry: () => Promise<void> | undefined): Promise<void> {
    const { clock, logger } = this.#init;
    let attempt: Promise<void> | undefined = first;
    for (;;) {
      try {
        return await attempt;
      } catch (cause) {
        const error = asTurnpikeError(cause, 'DECODE_FAILED', 'its schema could not be read.');
        if (!error.retriable || lane.stopped) throw error;
        logger.warn('consumer.schema_unavailable', { topic: record.topic, partition: record.partition, offset: String(record.offset), message: error.message });
        await pause(clock, RETRY_MS, lane.context.signal);
        if (lane.stopped) throw error;
        attempt = retry();
      }
    }
  }

  #failed(worker: Worker, error: TurnpikeError): void {
    this.#init.failed(error);
    worker.lane.idle();
  }

  #handlerFailed({ records }: Worker, cause: unknown): TurnpikeError {
    const [{ topic, partition, offset }] = records as readonly [InboundRecord];
    const to = records.length === 1 ? '' : `-${records.at(-1)?.offset}`;
    const comesAgain = records.length === 1 ? 'The record is not committed and comes again.' : 'None of these records is committed; they come again.';
    return new TurnpikeError(
      'HANDLER_FAILED',
      `${topic}/${partition}@${offset}${to}: the handler threw: ${cause instanceof Error ? cause.message : String(cause)}. ${comesAgain}`,
      { topic, partition, offset, group: this.#init.group, cause },
    );
  }

  #decodeFailed({ topic, partition, offset }: InboundRecord, cause: unknown): TurnpikeError {
    const error = asTurnpikeError(cause, 'DECODE_FAILED', 'it could not be decoded.');
    const { group } = this.#init;
    return new TurnpikeError(error.code, `${topic}/${partition}@${offset}: ${withoutCode(error)}`, {
      ...error.facts,
      cause: error.cause ?? error,
      topic,
      partition,
      offset,
      group,
    });
  }
}

/** A promise = a schema of it isn't known yet. Each of the record's parts is read once: a transport may make it on the spot. */
function open(serdes: Serdes, record: InboundRecord, known: boolean): Consumed | Promise<void> {
  const { key, value, headers } = record;
  if (!known) {
    const waits = unknownOf(serdes.key, key, headers) ?? unknownOf(serdes.value, value, headers);
    if (waits !== undefined) return waits;
  }
  return new Consumed(record, {
    headers,
    key: key === null ? null : serdes.key.decode(key, headers),
    value: value === null ? null : serdes.value.decode(value, headers),
  });
}

const unknownOf = (serde: Serde<unknown>, bytes: Buffer | null, headers: RecordHeaders): Promise<void> | undefined =>
  bytes === null ? undefined : serde.prepare(bytes, headers);

const isPromise = (value: unknown): value is Promise<unknown> => typeof (value as { then?: unknown } | null | undefined)?.then === 'function';
