import { setTimeout as pause } from 'node:timers/promises';
import { isTurnpikeError, type Kafka, type RecordMetadata } from '@turnpike/client';
import { type Counted, type CountedTopic, TOPICS, type TopicName } from './contract.ts';
import type { History } from './history.ts';
import type { Random } from './random.ts';

/** How often records are sent, in ms. */
const TURN_MS = 5;
/** The most that are sent in one turn, in turns' worth: what a busy machine has missed comes back in steps. */
const CATCH_UP = 8;
/** No more is sent while so many are under way. */
const MAX_UNDER_WAY = 60_000;
const KEYS = 150;
const MAX_SINGLES = 12;
const MAX_BATCH = 120;
const FILLER = 'How far is it from the gate to the runway, and who is on the way there? '.repeat(6);

export type CountedKafka = Kafka<Readonly<Record<TopicName, CountedTopic>>, Readonly<Record<TopicName, { topic: CountedTopic; groups: readonly string[] }>>>;

/** Told of each record that is acknowledged. */
export type OnAcknowledged = (topic: string, partition: number, event: number) => void;

/** Sends without a stop, at a steady rate, whatever becomes of the brokers: single sends and batches, by choice of the seed. */
export class Load {
  readonly #kafka: CountedKafka;
  readonly #history: History;
  readonly #random: Random;
  readonly #perTurn: number;
  readonly #listeners = new Set<OnAcknowledged>();
  readonly #sends = new Set<Promise<void>>();
  readonly #stopped = new AbortController();
  readonly #running: Promise<void>;
  #mostUnderWay = 0;
  #heldBackMs = 0;

  constructor(init: { readonly kafka: CountedKafka; readonly history: History; readonly random: Random; readonly rate: number }) {
    this.#kafka = init.kafka;
    this.#history = init.history;
    this.#random = init.random;
    this.#perTurn = (init.rate * TURN_MS) / 1000;
    this.#running = this.#run();
  }

  /** For how long nothing was sent since too much was under way. */
  get heldBackMs(): number {
    return this.#heldBackMs;
  }

  /** The most that were under way since the last call. */
  mostUnderWay(): number {
    const most = this.#mostUnderWay;
    this.#mostUnderWay = this.#history.unsettled;
    return most;
  }

  onAcknowledged(listener: OnAcknowledged): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /** Resolves when everything that was sent has ended. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    await this.#running;
    await Promise.all(this.#sends);
  }

  async #run(): Promise<void> {
    let due = 0;
    let last = performance.now();
    while (!this.#stopped.signal.aborted) {
      const now = performance.now();
      due = Math.min(due + (this.#perTurn * (now - last)) / TURN_MS, this.#perTurn * CATCH_UP);
      if (this.#history.unsettled >= MAX_UNDER_WAY) {
        this.#heldBackMs += now - last;
        due = 0;
      }
      last = now;
      while (due >= 1) due -= this.#sendSome(Math.floor(due));
      this.#mostUnderWay = Math.max(this.#mostUnderWay, this.#history.unsettled);
      await pause(TURN_MS);
    }
  }

  /** How many it has sent. */
  #sendSome(most: number): number {
    const topic = this.#random.of(TOPICS);
    const single = this.#random.next() < 0.5;
    const count = Math.min(most, 1 + this.#random.below(single ? MAX_SINGLES : MAX_BATCH));
    const events = Array.from({ length: count }, () => this.#event(topic));
    const producer = this.#kafka.producer(topic);
    if (single)
      for (const event of events)
        this.#follow(
          producer.send(event).then(
            (metadata) => this.#ended(event, metadata),
            (error: unknown) => this.#ended(event, error),
          ),
        );
    else
      this.#follow(
        producer.sendBatch(events).then(
          (all) => this.#endedAll(events, all),
          (error: unknown) => this.#endedAll(events, (isTurnpikeError(error) && error.outcomes) || events.map(() => error)),
        ),
      );
    return count;
  }

  #event(topic: TopicName): Counted {
    const key = `k${this.#random.below(KEYS)}`;
    return { key, ...this.#history.send(topic, key), filler: FILLER.slice(0, this.#random.below(FILLER.length)) };
  }

  #follow(send: Promise<void>): void {
    this.#sends.add(send);
    void send.then(() => this.#sends.delete(send));
  }

  #endedAll(events: readonly Counted[], outcomes: readonly unknown[]): void {
    for (const [i, event] of events.entries()) this.#ended(event, outcomes[i]);
  }

  #ended({ event }: Counted, outcome: unknown): void {
    if (isMetadata(outcome)) {
      const { topic, partition, offset } = outcome;
      this.#history.acknowledge(event, { partition, offset: Number(offset) });
      for (const listener of this.#listeners) listener(topic, partition, event);
    } else if (isTurnpikeError(outcome)) this.#history.fail(event, { code: outcome.message, written: outcome.written });
    else this.#history.fail(event, { code: String(outcome), written: undefined });
  }
}

const isMetadata = (outcome: unknown): outcome is RecordMetadata =>
  !(outcome instanceof Error) && typeof outcome === 'object' && outcome !== null && 'partition' in outcome;
