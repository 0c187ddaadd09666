import type { ConsumedEvent, GroupConsumer } from './consumer.ts';

/** A consumer as an async iterator: asking for the next event says that the last one is handled. Leaving the loop doesn't: the event in hand comes again. */
export async function* iterate(consumer: GroupConsumer): AsyncGenerator<ConsumedEvent, void, undefined> {
  const waiting: { event: ConsumedEvent; done: () => void }[] = [];
  let notify = () => {};
  const ended = consumer
    .run(
      (event) =>
        new Promise<void>((done) => {
          waiting.push({ event, done });
          notify();
        }),
    )
    .then(() => 'ended' as const);
  ended.catch(() => notify());
  try {
    for (;;) {
      const arrived = new Promise<'arrived'>((resolve) => {
        notify = () => resolve('arrived');
      });
      const head = waiting.shift();
      if (head) {
        yield head.event;
        head.done();
      } else if ((await Promise.race([arrived, ended])) === 'ended') return;
    }
  } finally {
    // What is in hand or waits is neither handled nor awaited: the drain ends at once.
    await consumer.abandon();
  }
}
