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
/** How an event is sent, and how many at most at a time. */
const WAYS = [
  { way: 'send', most: 12 },
  { way: 'post', most: 40 },
  { way: 'sendBatch', most: 120 },
] as const;
const FILLER = 'How far is it from the gate to the runway, and who is on the way there? '.repeat(6);

export type CountedKafka = Kafka<Readonly<Record<TopicName, CountedTopic>>, Readonly<Record<TopicName, { topic: CountedTopic; groups: readonly string[] }>>>;

/** Told of each record that is acknowledged. */
export type OnAcknowledged = (topic: string, partition: number, event: number) => void;

/** Sends without a stop, at a steady rate, whatever becomes of the brokers: send(), post() and sendBatch(), by choice of the seed. */
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
  #sendSome(due: number): number {
    const topic = this.#random.of(TOPICS);
    const { way, most } = this.#random.of(WAYS);
    const count = Math.min(due, 1 + this.#random.below(most));
    const events = Array.from({ length: count }, () => this.#event(topic));
    if (way === 'send') for (const event of events) this.#follow(this.#send(topic, event));
    else this.#follow(way === 'post' ? this.#post(topic, events) : this.#sendBatch(topic, events));
    return count;
  }

  async #send(topic: TopicName, event: Counted): Promise<void> {
    this.#ended(event, await this.#kafka.producer(topic).send(event).catch(failure));
  }

  async #sendBatch(topic: TopicName, events: readonly Counted[]): Promise<void> {
    const outcome = await this.#kafka.producer(topic).sendBatch(events).catch(failure);
    for (const [i, event] of events.entries())
      this.#ended(event, outcome instanceof Error ? (isTurnpikeError(outcome) && outcome.outcomes?.[i]) || outcome : outcome[i]);
  }

  /** What nobody has said to have failed when a later flush has ended is acknowledged; where it stands isn't told. */
  async #post(topic: TopicName, events: readonly Counted[]): Promise<void> {
    const producer = this.#kafka.producer(topic);
    const posted = new Set(events);
    for (const event of events)
      producer.post(event, (error) => {
        posted.delete(event);
        this.#ended(event, error);
      });
    await producer.flush();
    for (const { event } of posted) this.#history.acknowledge(event, { partition: -1, offset: -1 });
  }

  #event(topic: TopicName): Counted {
    const key = `k${this.#random.below(KEYS)}`;
    return { key, ...this.#history.send(topic, key), filler: FILLER.slice(0, this.#random.below(FILLER.length)) };
  }

  #follow(send: Promise<void>): void {
    this.#sends.add(send);
    void send.then(() => this.#sends.delete(send));
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

const failure = (error: unknown): Error => (error instanceof Error ? error : new Error(String(error)));

const isMetadata = (outcome: unknown): outcome is RecordMetadata =>
  !(outcome instanceof Error) && typeof outcome === 'object' && outcome !== null && 'partition' in outcome;
