import type { ProduceBatch } from '@turnpike/core/spi';
import type { BatchSequence } from './batch-writer.ts';
import type { Connections } from './connections.ts';
import type { Metadata } from './metadata.ts';
import { askProducerId } from './producer-id.ts';

const MAX_EPOCH = 32_767;
/** Sequences wrap at 2^31 (KIP-98). */
const SEQUENCES = 0x8000_0000;

/** A batch's place among those of its partition. */
export interface Placed<Self> {
  readonly batch: ProduceBatch;
  /** Its own from the first try on: a retry must be the same, so that the broker knows it again. */
  sequence: BatchSequence | undefined;
  /** The one before it of its partition, if that was under way when this one went. */
  before: Self | undefined;
  /** It went out and no answer says that it was not written. */
  maybeWritten: boolean;
}

/** One partition's sequence numbers (KIP-98): the broker takes a batch only behind the one before it, so several may be under way. */
export class PartitionSequence<A extends Placed<A>> {
  /** undefined = the next batch asks for one. */
  producerId: bigint | undefined;
  epoch = 0;
  #next = 0;
  #underWay: A[] = [];
  /** The broker has one of this epoch: only then does it refuse one that comes too early. */
  #acknowledged = false;
  #troubled = false;

  /** Whether another may go behind so many that are under way: not behind one that has ended, of which its sender doesn't know yet, and may want to send it again. */
  pipelines(underWay: number): boolean {
    return this.#acknowledged && !this.#troubled && this.#underWay.length === underWay;
  }

  /** One of those under way has to go again: nothing more is sent before all of them have ended. */
  trouble(): void {
    this.#troubled = true;
  }

  /** Gives the batch its place; true = it has another than before. One that may have been written keeps its own, whatever has become of the epoch. */
  place(attempt: A): boolean {
    const { producerId, epoch } = this;
    if (producerId === undefined) return false;
    if (!this.#underWay.includes(attempt)) {
      attempt.before = this.#underWay.at(-1);
      this.#underWay.push(attempt);
    }
    const { sequence } = attempt;
    if (sequence && (attempt.maybeWritten || (sequence.epoch === epoch && sequence.producerId === producerId))) return false;
    attempt.sequence = { producerId, epoch, sequence: this.#next };
    this.#next = (this.#next + attempt.batch.count) % SEQUENCES;
    return true;
  }

  written(attempt: A): void {
    if (attempt.sequence?.epoch === this.epoch) this.#acknowledged = true;
  }

  /** Its place is free again, for whatever goes next; those behind it can't be written any more. */
  unwritten(attempt: A): void {
    this.#troubled = true;
    const { sequence } = attempt;
    if (sequence?.epoch !== this.epoch || sequence.producerId !== this.producerId) return;
    const back = (this.#next - sequence.sequence + SEQUENCES) % SEQUENCES;
    // One before it may have given back more.
    if (back < SEQUENCES / 2) this.#next = sequence.sequence;
  }

  left(attempt: A): void {
    const at = this.#underWay.indexOf(attempt);
    if (at < 0) return;
    this.#underWay.splice(at, 1);
    if (this.#underWay.length === 0) this.#troubled = false;
  }

  /** The broker refuses what comes late with the older epoch; the partition begins anew at sequence 0 (KIP-360). false = there is no higher one. */
  raiseEpoch(): boolean {
    if (this.epoch === MAX_EPOCH) return false;
    this.#restart();
    this.epoch++;
    return true;
  }

  /** As another producer from now on. What is under way stays ahead of what comes. */
  adopt(producerId: bigint | undefined, epoch: number): void {
    if (producerId === this.producerId && epoch === this.epoch) return;
    this.#restart();
    this.producerId = producerId;
    this.epoch = epoch;
  }

  #restart(): void {
    this.#next = 0;
    this.#acknowledged = false;
    this.#troubled = this.#underWay.length > 0;
  }
}

/** A producer's id and the sequences of its partitions. */
export class Sequences<A extends Placed<A>> {
  readonly #metadata: Metadata;
  readonly #connections: Connections;
  readonly #partitions = new Map<string, (PartitionSequence<A> | undefined)[]>();
  #producerId: Promise<bigint> | undefined;

  constructor(metadata: Metadata, connections: Connections) {
    this.#metadata = metadata;
    this.#connections = connections;
  }

  at(topic: string, partition: number): PartitionSequence<A> {
    const ofTopic = this.#partitions.get(topic) ?? [];
    const found = ofTopic[partition];
    if (found) return found;
    const made = new PartitionSequence<A>();
    ofTopic[partition] = made;
    this.#partitions.set(topic, ofTopic);
    return made;
  }

  /** Gets the partition's producer id. Rejects with what the brokers say to that. */
  async open(topic: string, partition: number): Promise<void> {
    const producerId = await this.#initProducerId();
    const sequence = this.at(topic, partition);
    if (sequence.producerId === undefined) sequence.adopt(producerId, 0);
  }

  /** A batch's fate is open, or the broker doesn't know its place: what comes after it begins anew, and late writes of it are refused. */
  raiseEpoch({ topic, partition }: ProduceBatch): void {
    const sequence = this.at(topic, partition);
    if (!sequence.raiseEpoch()) this.#forget(sequence);
  }

  /** The batch goes again at the head of a new sequence; where a new epoch hasn't helped, as another producer. */
  startAnew({ batch }: A, asAnother: boolean): void {
    if (asAnother) this.#forget(this.at(batch.topic, batch.partition));
    else this.raiseEpoch(batch);
  }

  #forget(sequence: PartitionSequence<A>): void {
    this.#producerId = undefined;
    sequence.adopt(undefined, 0);
  }

  #initProducerId(): Promise<bigint> {
    this.#producerId ??= askProducerId(this.#metadata, this.#connections, 'produce').catch((error: unknown) => {
      this.#producerId = undefined;
      throw error;
    });
    return this.#producerId;
  }
}
