import type { ConnectOptions } from '@turnpike/client';
import { avroCodec, defineService, type TopicContract } from '@turnpike/client/generated';
import { silentLogger, systemClock } from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { fingerprint, registryClient } from '@turnpike/schema';
import type { Desk } from '../../support/service.ts';

export interface Counted {
  key: string;
  event: number;
  sequence: number;
  filler: string;
}

export type CountedTopic = TopicContract<Counted, Counted, string>;

export const PARTITIONS = 4;
export const TOPICS = ['orders', 'payments', 'stock'] as const;
export type TopicName = (typeof TOPICS)[number];

const PRINCIPAL = 'wire-proof';
export const GROUP = `${PRINCIPAL}.group`;

const text = JSON.stringify({
  type: 'record',
  name: 'Counted',
  namespace: 'proof',
  fields: [
    { name: 'key', type: 'string' },
    { name: 'event', type: 'int' },
    { name: 'sequence', type: 'int' },
    { name: 'filler', type: 'string' },
  ],
});

/** Topics on three replicas, of which two must have a record before it is acknowledged, and a service that may write and read them. */
export async function makeService(desk: Desk) {
  const made = await desk.admin.createTopics(
    TOPICS.map((name) => ({ name, partitions: PARTITIONS, replicationFactor: 3, configs: { 'min.insync.replicas': '2' } })),
  );
  for (const { error } of made) if (error) throw error;
  await using identity = await mtlsIdentity(desk.platform.admin.mtls);
  const registry = registryClient({ url: desk.platform.registryUrl, http: identity.http, clock: systemClock, logger: silentLogger });
  for (const name of TOPICS) await registry.register(`${name}-value`, text);
  await desk.allow(PRINCIPAL, { write: TOPICS, read: TOPICS, groups: [GROUP] });
  const granted = await desk.service({ name: PRINCIPAL, produces: TOPICS, consumes: TOPICS, groups: [GROUP] });
  const options: ConnectOptions = granted.options;
  const service = defineService({
    ...granted.service,
    produces: { orders: counted('orders'), payments: counted('payments'), stock: counted('stock') },
    consumes: {
      orders: { topic: counted('orders'), groups: [GROUP] },
      payments: { topic: counted('payments'), groups: [GROUP] },
      stock: { topic: counted('stock'), groups: [GROUP] },
    },
  });
  return { service, options };
}

function counted(name: string): CountedTopic {
  const schema = { subject: `${name}-value`, sha256: fingerprint(text) };
  return {
    name,
    cluster: 'local',
    key: { format: 'string', of: (e) => e.key },
    value: { format: 'avro', schema, text, codec: () => avroCodec<Counted>(schema, text) },
  };
}

/** Reads a framed value without our codecs: 0, the schema's id, then two of Avro's strings around two of its ints. */
export function readCounted(value: Buffer): Pick<Counted, 'key' | 'event' | 'sequence'> {
  if (value[0] !== 0) throw new Error('a record in the log has no frame');
  let at = 5;
  const int = (): number => {
    let read = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = value[at++];
      if (byte === undefined) throw new Error('a record in the log is cut off');
      read += (byte & 0x7f) * factor;
      if (byte < 0x80) return read % 2 === 0 ? read / 2 : -(read + 1) / 2;
    }
  };
  const length = int();
  const key = value.toString('utf8', at, at + length);
  at += length;
  return { key, event: int(), sequence: int() };
}
