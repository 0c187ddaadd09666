import type { PendingRecord } from './sent-record.ts';

/** The records under way that one signal ends: thousands may share it, and it ends them together. */
interface Abortable {
  readonly records: Set<PendingRecord>;
  readonly onAbort: () => void;
}

/** A producer's records that have not settled: how many, how large, and which of them a signal ends. */
export class Outstanding {
  records = 0;
  bytes = 0;
  readonly #bySignal = new Map<AbortSignal, Abortable>();
  readonly #abort: (records: ReadonlySet<PendingRecord>, reason: unknown) => void;

  constructor(abort: (records: ReadonlySet<PendingRecord>, reason: unknown) => void) {
    this.#abort = abort;
  }

  add(record: PendingRecord, signal: AbortSignal | undefined): void {
    record.counted = true;
    this.records++;
    this.bytes += record.bytes;
    if (!signal) return;
    record.signal = signal;
    (this.#bySignal.get(signal) ?? this.#listen(signal)).records.add(record);
  }

  /** It has settled. */
  remove(record: PendingRecord): void {
    record.counted = false;
    this.records--;
    this.bytes -= record.bytes;
    const { signal } = record;
    if (!signal) return;
    const group = this.#bySignal.get(signal);
    group?.records.delete(record);
    if (!group || group.records.size > 0) return;
    this.#bySignal.delete(signal);
    signal.removeEventListener('abort', group.onAbort);
  }

  #listen(signal: AbortSignal): Abortable {
    const group: Abortable = {
      records: new Set(),
      onAbort: () => {
        this.#bySignal.delete(signal);
        this.#abort(group.records, signal.reason);
      },
    };
    signal.addEventListener('abort', group.onAbort, { once: true });
    this.#bySignal.set(signal, group);
    return group;
  }
}
