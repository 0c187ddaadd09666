// What is measured, with whom.
import type { Compression, Work } from './job.ts';

/** Runs in a child of ours; the other two are programs of their own. */
export const CLIENTS = {
  'turnpike-wire': 'Turnpike, wire',
  'turnpike-kafkajs': 'Turnpike over kafkajs',
  'turnpike-confluent': 'Turnpike over confluent',
  'turnpike-post': 'Turnpike, wire, post()',
  'turnpike-open': 'the same, stages off',
  kafkajs: 'kafkajs',
  'kafkajs-eachbatch': 'kafkajs, eachBatch',
  platformatic: '@platformatic/kafka',
  confluent: 'confluent, promisified',
  'confluent-linger0': 'confluent, linger.ms 0',
  'confluent-callback': 'confluent, callbacks',
  'franz-go': 'franz-go (Go)',
  'franz-go-callback': 'franz-go (Go), callbacks',
  java: "Java's perf tools",
} as const;

export type ClientName = keyof typeof CLIENTS;

export interface BenchTest {
  readonly name: string;
  readonly title: string;
  readonly work: Work;
  readonly payload: 'bytes' | 'order';
  readonly valueBytes: number;
  readonly compression: Compression;
  readonly listener: 'plaintext' | 'oauth';
  readonly brokers: 1 | 3;
  readonly clients: readonly ClientName[];
  /** Only when it is named. */
  readonly byName: boolean;
}

const OURS = ['turnpike-wire', 'turnpike-kafkajs', 'turnpike-confluent'] as const;
const PRODUCERS: readonly ClientName[] = [...OURS, 'kafkajs', 'platformatic', 'confluent', 'confluent-callback', 'franz-go'];
const LATENCY: readonly ClientName[] = [...OURS, 'kafkajs', 'platformatic', 'confluent', 'confluent-linger0', 'franz-go'];
const CONSUMERS: readonly ClientName[] = [...OURS, 'kafkajs', 'kafkajs-eachbatch', 'platformatic', 'confluent', 'confluent-callback', 'franz-go', 'java'];
const FEW: readonly ClientName[] = ['turnpike-wire', 'kafkajs', 'platformatic', 'confluent', 'franz-go'];
const COMPRESSING: readonly ClientName[] = ['turnpike-wire', 'platformatic', 'confluent', 'franz-go'];

const test = (name: string, title: string, work: Work, clients: readonly ClientName[], more: Partial<BenchTest> = {}): BenchTest => ({
  name,
  title,
  work,
  payload: 'bytes',
  valueBytes: 200,
  compression: 'none',
  listener: 'plaintext',
  brokers: 1,
  byName: false,
  clients,
  ...more,
});

const single: Work = { kind: 'produce', outstanding: 1_000, perCall: 1 };
const batches = (perCall: number): Work => ({ kind: 'produce', outstanding: 4, perCall });
/** What the memory target is about. */
const MILLION = 1_000_000;

export const TESTS: readonly BenchTest[] = [
  test('single', 'Single sends, 1,000 outstanding, 200 B', single, ['turnpike-post', ...PRODUCERS, 'franz-go-callback', 'java']),
  test('batch-100', "Caller's batches of 100, 4 at a time, 200 B", batches(100), PRODUCERS),
  test('batch-1000', "Caller's batches of 1,000, 4 at a time, 200 B", batches(1_000), PRODUCERS),
  test('sequential', 'One send after another, 200 B', { kind: 'sequential' }, LATENCY),
  test('rate-1000', '1,000 sends a second, whether or not earlier ones are answered, 200 B', { kind: 'rate', perSecond: 1_000 }, LATENCY),
  test('consume-each', 'Reading back, a handler for each record, 200 B', { kind: 'consume', by: 'record', records: MILLION }, CONSUMERS),
  test('consume-batch', 'Reading back, a handler for each batch, 200 B', { kind: 'consume', by: 'batch', records: MILLION }, [
    ...OURS,
    'kafkajs',
    'confluent',
    'franz-go',
  ]),
  test('end-to-end', 'End to end: an order serialized with Avro and sent, 1,000 outstanding', single, [...OURS, 'kafkajs', 'confluent'], { payload: 'order' }),
  test('enforcement', 'Enforcement itself: grant, quota and 1 % traced, against the same pipeline without', single, ['turnpike-wire', 'turnpike-open'], {
    payload: 'order',
  }),
  test(
    'single-oauth',
    'Single sends over TLS and OAUTHBEARER, 1,000 outstanding, 200 B',
    single,
    [...OURS, 'kafkajs', 'platformatic', 'confluent', 'franz-go'],
    {
      listener: 'oauth',
    },
  ),
  test('end-to-end-oauth', 'End to end over TLS and OAUTHBEARER', single, [...OURS, 'kafkajs', 'confluent'], { payload: 'order', listener: 'oauth' }),
  test('single-lz4', 'Single sends with lz4, 1,000 outstanding, 200 B', single, COMPRESSING, { compression: 'lz4' }),
  test('single-zstd', 'Single sends with zstd, 1,000 outstanding, 200 B', single, COMPRESSING, { compression: 'zstd' }),
  test('single-1k', 'Single sends, 1,000 outstanding, 1 KiB', single, FEW, { valueBytes: 1_024 }),
  test('single-10k', 'Single sends, 1,000 outstanding, 10 KiB', single, FEW, { valueBytes: 10_240 }),
  test('single-3-brokers', 'Single sends, 1,000 outstanding, 200 B, three brokers, replication factor 3', single, FEW, { brokers: 3 }),
  test('batch-1000-3-brokers', "Caller's batches of 1,000, 4 at a time, 200 B, three brokers, replication factor 3", batches(1_000), FEW, { brokers: 3 }),
  test('soak', 'Ten minutes of producing and consuming at 20,000 records/s', { kind: 'soak', perSecond: 20_000, seconds: 600 }, ['turnpike-wire'], {
    byName: true,
  }),
];

const QUICK = {
  tests: ['single', 'batch-1000', 'consume-each', 'end-to-end'],
  clients: ['turnpike-wire', 'kafkajs', 'platformatic', 'confluent', 'franz-go'] as readonly ClientName[],
};

/** What is asked for: a name stands for that test or client alone, other text for all whose name has it in it. */
export function choose(asked: { readonly tests: readonly string[]; readonly clients: readonly string[]; readonly quick: boolean }): readonly BenchTest[] {
  const within = asked.quick && asked.tests.length === 0 ? TESTS.filter((t) => QUICK.tests.includes(t.name)) : TESTS;
  const tests = within.filter((t) => (asked.tests.length === 0 ? !t.byName : asked.tests.some((text) => matches(text, t, within))));
  return tests.map((t) => ({ ...t, clients: t.clients.filter((c) => isAsked(c, t.clients, asked)) })).filter((t) => t.clients.length > 0);
}

function matches(text: string, test: BenchTest, among: readonly BenchTest[]): boolean {
  if (among.some((t) => t.name === text)) return test.name === text;
  return !test.byName && test.name.includes(text);
}

function isAsked(
  client: ClientName,
  among: readonly ClientName[],
  { clients, quick }: { readonly clients: readonly string[]; readonly quick: boolean },
): boolean {
  if (clients.length > 0) return clients.some((text) => (among.includes(text as ClientName) ? client === text : client.includes(text)));
  return !quick || QUICK.clients.includes(client);
}
