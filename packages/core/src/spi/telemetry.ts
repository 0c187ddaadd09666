import type { TurnpikeError } from '../errors.ts';
import type { RecordHeaders } from '../headers.ts';
import type { CommitOffset, InboundRecord, InboundRecords, SettledBatch } from './transport.ts';

/** The span of one produced record; there is one only where the caller's active span records. */
export interface RecordSpan {
  /** The span's context, opaque to core: a send span links to it. */
  readonly context: unknown;
  end(error?: TurnpikeError): void;
}

/** Something that can carry headers; a record without any costs nothing until somebody asks for them. */
export interface HeaderCarrier {
  readonly headers: RecordHeaders;
  /** True once headers were asked for or given. */
  readonly hasHeaders: boolean;
}

/** Spans and metrics by the messaging conventions. Never throws into the application. */
export interface Telemetry {
  /** Per record, before the user's stages: writes the propagated context into the headers (never over one that the caller has set).
   *  undefined = nothing records, which is the cheap way. */
  create(topic: string, carrier: HeaderCarrier): RecordSpan | undefined;
  /** Once a flush, after it has settled: one send span a topic, linked to its records' spans; duration and sent messages. */
  sent(batches: readonly SettledBatch[], startedAtMs: number): void;
  /** Once a fetched batch; `startedAtMs` is when it was asked for. */
  received(topic: string, partition: number, group: string, records: InboundRecords, startedAtMs: number): void;
  /** Runs the handler inside a process span that links to the creation context of every record. A promise where `run` gives one, else what it gives, at once. */
  process<T>(records: readonly InboundRecord[], group: string, run: () => T | Promise<T>): T | Promise<T>;
  committed(group: string, offsets: readonly CommitOffset[], startedAtMs: number, error?: TurnpikeError): void;
}

export const noTelemetry: Telemetry = {
  create: () => undefined,
  sent: () => {},
  received: () => {},
  process: (_records, _group, run) => run(),
  committed: () => {},
};
