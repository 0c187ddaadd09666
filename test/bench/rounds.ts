// Every client of a test in turn, several times: what disturbs one round disturbs all clients of it.
import { fork } from 'node:child_process';
import path from 'node:path';
import type { BenchCluster } from './cluster.ts';
import type { Answer, Job, Outcome } from './job.ts';
import type { BenchTest, ClientName } from './plan.ts';
import { isProgram, runProgram } from './programs.ts';
import { prepareRegistryPeer } from './registry-peers.ts';
import type { LeftOut } from './results.ts';

export interface Timing {
  readonly rounds: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
  /** Reading ends when so many records are read, or after this. */
  readonly consumeMs: number;
  /** Instead of a soak's own; its target is about those. */
  readonly soakSeconds: number | undefined;
}

export interface Running {
  readonly timing: Timing;
  /** A folder for CPU profiles; undefined = none are made. */
  readonly profiles: string | undefined;
  readonly say: (line: string) => void;
}

export interface TestRounds {
  readonly outcomes: ReadonlyMap<string, readonly (Outcome | undefined)[]>;
  readonly leftOut: readonly LeftOut[];
}

/** How long a child may take beside warm-up and measuring, in ms: connecting, a group's start, closing. */
const GRACE_MS = 90_000;
const CHILD = path.join(import.meta.dirname, 'child.ts');

export async function runTest(test: BenchTest, cluster: BenchCluster, running: Running): Promise<TestRounds> {
  const { timing, say } = running;
  const topic = `bench-${test.name}`;
  const { work } = test;
  await cluster.topic(topic, work.kind === 'consume');
  if (test.payload === 'order') for (const client of test.clients) await prepareRegistryPeer(client, say);
  // A fifth is the warm-up's, and what a client has fetched beyond the last must not end a round.
  if (work.kind === 'consume') await cluster.fill(topic, Math.ceil(work.records * 1.25), test.valueBytes);
  const job = await jobOf(test, topic, cluster, timing);
  const outcomes = new Map<string, (Outcome | undefined)[]>(test.clients.map((client) => [client, []]));
  const leftOut = new Map<string, LeftOut>();
  const rounds = work.kind === 'soak' ? 1 : timing.rounds; // A soak is long by itself.
  for (let round = 0; round < rounds; round++) {
    // One round tells: how many records go in a request hardly changes.
    let before = round === 0 ? await cluster.requests.count() : null;
    for (const client of turned(test.clients, round)) {
      if (leftOut.has(client)) continue;
      const answer = isProgram(client) ? await runProgram(client, { ...job, client }) : await runChild({ ...job, client }, running);
      const now = before && (await cluster.requests.count());
      const kind = work.kind === 'consume' ? 'fetch' : 'produce';
      const requests = before && now ? now[kind] - before[kind] : null;
      before = now;
      outcomes.get(client)?.push('outcome' in answer ? { ...answer.outcome, requests } : undefined);
      say(`  ${round + 1}/${rounds} ${client.padEnd(20)} ${summary(answer)}`);
      if ('missing' in answer) leftOut.set(client, { test: test.name, client, why: answer.missing });
    }
  }
  for (const [client, list] of outcomes)
    if (!leftOut.has(client) && list.every((o) => o === undefined)) leftOut.set(client, { test: test.name, client, why: 'it failed in every round' });
  for (const client of leftOut.keys()) outcomes.delete(client);
  await cluster.remove(topic);
  return { outcomes, leftOut: [...leftOut.values()] };
}

async function jobOf(test: BenchTest, topic: string, cluster: BenchCluster, timing: Timing): Promise<Omit<Job, 'client'>> {
  const { payload, valueBytes, compression, listener } = test;
  const work = test.work.kind === 'soak' ? { ...test.work, seconds: timing.soakSeconds ?? test.work.seconds } : test.work;
  return {
    work,
    payload,
    valueBytes,
    compression,
    topic,
    bootstrap: cluster.bootstrap(listener),
    ...(listener === 'oauth' ? { oauth: await cluster.oauth() } : {}),
    brokerPids: cluster.brokerPids,
    warmUpMs: timing.warmUpMs,
    measureMs: work.kind === 'consume' ? timing.consumeMs : timing.measureMs,
    folder: cluster.folder,
  };
}

/** Another one begins each round: none is always the one after the same neighbour. */
function turned(clients: readonly ClientName[], round: number): readonly ClientName[] {
  const by = round % clients.length;
  return [...clients.slice(by), ...clients.slice(0, by)];
}

function runChild(job: Job, { profiles }: Running): Promise<Answer> {
  const long = job.work.kind === 'soak' ? job.work.seconds * 1000 : 0;
  const profiled =
    profiles === undefined
      ? []
      : ['--cpu-prof', `--cpu-prof-dir=${profiles}`, `--cpu-prof-name=${path.basename(job.topic)}-${job.client}-${Date.now()}.cpuprofile`];
  return new Promise((resolve) => {
    const child = fork(CHILD, [JSON.stringify(job)], {
      execArgv: ['--disable-warning=ExperimentalWarning', ...(job.work.kind === 'soak' ? ['--expose-gc'] : []), ...profiled],
    });
    let answer: Answer | undefined;
    const timer = setTimeout(() => child.kill('SIGKILL'), job.warmUpMs + job.measureMs + long + GRACE_MS);
    child.on('message', (message) => {
      answer = message as Answer;
      // It has nothing more to say. With a profile to write it ends by itself.
      if (profiles === undefined) child.kill('SIGKILL');
    });
    child.on('exit', (code, signal) => {
      clearTimeout(timer);
      resolve(answer ?? { failed: `it ended with ${signal ?? code} and no answer` });
    });
    child.on('error', (error) => resolve({ failed: error.message }));
  });
}

function summary(answer: Answer): string {
  if ('missing' in answer) return `left out: ${answer.missing}`;
  if ('failed' in answer) return `FAILED: ${answer.failed}`;
  const { records, seconds, cpuMicros, p50Ms, rssMiB } = answer.outcome;
  const cpu = cpuMicros === null ? '' : `${(cpuMicros / records).toFixed(2)} us`;
  const p50 = p50Ms === null ? '' : `p50 ${p50Ms.toFixed(3)} ms`;
  return [`${Math.round(records / seconds).toLocaleString('en-US')}/s`, cpu, p50, rssMiB === null ? '' : `${Math.round(rssMiB)} MiB`]
    .filter(Boolean)
    .join('  ');
}
