import type { GroupConsumer } from './consumer.ts';
import type { ConsumedEvent } from './event.ts';

/** A consumer as an async iterator: asking for the next event says that the last one is handled. Leaving the loop doesn't: the event in hand comes again. */
export async function* iterate(consumer: GroupConsumer): AsyncGenerator<ConsumedEvent, void, undefined> {
  const waiting: { event: ConsumedEvent; done: () => void }[] = [];
  let notify = () => {};
  let end: { readonly error?: unknown } | undefined;
  const running = consumer.run(
    (event) =>
      new Promise<void>((done) => {
        waiting.push({ event, done });
        notify();
      }),
  );
  const over = (how: { readonly error?: unknown }) => {
    end = how;
    notify();
  };
  running.then(
    () => over({}),
    (error: unknown) => over({ error }),
  );
  try {
    for (;;) {
      const head = waiting.shift();
      if (head) {
        yield head.event;
        head.done();
        continue;
      }
      if (end) {
        if ('error' in end) throw end.error;
        return;
      }
      // Not a race against the run's own promise: each round would leave a reaction on it for as long as the consumer lives.
      await new Promise<void>((resolve) => {
        notify = resolve;
      });
    }
  } finally {
    // What is in hand or waits is neither handled nor awaited: the drain ends at once.
    await consumer.abandon();
  }
}
