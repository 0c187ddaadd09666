import { describe, expect, it } from 'vitest';
import { TurnpikeError } from '../errors.ts';
import { P0, running as setUp, turn } from './held-port.ts';

const microtasks = async (n: number) => {
  for (let i = 0; i < n; i++) await undefined;
};

describe('GroupConsumer: hand-over, revocation, close', () => {
  // A batch that came between the handler's end and the lane's own notice of it was put into a lane that nobody worked on any more, and lay there until the next batch.
  it.each(Array.from({ length: 16 }, (_, n) => [n]))('leaves no batch lying that arrives %i microtasks after the handler has finished', async (n) => {
    const seen: string[] = [];
    const first = Promise.withResolvers<void>();
    const { port, consumer, running } = setUp(async (event) => {
      seen.push(String(event.value));
      if (event.value === 'a') await first.promise;
    });
    await turn();
    port.listener?.assigned([P0]);
    port.bring(['a']);
    await turn();
    expect(seen).toEqual(['a']);
    first.resolve();
    await microtasks(n);
    port.bring(['b']);
    await turn();
    expect(seen).toEqual(['a', 'b']);
    await consumer.close();
    await running;
    expect(port.commits.at(-1)).toEqual([{ ...P0, offset: 2n }]);
  });

  it('close() ends a join that has not come to an end, and run() with it, without an error', async () => {
    const { port, consumer, running } = setUp(() => {}, { joined: new Promise(() => {}) });
    await turn();
    await consumer.close();
    await expect(running).resolves.toBeUndefined();
    expect(port.closed).toBe(true);
  });

  it('does not commit what was handled of a partition that was lost before its turn to commit came', async () => {
    const { port, clock, consumer, running } = setUp(() => {}, { options: { commitIntervalMs: 100 } });
    await turn();
    port.listener?.assigned([P0, { topic: 't', partition: 1 }]);
    port.bring(['a']);
    await turn();
    const slow = Promise.withResolvers<void>();
    port.committing = () => slow.promise;
    await clock.advance(100); // The first commit is under way: the next waits for it.
    port.bring(['b']);
    await turn();
    const revoked = port.listener?.revoking([P0]);
    await turn();
    port.listener?.lost([P0]);
    slow.resolve();
    await revoked;
    await consumer.close();
    await running;
    expect(port.commits).toEqual([[{ ...P0, offset: 1n }]]);
  });

  it('stops polling while what the handlers have not seen yet takes maxPrefetchBytes, and goes on when it is handled', async () => {
    const seen: string[] = [];
    let go = Promise.withResolvers<void>();
    const { port, consumer, running } = setUp(
      async (event) => {
        seen.push(String(event.value)[0] ?? '');
        await go.promise;
      },
      { options: { maxPrefetchBytes: 10_000 } },
    );
    await turn();
    port.listener?.assigned([P0, { topic: 't', partition: 1 }]);
    let polls = 0;
    const poll = port.poll.bind(port);
    port.poll = (ms, signal) => {
      polls++;
      return poll(ms, signal);
    };
    port.bring(['a'.repeat(6_000), 'b'.repeat(6_000)]);
    await turn();
    expect({ seen, polls }).toEqual({ seen: ['a'], polls: 0 });
    go.resolve();
    go = Promise.withResolvers();
    await turn();
    expect({ seen, polls }).toEqual({ seen: ['a', 'b'], polls: 1 });
    go.resolve();
    await consumer.close();
    await running;
  });

  it('pauses a partition whose records that wait take more than maxPartitionFetchBytes, however few they are', async () => {
    const go = Promise.withResolvers<void>();
    const { port, consumer, running } = setUp(() => go.promise, { options: { maxPartitionFetchBytes: 1024 } });
    await turn();
    port.listener?.assigned([P0]);
    port.bring(['a'.repeat(3_000), 'b'.repeat(3_000)]);
    await turn();
    expect(port.paused).toEqual(['pause 0']);
    go.resolve();
    await turn();
    expect(port.paused).toEqual(['pause 0', 'resume 0']);
    await consumer.close();
    await running;
  });

  it('a commit that is refused for good ends the consumer with that error', async () => {
    const { port, clock, running } = setUp(() => {}, { options: { commitIntervalMs: 100 } });
    await turn();
    port.listener?.assigned([P0]);
    port.bring(['a']);
    await turn();
    port.committing = () => Promise.reject(new TurnpikeError('AUTHORIZATION_FAILED', 'withdrawn'));
    const ended = expect(running).rejects.toMatchObject({ code: 'AUTHORIZATION_FAILED' });
    await clock.advance(100);
    await ended;
    expect(port.closed).toBe(true);
  });
});
