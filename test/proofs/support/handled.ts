import type { CommitOffset } from '@turnpike/core/spi';
import type { History } from './history.ts';

interface Place {
  /** Behind the last record that any member has handled. */
  next: number;
  /** Behind the record that was handled last, be it again. */
  position: number;
  member: string;
  /** What the group had committed when it was last asked. */
  committed: number;
}

/** What a group's members have handled, and whether that agrees with what was acknowledged and committed. */
export class Handled {
  readonly #history: History;
  readonly #places = new Map<string, Place>();
  readonly #times: number[] = [];
  readonly #highest = new Map<string, number>();
  readonly #rewinds: string[] = [];
  readonly #mistakes: string[] = [];
  #events = 0;
  #again = 0;
  #outOfOrder = 0;

  constructor(history: History) {
    this.#history = history;
  }

  /** Different ones. */
  get events(): number {
    return this.#events;
  }

  /** How often one was handled that had been before. */
  get again(): number {
    return this.#again;
  }

  /** Each time that a partition was read from further back, whatever explains it. */
  get rewinds(): readonly string[] {
    return this.#rewinds;
  }

  get outOfOrder(): number {
    return this.#outOfOrder;
  }

  /** What nothing explains: a record that comes again though its offset was committed, one that was passed over, a commit of what nobody has handled. */
  get mistakes(): readonly string[] {
    return this.#mistakes;
  }

  handle(
    member: string,
    record: { readonly topic: string; readonly partition: number; readonly offset: number; readonly key: string; readonly event: number },
  ): void {
    const { topic, partition, offset, key, event } = record;
    const name = `${topic}/${partition}`;
    const place = this.#places.get(name) ?? { next: 0, position: 0, member, committed: 0 };
    this.#places.set(name, place);
    if (offset < place.next && (offset !== place.position || member !== place.member)) this.#rewind(name, place, member, offset);
    if (offset > place.next) this.#mistakes.push(`${member} goes on at ${name}@${offset}, nobody has handled ${place.next} to ${offset - 1}`);
    place.next = Math.max(place.next, offset + 1);
    place.position = offset + 1;
    place.member = member;
    const times = this.#times[event] ?? 0;
    this.#times[event] = times + 1;
    if (times > 0) {
      this.#again++;
      return;
    }
    this.#events++;
    const sequence = this.#history.sequenceOf(event) ?? -1;
    const id = `${topic} ${key}`;
    if (sequence < (this.#highest.get(id) ?? -1)) this.#outOfOrder++;
    else this.#highest.set(id, sequence);
  }

  /** What the broker says of the group's commits. */
  committed(offsets: readonly CommitOffset[]): void {
    for (const { topic, partition, offset } of offsets) {
      const name = `${topic}/${partition}`;
      const place = this.#places.get(name);
      const at = Number(offset);
      if (at > (place?.next ?? 0)) this.#mistakes.push(`${name} is committed up to ${at}, and handled up to ${place?.next ?? 0}`);
      if (!place) continue;
      if (at < place.committed) this.#mistakes.push(`${name} was committed up to ${place.committed}, and then up to ${at}`);
      place.committed = at;
    }
  }

  /** Acknowledged records that no member has handled. */
  missing(): number {
    let missing = 0;
    for (let event = 0; event < this.#history.sent; event++) if (this.#history.wasAcknowledged(event) && !this.#times[event]) missing++;
    return missing;
  }

  #rewind(name: string, { next, committed, member: before }: Place, member: string, offset: number): void {
    const what = `${name}: ${member}${member === before ? '' : ` after ${before}`} from ${offset}, ${next - offset} again; committed ${committed}`;
    this.#rewinds.push(what);
    if (offset < committed) this.#mistakes.push(`comes again though committed: ${what}`);
  }
}
