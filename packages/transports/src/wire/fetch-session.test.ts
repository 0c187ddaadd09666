import { describe, expect, it } from 'vitest';
import { FetchSession } from './fetch-session.ts';

const ask = (partition: number, offset = 0n, more: { leaderEpoch?: number; lastEpoch?: number } = {}) => ({
  key: `t/${partition}`,
  topic: 't',
  partition,
  offset,
  leaderEpoch: 1,
  lastEpoch: -1,
  ...more,
});
const summary = ({ sessionId, sessionEpoch, partitions, forgotten }: ReturnType<FetchSession['next']>) => [
  sessionId,
  sessionEpoch,
  partitions.map((p) => `${p.partition}@${p.offset}`).join(),
  forgotten.map((p) => p.partition).join(),
];

describe('FetchSession', () => {
  it('names all partitions once, then those that have changed, and those that shall be forgotten', () => {
    const session = new FetchSession();
    expect(summary(session.next([ask(0), ask(1), ask(2)]))).toEqual([0, 0, '0@0,1@0,2@0', '']);
    session.answered(77);
    expect(summary(session.next([ask(0), ask(1, 5n), ask(2)]))).toEqual([77, 1, '1@5', '']);
    session.answered(77);
    expect(summary(session.next([ask(1, 5n), ask(3)]))).toEqual([77, 2, '3@0', '0,2']);
    session.answered(77);
    expect(summary(session.next([ask(0), ask(1, 5n), ask(3)]))).toEqual([77, 3, '0@0', '']);
    session.answered(77);
    expect(summary(session.next([ask(0), ask(1, 5n, { leaderEpoch: 2 }), ask(3, 0n, { lastEpoch: 1 })]))).toEqual([77, 4, '1@5,3@0', '']);
  });

  it('goes on in full where the broker keeps no session', () => {
    const session = new FetchSession();
    for (let i = 0; i < 3; i++) {
      expect(summary(session.next([ask(0), ask(1)]))).toEqual([0, 0, '0@0,1@0', '']);
      session.answered(0);
    }
  });

  it('after a failure ends the session that there may be, in a full fetch that begins another', () => {
    const session = new FetchSession();
    session.next([ask(0), ask(1)]);
    session.answered(77);
    session.next([ask(0, 3n), ask(1)]);
    session.unsure();
    expect(summary(session.next([ask(0, 3n)]))).toEqual([77, 0, '0@3', '']);
    session.answered(78);
    expect(summary(session.next([ask(0, 4n)]))).toEqual([78, 1, '0@4', '']);
  });

  it('begins anew where the broker has given the session up', () => {
    const session = new FetchSession();
    session.next([ask(0)]);
    session.answered(77);
    session.next([ask(0, 1n)]);
    session.gone();
    expect(summary(session.next([ask(0, 1n), ask(1)]))).toEqual([0, 0, '0@1,1@0', '']);
  });
});
