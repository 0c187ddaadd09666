import type { Clock, EnforcementMode } from '@turnpike/core/spi';
import { type Action, type Refusal, remedyFor } from '@turnpike/policy';

/** One thing that the grant doesn't allow: what enforcement refuses, or would refuse in the modes shadow and warn. */
export interface GuardRefusal {
  readonly operation: Action;
  /** The topic; the group for "join", the transactional id for "transact". */
  readonly name: string;
  /** The logical cluster. */
  readonly cluster: string;
  /** "enforce": it was refused; else it only would have been. */
  readonly mode: EnforcementMode;
  /** Calls of the library: send(), subscribe(), transaction(). */
  readonly calls: number;
  /** Records that were sent or came by it, or that a refusal kept from going. */
  readonly records: number;
  /** Wall clock, ms since the epoch. */
  readonly firstAtMs: number;
  readonly lastAtMs: number;
  /** What to do about it. */
  readonly remedy: string;
}

/** What a quota has held up, or would have where the library can't wait. */
export interface GuardDelay {
  readonly operation: 'produce' | 'consume';
  readonly topic: string;
  readonly cluster: string;
  /** How often something had to wait; where the library can't, how often it was over. */
  readonly times: number;
  readonly waitedMs: number;
  /** How often it ended in QUOTA_EXCEEDED. */
  readonly refused: number;
  readonly firstAtMs: number;
  readonly lastAtMs: number;
}

export interface GuardReport {
  /** Records that the library has acknowledged, and records that came. */
  readonly sent: number;
  readonly consumed: number;
  /** Records that enforcement refuses, or would refuse; each once, whatever it was refused for. */
  readonly refused: number;
  readonly refusals: readonly GuardRefusal[];
  readonly quotas: readonly GuardDelay[];
}

type Writable<T> = { -readonly [K in keyof T]: T[K] };

/** Counts for one report; what one adds to a part also stands in the whole. */
export class Tally {
  readonly #clock: Clock;
  readonly #whole: Tally | undefined;
  readonly #refusals = new Map<string, Writable<GuardRefusal>>();
  readonly #quotas = new Map<string, Writable<GuardDelay>>();
  #sent = 0;
  #consumed = 0;
  #refused = 0;

  constructor(clock: Clock, whole?: Tally) {
    this.#clock = clock;
    this.#whole = whole;
  }

  sent(records: number): void {
    this.#sent += records;
    this.#whole?.sent(records);
  }

  consumed(records: number): void {
    this.#consumed += records;
    this.#whole?.consumed(records);
  }

  /** So many records that something was wrong with. */
  refusedRecords(records: number): void {
    this.#refused += records;
    this.#whole?.refusedRecords(records);
  }

  refused({ action, name, mode }: Refusal, cluster: string, more: { readonly calls: number; readonly records: number }, now = this.#clock.now()): void {
    const key = `${mode} ${action} ${cluster} ${name}`;
    const line = this.#refusals.get(key) ?? {
      ...{ operation: action, name, cluster, mode, calls: 0, records: 0, firstAtMs: now, lastAtMs: now },
      remedy: remedyFor(action, name),
    };
    line.calls += more.calls;
    line.records += more.records;
    line.lastAtMs = now;
    this.#refusals.set(key, line);
    this.#whole?.refused({ action, name, mode }, cluster, more, now); // One refusal, one time.
  }

  delayed(
    operation: GuardDelay['operation'],
    topic: string,
    cluster: string,
    more: { readonly waitedMs: number; readonly refused: number },
    now = this.#clock.now(),
  ): void {
    const key = `${operation} ${cluster} ${topic}`;
    const line = this.#quotas.get(key) ?? { operation, topic, cluster, times: 0, waitedMs: 0, refused: 0, firstAtMs: now, lastAtMs: now };
    line.times++;
    line.waitedMs += more.waitedMs;
    line.refused += more.refused;
    line.lastAtMs = now;
    this.#quotas.set(key, line);
    this.#whole?.delayed(operation, topic, cluster, more, now);
  }

  report(): GuardReport {
    const copies = <T extends object>(lines: Iterable<T>): readonly T[] => [...lines].map((line) => ({ ...line }));
    return {
      sent: this.#sent,
      consumed: this.#consumed,
      refused: this.#refused,
      refusals: copies(this.#refusals.values()),
      quotas: copies(this.#quotas.values()),
    };
  }
}
