import { setTimeout as pause } from 'node:timers/promises';
import type { ConsumedEvent } from '@turnpike/client';
import type { AdminPort } from '@turnpike/core/spi';
import { type Counted, GROUP, TOPICS } from './contract.ts';
import type { Handled } from './handled.ts';
import type { CountedKafka } from './load.ts';

const ASK_MS = 500;
/** How long a loop may wait for the event at which it is left, in ms. */
const LEAVE_MS = 5_000;

/** How a member takes its events. A loop that is left has one in hand, which comes again. */
export const WAYS = ['run', 'runBatch', 'loop'] as const;
export type Way = (typeof WAYS)[number];

type CountedEvent = Pick<ConsumedEvent<string, Counted>, 'topic' | 'partition' | 'offset' | 'value'>;

/** The members of one consumer group, and what the brokers say that it has committed. A member that ends by itself is a failure. */
export class Members {
  readonly #kafka: CountedKafka;
  readonly #handled: Handled;
  readonly #members: { readonly close: () => Promise<void> }[] = [];
  readonly #failures: string[] = [];
  readonly #stopped = new AbortController();
  readonly #asking: Promise<void>;
  #joined = 0;

  constructor(init: { readonly kafka: CountedKafka; readonly handled: Handled; readonly admin: AdminPort }) {
    this.#kafka = init.kafka;
    this.#handled = init.handled;
    this.#asking = this.#ask(init.admin);
  }

  /** How many have been there, one after another. */
  get joined(): number {
    return this.#joined;
  }

  get failures(): readonly string[] {
    return this.#failures;
  }

  join(way: Way): void {
    const name = `member ${++this.#joined} (${way})`;
    const consumer = this.#kafka.consumer(TOPICS, { commitIntervalMs: 300, heartbeatIntervalMs: 500, sessionTimeoutMs: 10_000 });
    const handle = ({ topic, partition, offset, value }: CountedEvent): void => {
      if (value) this.#handled.handle(name, { topic, partition, offset: Number(offset), key: value.key, event: value.event });
    };
    let leaving = false;
    const loop = async (): Promise<void> => {
      for await (const event of consumer) {
        handle(event);
        if (leaving) break;
      }
    };
    const run = { run: () => consumer.run(handle), runBatch: () => consumer.runBatch((events) => events.forEach(handle)), loop }[way];
    const running = run().catch((error: unknown) => void this.#failures.push(`${name} has ended: ${error}`));
    this.#members.push({
      close: async () => {
        leaving = true;
        if (way === 'loop') await Promise.race([running, pause(LEAVE_MS)]);
        await consumer.close();
        await running;
      },
    });
  }

  /** The member that has been there longest leaves; its partitions go to the others. */
  async leave(): Promise<void> {
    await this.#members.shift()?.close();
  }

  async stop(): Promise<void> {
    while (this.#members.length > 0) await this.leave();
    this.#stopped.abort();
    await this.#asking;
  }

  async #ask(admin: AdminPort): Promise<void> {
    while (!this.#stopped.signal.aborted) {
      // The coordinator may just have been killed.
      const offsets = await admin.groupOffsets(GROUP).catch(() => []);
      this.#handled.committed(offsets);
      await pause(ASK_MS);
    }
  }
}
