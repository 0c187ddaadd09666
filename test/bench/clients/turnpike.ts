import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { type ConnectOptions, type ConsumerInit, connect } from '@turnpike/client';
import { avroCodec, defineService, type TopicContract } from '@turnpike/client/generated';
import { compileProducerOptions, Scratch, StickyPartition, settleRecords, TopicProducer } from '@turnpike/core';
import { type Codec, type GrantClaims, noTelemetry, openGate, silentLogger, systemClock, type Transport } from '@turnpike/core/spi';
import { anonymousIdentity } from '@turnpike/identity';
import { generateSigningKey, signGrant } from '@turnpike/policy';
import { confluentSerde, fingerprint, grantIds, stringSerde } from '@turnpike/schema';
import { confluentTransport } from '@turnpike/transports/confluent';
import { kafkajsTransport } from '@turnpike/transports/kafkajs';
import { wireTransport } from '@turnpike/transports/wire';
import type { BenchClient, BenchProducer, Job } from '../job.ts';
import { events, type Order, orderSchemaText } from '../order.ts';
import { at, keyTexts, valuesOf } from '../records.ts';
import { startTracing } from '../tracing.ts';
import { identityOf, newGroup } from './common.ts';

export type TransportName = 'wire' | 'kafkajs' | 'confluent';

const SERVICE = 'bench';
const CLUSTER = 'bench';
/** Of the registry's wire format: a 0, then the schema's id. */
const FRAME_BYTES = 5;
const SCHEMA_ID = 1;
/** Far above what any machine does: they are asked at every drain, and never say no. */
const PLENTY = 1e12;

/** What is sent where the test is about bytes: they go as they are. */
interface Carried {
  readonly key: string;
  readonly value: Buffer;
}

/** As our codec has it: a long is a bigint. */
type WideOrder = Omit<Order, 'createdAt'> & { readonly createdAt: bigint };

type Sent = Carried | WideOrder;

function topicContract(job: Job): TopicContract<Sent, unknown, string> {
  const text = job.payload === 'order' ? orderSchemaText : '"bytes"';
  const schema = { subject: `${job.topic}-value`, sha256: fingerprint(text) };
  return {
    name: job.topic,
    cluster: CLUSTER,
    key: { format: 'string', of: (event) => ('orderId' in event ? event.orderId : event.key) },
    value: { format: 'avro', schema, text, codec: () => (job.payload === 'order' ? avroCodec<Sent>(schema, text) : carriedCodec(schema)) },
  };
}

const carriedCodec = (schema: Codec<Sent>['schema']): Codec<Sent, unknown> => ({
  schema,
  prepare: async () => {},
  encodeInto(event, dst, pos) {
    const { value } = event as Carried;
    const end = pos + value.length;
    if (end > dst.length) return dst.length - end;
    dst.set(value, pos);
    return end;
  },
  decode: (src, start, end) => src.subarray(start, end),
});

/** Everything that the job needs is granted, and nothing else; rates stand for topic and group. */
async function grantOf(
  job: Job,
  group: string,
): Promise<{ readonly claims: GrantClaims; readonly file: string; readonly rootKey: Readonly<Record<string, string>> }> {
  const key = await generateSigningKey('ES256');
  const now = Math.floor(Date.now() / 1000);
  const { schema } = topicContract(job).value;
  const quota = { cluster: CLUSTER, rate: PLENTY, burst: PLENTY, weight: 1, safeShare: 1, maxInstances: 1 };
  const claims: GrantClaims = {
    v: 1,
    mode: 'enforce',
    iss: 'bench',
    aud: 'bench',
    sub: SERVICE,
    rev: 1,
    nbf: now - 5,
    exp: now + 86_400,
    refreshAfterS: 300,
    onExpiry: 'hold',
    topics: [{ cluster: CLUSTER, name: job.topic, ops: ['read', 'write'], mode: 'enforce' }],
    groups: [group],
    transactionalIdPrefixes: [],
    schemas: [{ ...schema, id: SCHEMA_ID }],
    quotas: [
      { id: 'bytes', topic: job.topic, unit: 'bytesOut', ...quota },
      { id: 'records', topic: job.topic, unit: 'recordsOut', ...quota },
      { id: 'read', group, unit: 'bytesIn', ...quota },
    ],
  };
  const file = path.join(job.folder, `grant-${group}.jws`);
  writeFileSync(file, await signGrant(claims, { key: key.privateJwk }), { mode: 0o600 });
  return { claims, file, rootKey: key.publicJwk as Readonly<Record<string, string>> };
}

/** A descriptor names no plaintext listener, since no service should: here it is put in between. */
const reaching = (transport: Transport, bootstrap: readonly string[]): Transport => ({
  name: transport.name,
  capabilities: transport.capabilities,
  connect: (link) => transport.connect({ ...link, cluster: { ...link.cluster, bootstrap } }),
});

function transportOf(job: Job, name: TransportName): Transport {
  const transport = { wire: wireTransport, kafkajs: kafkajsTransport, confluent: confluentTransport }[name]();
  return reaching(transport, job.bootstrap);
}

const producerOptions = ({ compression }: Job) => (compression === 'none' ? {} : { compression });

async function open(job: Job, name: TransportName) {
  const group = newGroup();
  const { file, rootKey } = await grantOf(job, group);
  const topic = topicContract(job);
  const service = defineService({
    name: SERVICE,
    team: 'bench',
    environments: { bench: { principals: [SERVICE] } },
    rootKeys: [rootKey],
    produces: { [job.topic]: topic },
    consumes: { [job.topic]: { topic, groups: [group] } },
  });
  const options: ConnectOptions = {
    identity: job.oauth ? await identityOf(job.oauth) : anonymousIdentity(SERVICE),
    transport: transportOf(job, name),
    clusters: [{ name: CLUSTER, epoch: 1, primary: { id: '', bootstrap: job.oauth ? { oauth: job.bootstrap } : {} } }],
    env: { TURNPIKE_ENV: 'bench', TURNPIKE_GRANT: file },
    producer: producerOptions(job),
    shutdownSignals: [],
  };
  return { kafka: await connect(service, options), group };
}

/** Ours as a service has it: connect() with a contract; grant, quota and access in force; idempotent, acks=all. Where orders are sent, the SDK samples 1 %. */
export function turnpikeClient(job: Job, name: TransportName): BenchClient {
  return {
    async producer() {
      const traced = job.payload === 'order' ? startTracing() : undefined;
      const { kafka } = await open(job, name);
      const { send, sendBatch } = kafka.producer(job.topic);
      return producerOf(job, { send, sendBatch: (list) => sendBatch(list), ...(traced ? { traced } : {}) });
    },
    async consumer(by) {
      const { kafka, group } = await open(job, name);
      const init: ConsumerInit<string> = { group };
      const consumer = kafka.consumer([job.topic], init);
      const bytesOf = (value: unknown) => (value instanceof Uint8Array ? value.length + FRAME_BYTES : 0);
      return {
        start: (onRecord) =>
          by === 'record'
            ? consumer.run((event) => onRecord(bytesOf(event.value)))
            : consumer.runBatch((batch) => {
                for (const event of batch) onRecord(bytesOf(event.value));
              }),
      };
    },
  };
}

/** post(): no promise for a record. */
export function postingClient(job: Job): BenchClient {
  return {
    async producer() {
      const { kafka } = await open(job, 'wire');
      const producer = kafka.producer(job.topic);
      let failure: unknown;
      const failed = (error: unknown) => {
        failure ??= error;
      };
      const sent = sentBy(job);
      return {
        unawaited: true,
        sendOne: () => Promise.reject(new Error('nobody waits for one')),
        async sendMany(i, count) {
          let room = true;
          for (let n = i; n < i + count; n++) room = producer.post(at(sent, n), failed) && room;
          await (room ? nextTurn() : producer.ready());
          if (failure !== undefined) throw failure;
        },
      };
    },
    consumer: () => Promise.reject(new Error('it sends')),
  };
}

/** Answers come between. */
const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** The same pipeline in the same requests, without grant, quota and telemetry of its own: what these cost is the difference. */
export function openClient(job: Job): BenchClient {
  return {
    async producer() {
      const traced = job.payload === 'order' ? startTracing() : undefined;
      const { claims } = await grantOf(job, newGroup());
      const topic = topicContract(job);
      const options = compileProducerOptions(producerOptions(job));
      const link = await wireTransport().connect({
        cluster: { name: CLUSTER, bootstrap: job.bootstrap },
        identity: anonymousIdentity(SERVICE),
        clientId: SERVICE,
        connectTimeoutMs: 10_000,
        clock: systemClock,
        logger: silentLogger,
        gate: openGate,
        fetchGate: openGate,
        events: settleRecords(noTelemetry, () => {}),
      });
      const port = await link.producer(options);
      const value = confluentSerde({ codec: topic.value.codec(), text: topic.value.text, ids: grantIds(claims.schemas), topic: topic.name });
      await Promise.all([value.ready(), port.warm([topic.name])]);
      const producer = new TopicProducer({
        topic: topic.name,
        keyOf: topic.key.of as (event: unknown) => string,
        key: stringSerde() as never,
        value: value as never,
        stages: [],
        access: { produce: () => {}, consume: () => {} } as never,
        gate: openGate,
        telemetry: noTelemetry,
        clock: systemClock,
        port,
        scratch: new Scratch(),
        sticky: new StickyPartition({ random: Math.random, switchBytes: 16_384 }),
        options,
      });
      return producerOf(job, { send: (event) => producer.send(event), sendBatch: (list) => producer.sendBatch(list), ...(traced ? { traced } : {}) });
    },
    consumer: () => Promise.reject(new Error('the stages of consuming are not measured one by one')),
  };
}

interface Sending {
  readonly send: (event: Sent) => Promise<unknown>;
  readonly sendBatch: (events: readonly Sent[]) => Promise<unknown>;
  readonly traced?: ReturnType<typeof startTracing>;
}

function producerOf(job: Job, { send, sendBatch, traced }: Sending): BenchProducer {
  const sent = sentBy(job);
  return {
    sendOne: (i) => send(at(sent, i)),
    sendMany: (i, count) => sendBatch(Array.from({ length: count }, (_, n) => at(sent, i + n))),
    ...(traced ?? {}),
  };
}

/** What is sent, over and over. */
function sentBy(job: Job): readonly Sent[] {
  if (job.payload === 'order') return events.map((event) => ({ ...event, createdAt: BigInt(event.createdAt) }));
  const values = valuesOf(job.valueBytes - FRAME_BYTES);
  return keyTexts.map((key, i) => ({ key, value: at(values, i) }));
}
