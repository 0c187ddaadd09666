import type { Written } from '@turnpike/core';

/** A record as it was read back. */
export interface StoredRecord {
  readonly topic: string;
  readonly partition: number;
  readonly offset: number;
  readonly key: string | null;
  readonly event: number;
  readonly sequence: number;
}

/** What comes of comparing what was sent with what is in the log. All but `acknowledged`, `failed` and `unsettled` are mistakes. */
export interface Verdict {
  readonly acknowledged: number;
  readonly failed: number;
  /** Neither acknowledged nor failed. */
  readonly unsettled: number;
  /** Acknowledged, and not there. */
  readonly lost: number;
  /** Copies beyond the first, of any record. */
  readonly duplicated: number;
  /** Behind a record of the same key that was sent later. */
  readonly outOfOrder: number;
  /** Failed with `written: "no"`, and there. */
  readonly falselyDenied: number;
  /** Acknowledged at a place where another record is, or none. */
  readonly misplaced: number;
  /** Never sent, or sent with another key, sequence or topic. */
  readonly foreign: number;
  /** In another partition than the first record of the same key. */
  readonly scattered: number;
  /** How often a partition doesn't go on with the next offset. */
  readonly gaps: number;
  /** The first of each kind, to look at. */
  readonly examples: readonly string[];
}

type Mistake = Exclude<keyof Verdict, 'acknowledged' | 'failed' | 'unsettled' | 'examples'>;

const EXAMPLES = 5;
const UNSETTLED = 0;
const ACKNOWLEDGED = 1;
const FAILED_UNWRITTEN = 2;
const FAILED_UNKNOWN = 3;

interface Key {
  readonly topic: string;
  readonly name: string;
  sent: number;
}

/** Everything that was sent and what came of it, and whether the log agrees. Events are numbered from 0, in the order in which they were sent; those of a key have a sequence of their own. */
export class History {
  readonly #keys = new Map<string, Key>();
  readonly #keyOf: Key[] = [];
  readonly #sequenceOf: number[] = [];
  readonly #outcomeOf: number[] = [];
  readonly #partitionOf: number[] = [];
  readonly #offsetOf: number[] = [];
  readonly #failures = new Map<string, number>();
  #acknowledged = 0;
  #failed = 0;

  get sent(): number {
    return this.#keyOf.length;
  }

  get acknowledged(): number {
    return this.#acknowledged;
  }

  get failed(): number {
    return this.#failed;
  }

  get unsettled(): number {
    return this.sent - this.#acknowledged - this.#failed;
  }

  /** How often a send ended with what. */
  get failures(): ReadonlyMap<string, number> {
    return this.#failures;
  }

  /** Takes the next number, and the next sequence of its key. */
  send(topic: string, name: string): { readonly event: number; readonly sequence: number } {
    const id = `${topic} ${name}`;
    const key = this.#keys.get(id) ?? { topic, name, sent: 0 };
    this.#keys.set(id, key);
    const event = this.#keyOf.push(key) - 1;
    const sequence = key.sent++;
    this.#sequenceOf.push(sequence);
    this.#outcomeOf.push(UNSETTLED);
    this.#partitionOf.push(-1);
    this.#offsetOf.push(-1);
    return { event, sequence };
  }

  /** A partition or an offset of -1: it isn't told. */
  acknowledge(event: number, at: { readonly partition: number; readonly offset: number }): void {
    this.#settle(event, ACKNOWLEDGED);
    this.#acknowledged++;
    this.#partitionOf[event] = at.partition;
    this.#offsetOf[event] = at.offset;
  }

  fail(event: number, { code, written }: { readonly code: string; readonly written: Written | undefined }): void {
    this.#settle(event, written === 'no' ? FAILED_UNWRITTEN : FAILED_UNKNOWN);
    this.#failed++;
    const kind = `${code}, written: ${written === undefined ? 'not told' : `"${written}"`}`;
    this.#failures.set(kind, (this.#failures.get(kind) ?? 0) + 1);
  }

  wasAcknowledged(event: number): boolean {
    return this.#outcomeOf[event] === ACKNOWLEDGED;
  }

  /** It has failed, and the error says that it was not written. */
  wasDenied(event: number): boolean {
    return this.#outcomeOf[event] === FAILED_UNWRITTEN;
  }

  keyOf(event: number): Key | undefined {
    return this.#keyOf[event];
  }

  sequenceOf(event: number): number | undefined {
    return this.#sequenceOf[event];
  }

  /** Where its acknowledgement says that it is. */
  placeOf(event: number): { readonly partition: number; readonly offset: number } {
    return { partition: this.#partitionOf[event] ?? -1, offset: this.#offsetOf[event] ?? -1 };
  }

  /** For whoever looks for it in a log. */
  describe(event: number): string {
    const key = this.#keyOf[event];
    const { partition, offset } = this.placeOf(event);
    const told = this.wasAcknowledged(event) ? `, acknowledged at ${partition < 0 ? '?' : partition}@${offset < 0 ? '?' : offset}` : '';
    return `event ${event} (${key?.topic} ${key?.name}#${this.#sequenceOf[event]}${told})`;
  }

  /** Compares with the log, as it is read back. */
  audit(): Audit {
    return new Audit(this);
  }

  #settle(event: number, outcome: number): void {
    if (this.#outcomeOf[event] !== UNSETTLED) throw new Error(`event ${event} has ended twice, or was never sent`);
    this.#outcomeOf[event] = outcome;
  }
}

/** Takes each partition's records in the order of their offsets, from 0; partitions in any order. */
export class Audit {
  readonly #history: History;
  readonly #found = new Tally();
  readonly #times: Uint8Array;
  readonly #nextOffset = new Map<string, number>();
  readonly #seen = new Map<Key, { readonly partition: number; highest: number }>();

  constructor(history: History) {
    this.#history = history;
    this.#times = new Uint8Array(history.sent);
  }

  add(record: StoredRecord): void {
    const { topic, partition, offset, event, sequence } = record;
    const place = `${topic}/${partition}`;
    const expected = this.#nextOffset.get(place) ?? 0;
    if (offset !== expected) this.#found.add('gaps', `${place} goes on at ${offset} instead of ${expected}`);
    this.#nextOffset.set(place, offset + 1);
    const key = this.#history.keyOf(event);
    if (key === undefined || key.topic !== topic || key.name !== record.key || this.#history.sequenceOf(event) !== sequence) {
      this.#found.add('foreign', `${place}@${offset}: event ${event}, ${record.key}#${sequence}`);
      return;
    }
    const times = this.#times[event] ?? 0;
    this.#times[event] = Math.min(times + 1, 255);
    if (times > 0) {
      this.#found.add('duplicated', `${this.#history.describe(event)} again at ${place}@${offset}`);
      return;
    }
    this.#inOrder(key, record);
    const told = this.#history.placeOf(event);
    if (this.#history.wasAcknowledged(event) && ((told.partition >= 0 && told.partition !== partition) || (told.offset >= 0 && told.offset !== offset)))
      this.#found.add('misplaced', `${this.#history.describe(event)} stands at ${place}@${offset}`);
  }

  verdict(): Verdict {
    const { acknowledged, failed, unsettled } = this.#history;
    for (const [event, times] of this.#times.entries()) {
      if (times === 0 && this.#history.wasAcknowledged(event)) this.#found.add('lost', this.#history.describe(event));
      if (times > 0 && this.#history.wasDenied(event)) this.#found.add('falselyDenied', this.#history.describe(event));
    }
    return { acknowledged, failed, unsettled, ...this.#found.counts, examples: this.#found.examples };
  }

  #inOrder(key: Key, { topic, partition, offset, event, sequence }: StoredRecord): void {
    const seen = this.#seen.get(key);
    if (!seen) this.#seen.set(key, { partition, highest: sequence });
    else if (seen.partition !== partition)
      this.#found.add('scattered', `${this.#history.describe(event)} at ${topic}/${partition}, others of its key at ${seen.partition}`);
    else if (sequence < seen.highest)
      this.#found.add('outOfOrder', `${this.#history.describe(event)} at ${topic}/${partition}@${offset}, behind #${seen.highest}`);
    else seen.highest = sequence;
  }
}

class Tally {
  readonly counts: Record<Mistake, number> = { lost: 0, duplicated: 0, outOfOrder: 0, falselyDenied: 0, misplaced: 0, foreign: 0, scattered: 0, gaps: 0 };
  readonly examples: string[] = [];

  add(mistake: Mistake, what: string): void {
    if (this.counts[mistake] < EXAMPLES) this.examples.push(`${mistake}: ${what}`);
    this.counts[mistake]++;
  }
}

/** Whether every record that was acknowledged is there exactly once, in order, and nothing else than what was said. */
export const holds = (v: Verdict): boolean =>
  v.acknowledged > 0 && v.unsettled + v.lost + v.duplicated + v.outOfOrder + v.falselyDenied + v.misplaced + v.foreign + v.scattered + v.gaps === 0;
