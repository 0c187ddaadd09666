// How many requests a broker has had, as it counts them itself (JMX), where the JDK's jcmd is there to ask it with.
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { prepareKafka } from '@turnpike/testing';

const run = promisify(execFile);

export interface Requests {
  readonly produce: number;
  /** Of consumers; replicas fetch too. */
  readonly fetch: number;
}

/** Asked between turns, never during one: each time a Java is started. */
export class RequestCounter {
  readonly #urls: readonly string[];

  private constructor(urls: readonly string[]) {
    this.#urls = urls;
  }

  /** Of these brokers; without jcmd it counts nothing. */
  static async attach(pids: readonly number[]): Promise<RequestCounter> {
    const urls = await Promise.all(pids.map(localAddress)).catch(() => []);
    return new RequestCounter(urls);
  }

  /** null where they can't be had. */
  async count(): Promise<Requests | null> {
    if (this.#urls.length === 0) return null;
    try {
      const all = await Promise.all(this.#urls.map(counts));
      return all.reduce((sum, one) => ({ produce: sum.produce + one.produce, fetch: sum.fetch + one.fetch }));
    } catch {
      return null;
    }
  }
}

/** What jconsole connects to as well: on loopback, opened for who may attach to the process. */
async function localAddress(pid: number): Promise<string> {
  const { java } = await prepareKafka();
  const jcmd = path.isAbsolute(java) ? path.join(path.dirname(java), 'jcmd') : 'jcmd';
  await run(jcmd, [String(pid), 'ManagementAgent.start_local']);
  const { stdout } = await run(jcmd, [String(pid), 'PerfCounter.print']);
  const url = /^sun\.management\.JMXConnectorServer\.(?:\d+\.)?address="([^"]+)"/m.exec(stdout)?.[1];
  if (url === undefined) throw new Error('it has no address');
  return url;
}

/** A counter for each request and version is there from the first of its kind on: they are looked up anew each time. */
async function counts(url: string): Promise<Requests> {
  const { java, libs } = await prepareKafka();
  const tool = ['-Xmx64m', '-XX:TieredStopAtLevel=1', '-XX:+UseSerialGC', '-cp', path.join(libs, '*'), 'org.apache.kafka.tools.JmxTool', '--jmx-url', url];
  const asked = [
    '--object-name',
    'kafka.network:type=RequestMetrics,name=RequestsPerSec,*',
    '--attributes',
    'Count',
    '--report-format',
    'properties',
    '--one-time',
  ];
  const { stdout } = await run(java, [...tool, ...asked], { timeout: 30_000 });
  return parseCounts(stdout);
}

/** Lines such as `kafka.network:type=RequestMetrics,name=RequestsPerSec,request=Produce,version=9:Count=602`. */
export function parseCounts(text: string): Requests {
  const sum = (request: string) =>
    [...text.matchAll(new RegExp(`request=${request},version=\\d+:Count=(\\d+)`, 'g'))].reduce((total, [, count]) => total + Number(count), 0);
  return { produce: sum('Produce'), fetch: sum('FetchConsumer') };
}
