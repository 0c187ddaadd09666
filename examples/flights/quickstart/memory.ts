import { type ConnectOptions, connect, isTurnpikeError } from '@turnpike/client';
import { MemoryCluster, memoryAdmin, memoryTransport } from '@turnpike/core/memory';
import { type LocalService, prepareLocal } from '@turnpike/platform';
import { startPlatform } from '@turnpike/testing';
import { delayMonitor } from '../delay-monitor/generated/delay-monitor.ts';
import { runDelayMonitor } from '../delay-monitor/run.ts';
import { flightOps } from '../flight-ops/generated/flight-ops.ts';
import { runFlightOps } from '../flight-ops/run.ts';
import { type Backend, type RunningService, type ServiceName, workplaces } from './backend.ts';
import type { Report } from './report.ts';
import { tracing } from './tracing.ts';

/** Without Java: issuer, registry, certificates and grants as ever, and a cluster in this process's memory that enforces the same ACLs. */
export async function memory(say: (line: string) => void): Promise<Backend> {
  const platform = await startPlatform({ kafka: false, onProgress: say });
  try {
    const cluster = new MemoryCluster({ authorizer: { superUsers: [platform.admin.name] } });
    say('cluster     in memory');
    const transport = memoryTransport({ cluster });
    const admin = memoryAdmin(cluster);
    const services: LocalService[] = [];
    for (const { manifest, folder } of workplaces())
      services.push(...(await prepareLocal({ platform, manifests: [manifest], admin, folder, onProgress: (line) => say(`+ ${line}`) })));
    const optionsOf = (name: ServiceName): ConnectOptions => ({ transport, shutdownSignals: [], env: services.find((s) => s.name === name)?.env ?? {} });
    return {
      start: (name, report) => (name === 'flight-ops' ? startFlightOps(optionsOf(name), report) : startDelayMonitor(optionsOf(name), report)),
      readBack: async (topics) => topics.flatMap((topic) => cluster.records(topic).map((r) => ({ topic, value: r.value ?? Buffer.alloc(0) }))),
      uncommitted: async (group, topic) => {
        const ends = cluster.topic(topic).partitions.map((p) => p.length);
        const committed = (await admin.groupOffsets(group)).filter((o) => o.topic === topic);
        return ends.reduce((sum, end, p) => sum + end - Number(committed.find((c) => c.partition === p)?.offset ?? 0n), 0);
      },
      bypasser: 'flight-ops without a grant',
      bypass: () => bypass(transport),
      [Symbol.asyncDispose]: () => platform[Symbol.asyncDispose](),
    };
  } catch (error) {
    await platform[Symbol.asyncDispose]();
    throw error;
  }
}

async function startFlightOps(options: ConnectOptions, report: Report): Promise<RunningService> {
  const { tracer } = tracing('flight-ops', { roots: 'on', report });
  const kafka = await connect(flightOps, { ...options, telemetry: { tracer } });
  return { done: runFlightOps(kafka, { tracer, report }).finally(() => kafka.close()), stop: () => kafka.close() };
}

async function startDelayMonitor(options: ConnectOptions, report: Report): Promise<RunningService> {
  const { tracer } = tracing('delay-monitor', { roots: 'off', report });
  const kafka = await connect(delayMonitor, { ...options, telemetry: { tracer, parenting: 'parent' } });
  const done = runDelayMonitor(kafka, report);
  const stop = async () => {
    await kafka.close();
    await done;
  };
  return { done, stop };
}

/** As flight-ops, with a grant that nobody has issued: the memory transport does without one. */
async function bypass(transport: ConnectOptions['transport'] & object): Promise<string> {
  try {
    await using _ = await connect(flightOps, { transport, environment: 'local', env: {} });
    return 'it went through';
  } catch (error) {
    return (isTurnpikeError(error) && error.facts.kafkaError) || String(error);
  }
}
