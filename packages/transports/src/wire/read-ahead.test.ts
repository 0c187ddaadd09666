import { ManualClock } from '@turnpike/core/memory';
import type { FetchedBatch } from '@turnpike/core/spi';
import { expect, it } from 'vitest';
import { Changes } from './read-ahead.ts';

const batch = { topic: 't', partition: 0 } as unknown as FetchedBatch;

// What had been read ahead was still handed out after a close, though its partition was another member's by then.
it('a poll gives what is there, and nothing any more once its port is closed', async () => {
  const changes = new Changes(new ManualClock());
  const closing = new AbortController();
  const signals = { poller: undefined, closed: closing.signal };
  expect(await changes.poll(() => [batch], 1_000, signals)).toEqual([batch]);
  const waiting = changes.poll(() => (closing.signal.aborted ? [batch] : []), 1_000, signals);
  closing.abort();
  changes.tell();
  expect(await waiting).toEqual([]);
  expect(await changes.poll(() => [batch], 1_000, signals)).toEqual([]);
});

// A consumer whose link was closed under it polled on in microtasks, and its process stood still.
it('lets others have their turn though it is polled again and again after the close', async () => {
  const changes = new Changes(new ManualClock());
  let turns = 0;
  const timer = setInterval(() => turns++, 0);
  for (let i = 0; i < 50 || turns === 0; i++) await changes.poll(() => [], 1_000, { poller: undefined, closed: AbortSignal.abort() });
  clearInterval(timer);
  expect(turns).toBeGreaterThan(0);
});
