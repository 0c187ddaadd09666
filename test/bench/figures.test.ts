// What can go wrong in a benchmark without anybody seeing it: a figure that is worked out wrongly, a target that is judged wrongly, a table that isn't written.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { chart } from './chart.ts';
import { PERFORMANCE, withFigures } from './document.ts';
import type { Outcome } from './job.ts';
import { CLIENTS, choose, TESTS } from './plan.ts';
import { parseCounts } from './requests.ts';
import { type BenchFile, fileOf, mergeFiles, type Rounds } from './results.ts';
import { percentile, slopeOf, spreadOf } from './statistics.ts';
import { evaluate, OURS, TARGETS, type Target } from './targets.ts';

const outcome = (perSecond: number, cpuPerRecord: number | null, more: Partial<Outcome> = {}): Outcome => ({
  records: perSecond * 2,
  totalRecords: perSecond * 4,
  seconds: 2,
  cpuMicros: cpuPerRecord === null ? null : cpuPerRecord * perSecond * 2,
  brokerCpuMicros: null,
  rssMiB: 100,
  peakRssMiB: null,
  p50Ms: null,
  p99Ms: null,
  ...more,
});

const rounds = (test: string, clients: Readonly<Record<string, readonly (Outcome | undefined)[]>>): Rounds =>
  new Map([[test, new Map(Object.entries(clients))]]);

const facts = { date: '2026-01-02', machine: '2 x a CPU', leftOut: [] };

describe('statistics', () => {
  it('take the middle of an odd count, and the mean of the two in the middle of an even one', () => {
    expect(spreadOf([9, 1, 5])).toEqual({ min: 1, median: 5, max: 9 });
    expect(spreadOf([4, 1, 2, 100])).toEqual({ min: 1, median: 3, max: 100 });
    expect(spreadOf([7])).toEqual({ min: 7, median: 7, max: 7 });
    expect(spreadOf([])).toBeNull();
  });

  it('sort by size and not by text, and leave the list as it was', () => {
    const values = [10, 9, 100, 1];
    expect(percentile(values, 0.5)).toBe(9);
    expect(percentile(values, 0.99)).toBe(100);
    expect(values).toEqual([10, 9, 100, 1]);
  });

  it('give the smallest value that so many are at most', () => {
    const values = Array.from({ length: 100 }, (_, i) => i + 1);
    expect([0, 0.5, 0.99, 1].map((q) => percentile(values, q))).toEqual([1, 50, 99, 100]);
    expect(percentile([], 0.5)).toBeNull();
  });

  it('find the rise through noise, and none in what is flat', () => {
    expect(slopeOf([0, 1, 2, 3].map((x) => ({ x, y: 5 + 2 * x + (x % 2 === 0 ? 0.1 : -0.1) })))).toBeCloseTo(2, 0);
    expect(slopeOf([0, 1, 2].map((x) => ({ x, y: 80 })))).toBe(0);
    expect(slopeOf([{ x: 1, y: 80 }])).toBe(0);
  });
});

describe('a target', () => {
  const faster: Target = { test: 'single', against: 'kafkajs', measure: 'throughput', is: 'atLeast', bound: 4 };
  const cheaper: Target = { test: 'single', against: 'kafkajs', measure: 'cpu', is: 'atMost', bound: 1 / 8 };

  it('compares within a round, and judges by the median of the rounds', () => {
    // The second round was slow for both: the ratio is what it was.
    const measured = rounds('single', {
      [OURS]: [outcome(400, 1), outcome(50, 1), outcome(500, 1)],
      kafkajs: [outcome(100, 10), outcome(10, 5), outcome(100, 8)],
    });
    expect(evaluate(measured, [faster, cheaper])).toEqual([
      { test: 'single', against: 'kafkajs', measure: 'throughput', target: '>= 4x', value: 5, min: 4, max: 5, met: true },
      { test: 'single', against: 'kafkajs', measure: 'cpu', target: '<= 1/8', value: 0.125, min: 0.1, max: 0.2, met: true },
    ]);
  });

  it('is missed by a little too', () => {
    const measured = rounds('single', { [OURS]: [outcome(399, 1.01)], kafkajs: [outcome(100, 8)] });
    expect(evaluate(measured, [faster, cheaper]).map((r) => r.met)).toEqual([false, false]);
  });

  it('takes no round in which one of the two has failed or has no figure, and is not judged without any', () => {
    const measured = rounds('single', { [OURS]: [undefined, outcome(400, null), outcome(400, 1)], kafkajs: [outcome(1, 1), outcome(100, 8), undefined] });
    expect(evaluate(measured, [faster, cheaper])).toMatchObject([{ measure: 'throughput', min: 4, max: 4 }]);
    expect(evaluate(rounds('single', { [OURS]: [outcome(400, 1)] }), [faster])).toEqual([]);
    expect(evaluate(new Map(), [faster])).toEqual([]);
  });

  it('of ours alone is an absolute figure', () => {
    const within: Target = { test: 'consume-each', against: null, measure: 'rss', is: 'atMost', bound: 200 };
    const measured = rounds('consume-each', { [OURS]: [outcome(1, 1, { rssMiB: 201 })] });
    expect(evaluate(measured, [within])).toEqual([
      { test: 'consume-each', against: null, measure: 'rss', target: '<= 200 MiB', value: 201, min: 201, max: 201, met: false },
    ]);
  });

  it('names tests that there are, and clients that take part in them together with ours', () => {
    const wrong = TARGETS.filter(({ test, against }) => {
      const clients: readonly string[] = TESTS.find((t) => t.name === test)?.clients ?? [];
      return !clients.includes(OURS) || (against !== null && !clients.includes(against));
    });
    expect(wrong).toEqual([]);
  });
});

describe('the plan', () => {
  const names = (asked: Partial<Parameters<typeof choose>[0]>) => choose({ tests: [], clients: [], quick: false, ...asked }).map((t) => t.name);

  it('takes a name for that test alone, other text for all that have it, and the soak by its name only', () => {
    expect(names({ tests: ['single'] })).toEqual(['single']);
    expect(names({ tests: ['batch'] })).toEqual(['batch-100', 'batch-1000', 'consume-batch', 'batch-1000-3-brokers']);
    expect(names({})).not.toContain('soak');
    expect(names({ tests: ['so'] })).not.toContain('soak');
    expect(names({ tests: ['soak'] })).toEqual(['soak']);
    expect(names({ tests: ['nothing'] })).toEqual([]);
  });

  it('takes a client by its whole name alone, and leaves out a test that has none of those asked for', () => {
    expect(choose({ tests: ['single'], clients: ['kafkajs'], quick: false }).map((t) => t.clients)).toEqual([['kafkajs']]);
    expect(choose({ tests: ['single'], clients: ['turnpike'], quick: false })[0]?.clients).toEqual([
      'turnpike-post',
      'turnpike-wire',
      'turnpike-kafkajs',
      'turnpike-confluent',
    ]);
    expect(names({ clients: ['linger0'] })).toEqual(['sequential', 'rate-1000']);
  });

  it('is short with --quick: four tests, five clients', () => {
    const quick = choose({ tests: [], clients: [], quick: true });
    expect(quick.length).toBe(4);
    expect(new Set(quick.flatMap((t) => t.clients)).size).toBe(5);
  });

  it('has a title for every client', () => {
    expect(TESTS.flatMap((t) => t.clients).filter((c) => CLIENTS[c] === undefined)).toEqual([]);
  });
});

describe('figures', () => {
  const measured = rounds('single', { [OURS]: [outcome(400_000, 1), undefined, outcome(500_000, 2)], kafkajs: [outcome(10_000, 80)] });

  it('are medians with their spread, per record, over the rounds that there are', () => {
    const [ours] = fileOf(measured, facts).results;
    expect(ours).toMatchObject({
      client: OURS,
      rounds: 2,
      recordsPerSecond: { min: 400_000, median: 450_000, max: 500_000 },
      cpuMicros: 1.5,
      brokerCpuMicros: null,
    });
  });

  it('tell requests per second from one round, by how many records it had in each', () => {
    const first = outcome(1_000, 1, { requests: 40 });
    const [ours] = fileOf(rounds('single', { [OURS]: [first, outcome(9_000, 1, { requests: null })] }), facts).results;
    expect(ours?.requestsPerSecond).toBe(10); // 4,000 records in 40 requests, 1,000 records a second.
  });

  it("add up the broker's counters of all versions of a request", () => {
    const line = (request: string, version: number, count: number) =>
      `kafka.network:type=RequestMetrics,name=RequestsPerSec,request=${request},version=${version}:Count=${count}`;
    const text = [line('Produce', 7, 5), line('Produce', 12, 600), line('FetchConsumer', 12, 3), line('FetchFollower', 17, 99), line('Fetch', 12, 102)];
    expect(parseCounts(`time=1795632565471\n${text.join('\n')}\n`)).toEqual({ produce: 605, fetch: 3 });
  });

  it('leave out a client that has failed in every round', () => {
    const { results } = fileOf(rounds('single', { kafkajs: [undefined, undefined] }), facts);
    expect(results).toEqual([]);
  });

  it('of several runs are put together, the last of each test', () => {
    const first = fileOf(new Map([...measured, ...rounds('batch-1000', { kafkajs: [outcome(1, 1)] })]), {
      ...facts,
      leftOut: [{ test: 'single', client: 'java', why: 'no Java' }],
    });
    const second = fileOf(rounds('single', { [OURS]: [outcome(7, 1)] }), { ...facts, date: '2026-01-03' });
    const merged = mergeFiles([first, second]);
    expect(merged.results.map((r) => [r.test, r.client, r.recordsPerSecond.median])).toEqual([
      ['batch-1000', 'kafkajs', 1],
      ['single', OURS, 7],
    ]);
    expect(merged).toMatchObject({ date: '2026-01-03', ratios: [], leftOut: [] });
  });
});

describe('the document', () => {
  const file: BenchFile = fileOf(rounds('single', { [OURS]: [outcome(412_345.4, 1.234, { p50Ms: 0.5 })], kafkajs: [outcome(10_000, 80)] }), {
    ...facts,
    leftOut: [{ test: 'single', client: 'java', why: 'no Java' }],
  });
  const before = 'Text.\n\n<!-- figures: npm run bench -- --write FILE -->\nold\n<!-- end of figures -->\n\nMore.\n';

  it('gets its figures between the markers, and keeps all else', () => {
    const written = withFigures(before, file);
    expect(written).toMatch(/^Text\.\n\n<!-- figures: .+ -->\n\nMeasured on 2026-01-02, 1 round, on 2 x a CPU\.\n.+\n\n<!-- end of figures -->\n\nMore\.\n$/s);
    expect(written).not.toContain('old');
    expect(written).toMatch(/\| Turnpike, wire +\| 412,345 \(412,345 - 412,345\) +\| 1\.2 +\| - +\| - +\| 100 +\| 0\.5 +\| - +\|/);
    expect(written).toMatch(/\| single \| kafkajs +\| CPU per record \| <= 1\/50 +\| 1\/64\.8 \(1\/64\.8 - 1\/64\.8\) +\| yes +\|/);
    expect(written).toContain("Left out: Java's perf tools (no Java).");
  });

  it('is the same when the same figures are written again', () => {
    expect(withFigures(withFigures(before, file), file)).toBe(withFigures(before, file));
  });

  it('has its markers', () => {
    expect(() => withFigures(readFileSync(PERFORMANCE, 'utf8'), file)).not.toThrow();
    expect(() => withFigures('Text.', file)).toThrow('docs/performance.md needs the lines');
  });

  it('has a chart with a bar for each client, escaped', () => {
    const drawn = chart({ ...file, machine: 'a <CPU> & more' });
    expect(drawn.match(/<rect /g)).toHaveLength(2);
    expect(drawn.match(/<rect class="ours"/g)).toHaveLength(1);
    expect(drawn).toContain('a &lt;CPU&gt; &amp; more');
  });
});
