import assert from 'node:assert/strict';
import type { ConsumerOptions } from '@turnpike/core';
import type { Platform } from '../platform.ts';
import type { Bench } from './bench.ts';
import type { CaseDefinition } from './frame.ts';
import { Flow, Ledger, Member, untilShared } from './groups-member.ts';

export const PARTITIONS = 4;
export const SESSION_MS = 6_000;

/** The broker rules how often members of a KIP-848 group are heard and when one has gone; its own 5 s and 45 s would make slow cases. */
const BRISK = {
  'group.consumer.heartbeat.interval.ms': '500',
  'group.consumer.min.heartbeat.interval.ms': '100',
  'group.consumer.session.timeout.ms': `${SESSION_MS}`,
  'group.consumer.min.session.timeout.ms': `${SESSION_MS}`,
};

/** What a case of groups runs on, in one protocol or the other. */
export interface Ground {
  readonly protocol: 'classic' | 'consumer';
  /** Of topics, groups and links. */
  readonly at: { readonly platform?: Platform };
  /** Of members. */
  readonly options: ConsumerOptions;
}

type GroupCase = Omit<CaseDefinition, 'run'> & { run(bench: Bench, ground: Ground): Promise<void> };

/** One case of each protocol; that of KIP-848 where the transport has it. */
export function inEachProtocol({ run, ...definition }: GroupCase): readonly CaseDefinition[] {
  const classic: CaseDefinition = { ...definition, run: (bench) => run(bench, { protocol: 'classic', at: {}, options: { sessionTimeoutMs: SESSION_MS } }) };
  const { asks: _, quick: __, capability = () => true, ...rest } = definition;
  const consumer: CaseDefinition = {
    ...rest,
    row: 'KIP-848 groups',
    needs: 'broker',
    capability: (c) => capability(c) && c.groupProtocols.includes('consumer'),
    run: async (bench) => run(bench, await kip848(bench)),
  };
  return [classic, consumer];
}

export async function kip848(bench: Bench): Promise<Ground> {
  const platform = await bench.platformWith({ properties: BRISK });
  return { protocol: 'consumer', at: { platform }, options: { groupProtocol: 'consumer', sessionTimeoutMs: SESSION_MS } };
}

export const untilHandled = (bench: Bench, flow: Flow, ledger: Ledger): Promise<unknown> =>
  bench.eventually(
    20_000,
    () => flow.sent.filter((value) => !ledger.handled.has(value)),
    (missing) => missing.length === 0,
    'every record that was acknowledged is handled',
  );

/** A second member joins a first one and leaves again, while records flow. What the ledger must say in any protocol is asserted here. */
export async function joinAndLeave(
  bench: Bench,
  { at, options }: Ground,
  {
    draining,
    first: ofFirst = {},
    second: ofSecond = {},
  }: { readonly draining?: () => Promise<void>; readonly first?: ConsumerOptions; readonly second?: ConsumerOptions } = {},
): Promise<{ readonly topic: string; readonly ledger: Ledger }> {
  const topic = await bench.topic('t', { partitions: PARTITIONS, ...at });
  const group = await bench.group('g', at);
  const [link, other] = [await bench.link(at), await bench.link(at)];
  const ledger = new Ledger();
  const flow = Flow.start(link, topic, PARTITIONS);
  const init = { ...options, group, ledger, ...(draining ? { draining } : {}) };
  const first = await Member.start(link, topic, { ...init, ...ofFirst, name: 'first' });
  await untilShared([first], [PARTITIONS]);
  await flow.more(100);
  const second = await Member.start(other, topic, { ...init, ...ofSecond, name: 'second' });
  await untilShared([first, second], [2, 2]);
  await flow.more(100);
  const before = new Set(flow.sent);
  await bench.eventually(
    20_000,
    () => [...ledger.handled.values()].filter(([by]) => by === 'second').length,
    (n) => n > 0,
    'the second member handles records',
  );
  await second.close();
  await untilShared([first], [PARTITIONS]);
  await flow.more(100);
  await flow.stop();
  await untilHandled(bench, flow, ledger);
  await first.close();
  assert.ok(before.size > 100);
  assert.deepEqual(ledger.repeated, [], 'nothing is delivered again that was handled and committed before its partition moved');
  assert.deepEqual(ledger.doubleOwners, [], 'no partition comes to a member before the other one has given it up');
  assert.deepEqual([...ledger.of('first', 'lost'), ...ledger.of('second', 'lost')], [], 'nothing is lost without notice');
  return { topic, ledger };
}
