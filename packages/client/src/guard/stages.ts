import { asTurnpikeError, type TurnpikeError } from '@turnpike/core';
import {
  type Clock,
  type DrainGate,
  type FetchGate,
  noTelemetry,
  type Pending,
  pause,
  type RecordSpan,
  type SettledBatch,
  type Telemetry,
} from '@turnpike/core/spi';
import type { AccessChecks, Action, Refusal } from '@turnpike/policy';
import { Queue } from './queue.ts';
import { type InboundMessage, inboundRecord, MessageCarrier, sizeOf, type TopicMessages } from './records.ts';
import type { Tally } from './tally.ts';

export interface StagesInit {
  /** The logical cluster. */
  readonly cluster: string;
  readonly access: (onRefusal: (refusal: Refusal) => void) => AccessChecks;
  readonly gates: DrainGate & FetchGate;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
  /** How long a send may wait for its quota, in ms. */
  readonly quotaTimeoutMs: number;
}

/** One thing to be asked of the grant. */
export interface Question {
  readonly action: Action;
  readonly name: string;
  readonly records: number;
}

/** A library's answer for one partition. */
export interface SentPartition {
  readonly topicName?: string;
  readonly partition?: number;
  readonly baseOffset?: string;
}

export interface Delivery {
  readonly topic: string;
  readonly partition: number;
  readonly messages: readonly InboundMessage[];
}

export interface DeliveryContext {
  /** undefined = not known. */
  readonly group: string | undefined;
  /** Keeps the membership while a handler waits for its quota. */
  readonly heartbeat: () => Promise<unknown>;
  /** A consumer that is stopping waits no longer: it would only leave later. */
  readonly stopping: AbortSignal;
}

/** What connect() does with a record, for a library that does the rest: the grant's check, the quota, the spans. Of one cluster. */
export class Stages {
  readonly cluster: string;
  readonly #init: StagesInit;
  readonly #access: AccessChecks;
  readonly #queue: Queue;
  /** What the check that is running has found. */
  #found: Refusal[] = [];

  constructor(init: StagesInit) {
    this.cluster = init.cluster;
    this.#init = init;
    this.#access = init.access((refusal) => this.#found.push(refusal));
    this.#queue = new Queue(init);
  }

  /** Asks the grant, counts what it doesn't allow, and says whether there was any. @throws TurnpikeError GRANT_DENIED in mode enforce; GRANT_EXPIRED. */
  check(questions: readonly Question[], tally: Tally, calls: 0 | 1 = 1): boolean {
    let refused = false;
    for (const { action, name, records } of questions) {
      this.#found = [];
      try {
        this.#access.check(action, name);
      } finally {
        for (const refusal of this.#found) tally.refused(refusal, this.cluster, { calls, records });
        refused ||= this.#found.length > 0;
      }
    }
    return refused;
  }

  /** Grant, span, quota, then the library's own send; its result and its error pass unchanged. */
  async send<R>(
    batches: readonly TopicMessages[],
    { transactionalId, tally }: { readonly transactionalId: string | undefined; readonly tally: Tally },
    handOver: (batches: readonly TopicMessages[]) => Promise<R>,
  ): Promise<R> {
    const records = batches.reduce((sum, b) => sum + b.messages.length, 0);
    this.#checkSend(batches, { transactionalId, tally, records });
    const spans: (RecordSpan | undefined)[][] = [];
    const traced = this.#init.telemetry === noTelemetry ? batches : batches.map((batch) => this.#trace(batch, spans));
    let startedAtMs = this.#init.clock.now();
    let result: R;
    let release: (() => void) | undefined;
    try {
      // Without a quota, or with room in it, the library gets the records in the caller's own turn: their order is the caller's.
      const waiting = this.#queue.enter(batches, tally);
      if (waiting) {
        release = await waiting;
        startedAtMs = this.#init.clock.now();
      }
      const sending = handOver(traced);
      release?.();
      result = await sending;
    } catch (error) {
      release?.();
      this.#settled(batches, spans, { startedAtMs, error: failure(error) });
      throw error;
    }
    tally.sent(records);
    this.#settled(batches, spans, { startedAtMs, sent: Array.isArray(result) ? (result as SentPartition[]) : [] });
    return result;
  }

  /** For a library whose produce() is synchronous: nothing can wait. Returns the headers to add, and who ends the span. */
  produceNow(batch: TopicMessages, { transactionalId, tally }: { readonly transactionalId: string | undefined; readonly tally: Tally }) {
    this.#checkSend([batch], { transactionalId, tally, records: batch.messages.length });
    this.#queue.passNow(batch, tally);
    const carrier = new MessageCarrier(batch.messages[0]?.headers);
    const span = this.#init.telemetry.create(batch.topic, carrier);
    return {
      added: carrier.added(),
      done: (error?: unknown) => {
        if (error === undefined) tally.sent(1);
        span?.end(error === undefined ? undefined : failure(error));
      },
    };
  }

  /** Grant and quota, then the handler in its span. The handler's result and its error pass unchanged. */
  async handle<R>({ topic, partition, messages }: Delivery, context: DeliveryContext & { readonly tally: Tally }, run: () => Promise<R>): Promise<R> {
    const { group, tally } = context;
    this.arrived(topic, group, { records: messages.length, tally });
    await this.#permit(topic, context);
    this.#charge(topic, group, messages);
    const { telemetry } = this.#init;
    if (telemetry === noTelemetry) return run();
    return telemetry.process(
      messages.map((m) => inboundRecord(topic, partition, m)),
      group ?? '',
      run,
    );
  }

  /** Records that came. @throws TurnpikeError GRANT_DENIED in mode enforce. */
  arrived(topic: string, group: string | undefined, { records, tally }: { readonly records: number; readonly tally: Tally }): void {
    let refused = true;
    try {
      refused = this.check([{ action: 'consume', name: topic, records }, ...joining(group, records)], tally, 0);
    } finally {
      if (refused) tally.refusedRecords(records);
    }
    tally.consumed(records);
  }

  /** Records that a library has already given to the application: counted and charged, and nothing else can be done. */
  seen(topic: string, group: string | undefined, messages: readonly InboundMessage[], tally: Tally): void {
    try {
      this.arrived(topic, group, { records: messages.length, tally });
    } catch {
      tally.consumed(messages.length); // Refused, and counted so; but it is there.
    }
    this.#charge(topic, group, messages);
  }

  #charge(topic: string, group: string | undefined, messages: readonly InboundMessage[]): void {
    const bytes = messages.reduce((sum, m) => sum + sizeOf(m), 0);
    this.#init.gates.charge(topic, group ?? '', messages.length, bytes);
  }

  #checkSend(
    batches: readonly TopicMessages[],
    { transactionalId, tally, records }: { readonly transactionalId: string | undefined; readonly tally: Tally; readonly records: number },
  ): void {
    let refused = 0;
    try {
      // The transaction was checked when it began: here its records are counted.
      if (transactionalId !== undefined && this.check([{ action: 'transact', name: transactionalId, records }], tally, 0)) refused = records;
      for (const { topic, messages } of batches) {
        const { length } = messages;
        try {
          if (this.check([{ action: 'produce', name: topic, records: length }], tally)) refused = Math.min(records, refused + length);
        } catch (error) {
          refused = records; // One refused topic keeps the whole call from going.
          throw error;
        }
      }
    } finally {
      if (refused > 0) tally.refusedRecords(refused);
    }
  }

  #trace(batch: TopicMessages, spans: (RecordSpan | undefined)[][]): TopicMessages {
    const own: (RecordSpan | undefined)[] = [];
    spans.push(own);
    let changed = false;
    const messages = batch.messages.map((message) => {
      const carrier = new MessageCarrier(message?.headers);
      own.push(this.#init.telemetry.create(batch.topic, carrier));
      const added = carrier.added();
      if (!added) return message;
      changed = true;
      return { ...message, headers: { ...message.headers, ...added } }; // The caller may send its object again: it stays as it is.
    });
    return changed ? { ...batch, messages } : batch;
  }

  async #permit(topic: string, { group, heartbeat, stopping, tally }: DeliveryContext & { readonly tally: Tally }): Promise<void> {
    const { gates, clock } = this.#init;
    let waitMs = gates.permit(topic, group ?? '');
    if (waitMs === 0) return;
    const began = clock.monotonic();
    while (waitMs > 0 && !stopping.aborted) {
      await pause(clock, waitMs, stopping);
      await heartbeat();
      waitMs = gates.permit(topic, group ?? '');
    }
    tally.delayed('consume', topic, this.cluster, { waitedMs: clock.monotonic() - began, refused: 0 });
  }

  #settled(
    batches: readonly TopicMessages[],
    spans: readonly (readonly (RecordSpan | undefined)[])[],
    { startedAtMs, sent = [], error }: { readonly startedAtMs: number; readonly sent?: readonly SentPartition[]; readonly error?: TurnpikeError },
  ): void {
    const { telemetry } = this.#init;
    if (telemetry === noTelemetry) return;
    for (const span of spans.flat()) span?.end(error);
    const settled = batches.map(({ topic, messages }, i): SettledBatch => {
      const partitions = sent.filter((s) => s?.topicName === topic);
      // Several: which record went where, the library keeps to itself.
      const only = partitions.length === 1 ? partitions[0] : undefined;
      const bytes = messages.reduce((sum, m) => sum + sizeOf(m), 0);
      return {
        topic,
        partition: only?.partition ?? -1,
        baseOffset: BigInt(only?.baseOffset ?? -1),
        bytes,
        pendings: messages.map((_, n) => pendingOf(spans[i]?.[n])),
        ...(error ? { error } : {}),
      };
    });
    telemetry.sent(settled, startedAtMs);
  }
}

export const joining = (group: string | undefined, records: number): readonly Question[] =>
  group === undefined ? [] : [{ action: 'join', name: group, records }];

/** For a span. The library's own text may quote a record, so only its name stands there. */
const failure = (error: unknown): TurnpikeError =>
  asTurnpikeError(error, 'BROKER_REJECTED', `the client failed: ${error instanceof Error ? error.name : typeof error}`);

/** Telemetry reads the span only. */
const pendingOf = (span: RecordSpan | undefined): Pending => ({ deadlineMs: 0, attempts: 1, span, acknowledge: () => {}, fail: () => {} });
