// One client, one test, one round: its CPU, memory and garbage are its own. Started by rounds.ts with the job as its argument.
import { confluentClient } from './clients/confluent.ts';
import { kafkajsClient } from './clients/kafkajs.ts';
import { platformaticClient } from './clients/platformatic.ts';
import { openClient, postingClient, turnpikeClient } from './clients/turnpike.ts';
import { type Answer, type BenchClient, type Job, Missing } from './job.ts';
import { measure } from './measure.ts';

const clients: Readonly<Record<string, (job: Job) => BenchClient | Promise<BenchClient>>> = {
  kafkajs: (job) => kafkajsClient(job, false),
  'kafkajs-eachbatch': (job) => kafkajsClient(job, true),
  platformatic: platformaticClient,
  confluent: (job) => confluentClient(job, 'promisified'),
  'confluent-linger0': (job) => confluentClient(job, 'linger0'),
  'confluent-callback': (job) => confluentClient(job, 'callback'),
  'turnpike-wire': (job) => turnpikeClient(job, 'wire'),
  'turnpike-kafkajs': (job) => turnpikeClient(job, 'kafkajs'),
  'turnpike-confluent': (job) => turnpikeClient(job, 'confluent'),
  'turnpike-post': postingClient,
  'turnpike-open': openClient,
};

// Whoever asked is gone: nobody waits for the answer.
process.on('disconnect', () => process.exit(1));
process.send?.(await run(JSON.parse(process.argv[2] ?? '') as Job), () => process.exit(0));

async function run(job: Job): Promise<Answer> {
  try {
    const client = await clients[job.client]?.(job);
    if (!client) throw new Error(`there is no client ${job.client}`);
    return { outcome: await measure(client, job) };
  } catch (error) {
    if (error instanceof Missing) return { missing: error.message };
    return { failed: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
}
