import { describe, expect, it } from 'vitest';
import { History, holds, type StoredRecord, type Verdict } from './history.ts';

/** Five records of one key, all acknowledged where they stand in `log()`. */
function five(): History {
  const history = new History();
  for (let n = 0; n < 5; n++) {
    const { event } = history.send('t', 'k');
    history.acknowledge(event, { partition: 1, offset: n });
  }
  return history;
}

const record = (event: number, more: Partial<StoredRecord> = {}): StoredRecord => ({
  topic: 't',
  partition: 1,
  offset: event,
  key: 'k',
  event,
  sequence: event,
  ...more,
});

/** What the audit says of these events of a key, one after another in the log. */
function verdictOf(history: History, events: readonly number[], more: (event: number) => Partial<StoredRecord> = () => ({})): Verdict {
  const audit = history.audit();
  for (const [offset, event] of events.entries()) audit.add(record(event, { offset, ...more(event) }));
  return audit.verdict();
}

const clean = { lost: 0, duplicated: 0, outOfOrder: 0, falselyDenied: 0, misplaced: 0, foreign: 0, scattered: 0, gaps: 0, unsettled: 0 };

describe('the history of a proof', () => {
  it('holds where each record stands in the log once, in order, where it was acknowledged', () => {
    const verdict = verdictOf(five(), [0, 1, 2, 3, 4]);
    expect(verdict).toMatchObject({ ...clean, acknowledged: 5, failed: 0, examples: [] });
    expect(holds(verdict)).toBe(true);
  });

  it('does not hold where nothing was sent', () => {
    expect(holds(new History().audit().verdict())).toBe(false);
  });

  it('counts a lost, a duplicated and a reordered record, each as what it is', () => {
    // 2 is lost, 1 is there twice, 4 is before 3.
    const verdict = verdictOf(five(), [0, 1, 1, 4, 3]);
    expect(verdict).toMatchObject({ lost: 1, duplicated: 1, outOfOrder: 1 });
    expect(verdict.examples).toEqual(
      expect.arrayContaining([
        'lost: event 2 (t k#2, acknowledged at 1@2)',
        'duplicated: event 1 (t k#1, acknowledged at 1@1) again at t/1@2',
        'outOfOrder: event 3 (t k#3, acknowledged at 1@3) at t/1@4, behind #4',
      ]),
    );
    expect(holds(verdict)).toBe(false);
  });

  it.each<[keyof Verdict, readonly number[], ((event: number) => Partial<StoredRecord>)?]>([
    ['lost', [0, 1, 2, 3]],
    ['duplicated', [0, 1, 2, 3, 4, 4]],
    ['foreign', [0, 1, 2, 3, 4, 5]],
    ['foreign', [0, 1, 2, 3, 4], (event) => (event === 4 ? { sequence: 7 } : {})],
    ['foreign', [0, 1, 2, 3, 4], (event) => (event === 4 ? { key: 'another' } : {})],
    ['gaps', [0, 1, 2, 3, 4], (event) => (event === 4 ? { offset: 5 } : {})],
    ['scattered', [0, 1, 2, 3, 4], (event) => (event === 4 ? { partition: 2, offset: 0 } : {})],
  ])('does not hold with "%s" alone: %j', (mistake, events, more) => {
    const verdict = verdictOf(five(), events, more);
    expect(verdict[mistake]).toBe(1);
    expect(holds(verdict)).toBe(false);
  });

  it('counts each copy of a record, also of one whose fate was unknown', () => {
    const history = five();
    history.fail(history.send('t', 'k').event, { code: 'DELIVERY_TIMEOUT', written: 'unknown' });
    expect(verdictOf(history, [0, 1, 2, 3, 4, 5, 5, 5])).toMatchObject({ duplicated: 2, lost: 0 });
  });

  it('lets a record that failed as "unknown" be there or not, and one that failed as "no" not be there', () => {
    const history = five();
    for (const written of ['unknown', 'unknown', 'no', 'no'] as const) history.fail(history.send('t', 'k').event, { code: 'DELIVERY_TIMEOUT', written });
    expect(verdictOf(history, [0, 1, 2, 3, 4, 5])).toMatchObject({ ...clean, acknowledged: 5, failed: 4 });
    expect(verdictOf(history, [0, 1, 2, 3, 4, 5, 7])).toMatchObject({ ...clean, falselyDenied: 1 });
    expect([...history.failures]).toEqual([
      ['DELIVERY_TIMEOUT, written: "unknown"', 2],
      ['DELIVERY_TIMEOUT, written: "no"', 2],
    ]);
  });

  it('holds an acknowledgement to its place, where one was told', () => {
    const history = new History();
    history.acknowledge(history.send('t', 'k').event, { partition: 1, offset: -1 });
    history.acknowledge(history.send('t', 'k').event, { partition: -1, offset: -1 });
    history.acknowledge(history.send('t', 'k').event, { partition: 1, offset: 7 });
    history.acknowledge(history.send('t', 'k').event, { partition: 2, offset: 3 });
    expect(verdictOf(history, [0, 1, 2, 3])).toMatchObject({ ...clean, misplaced: 2 });
  });

  it('does not hold while a record has not ended', () => {
    const history = five();
    history.send('t', 'k');
    expect(holds(verdictOf(history, [0, 1, 2, 3, 4]))).toBe(false);
  });

  it('tells keys of the same name in two topics apart', () => {
    const history = new History();
    for (const topic of ['t', 'u', 't']) history.acknowledge(history.send(topic, 'k').event, { partition: 1, offset: topic === 'u' ? 0 : -1 });
    const audit = history.audit();
    audit.add(record(0, { sequence: 0 }));
    audit.add(record(2, { offset: 1, sequence: 1 }));
    audit.add(record(1, { topic: 'u', offset: 0, sequence: 0 }));
    expect(audit.verdict()).toMatchObject(clean);
  });

  it('refuses that a record ends twice', () => {
    const history = five();
    expect(() => history.fail(0, { code: 'DELIVERY_TIMEOUT', written: 'no' })).toThrow('ended twice');
  });
});
