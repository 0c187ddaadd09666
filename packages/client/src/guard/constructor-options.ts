import type { ClusterRef, Identity, TlsMaterial } from '@turnpike/core/spi';

/** What options() writes for: `new Kafka(...)` of kafkajs; of `KafkaJS` in @confluentinc/kafka-javascript; its raw clients. */
export type GuardedLibrary = 'kafkajs' | 'confluent' | 'rdkafka';

/** What `new Kafka()` of kafkajs takes. Certificate and token are asked of the identity at each connection. */
export interface KafkajsOptions {
  clientId: string;
  brokers: string[];
  ssl: { readonly ca?: string; readonly cert?: string; readonly key?: string };
  sasl?: { mechanism: 'oauthbearer'; oauthBearerProvider: () => Promise<{ value: string }> };
  reauthenticationThreshold?: number;
}

/** kafkajs renews a session so long before it ends. Its own 10 s are longer than some sessions: then each request would begin with a proof, and a broker refuses (ILLEGAL_SASL_STATE) two
 *  within a second. A session that has ended can still be renewed (KIP-368), so little is enough. */
const REAUTHENTICATION_THRESHOLD_MS = 500;

interface PemOptions {
  readonly 'ssl.ca.pem'?: string;
  readonly 'ssl.certificate.pem'?: string;
  readonly 'ssl.key.pem'?: string;
}

/** What `new KafkaJS.Kafka()` of @confluentinc/kafka-javascript takes. The token is asked of the identity whenever librdkafka wants one, the certificate when a client is made. */
export interface ConfluentOptions extends PemOptions {
  kafkaJS: {
    clientId: string;
    brokers: string[];
    ssl: true;
    sasl?: { mechanism: 'oauthbearer'; oauthBearerProvider: () => Promise<{ value: string; principal: string; lifetime: number }> };
  };
}

/** What the raw clients of @confluentinc/kafka-javascript take. As ConfluentOptions. */
export interface RdkafkaOptions extends PemOptions {
  'client.id': string;
  'metadata.broker.list': string;
  'security.protocol': 'ssl' | 'sasl_ssl';
  'sasl.mechanisms'?: 'OAUTHBEARER';
  oauthbearer_token_refresh_cb?: () => Promise<{ tokenValue: string; principal: string; lifetime: number }>;
}

export interface OptionsOf {
  readonly kafkajs: KafkajsOptions;
  readonly confluent: ConfluentOptions;
  readonly rdkafka: RdkafkaOptions;
}

export function constructorOptions<L extends GuardedLibrary>(library: L, identity: Identity, cluster: ClusterRef, clientId: string): OptionsOf[L];
export function constructorOptions(library: GuardedLibrary, identity: Identity, cluster: ClusterRef, clientId: string): OptionsOf[GuardedLibrary] {
  const brokers = [...cluster.bootstrap];
  const oauth = identity.kind === 'oauth';
  const token = async () => {
    const { value, expiresAtMs } = await identity.token();
    return { value, principal: identity.principal, lifetime: expiresAtMs };
  };
  if (library === 'kafkajs') {
    const sasl = { mechanism: 'oauthbearer' as const, oauthBearerProvider: async () => ({ value: (await identity.token()).value }) };
    return {
      clientId,
      brokers,
      ssl: fresh({}, identity, { ca: 'ca', cert: 'cert', key: 'key' }),
      ...(oauth ? { sasl, reauthenticationThreshold: REAUTHENTICATION_THRESHOLD_MS } : {}),
    };
  }
  const names = { 'ssl.ca.pem': 'ca', 'ssl.certificate.pem': 'cert', 'ssl.key.pem': 'key' } as const;
  if (library === 'confluent') {
    const sasl = { mechanism: 'oauthbearer' as const, oauthBearerProvider: token };
    return fresh({ kafkaJS: { clientId, brokers, ssl: true as const, ...(oauth ? { sasl } : {}) } }, identity, names);
  }
  const raw: RdkafkaOptions = { 'client.id': clientId, 'metadata.broker.list': brokers.join(','), 'security.protocol': oauth ? 'sasl_ssl' : 'ssl' };
  if (oauth) {
    raw['sasl.mechanisms'] = 'OAUTHBEARER';
    raw.oauthbearer_token_refresh_cb = async () => {
      const { value, ...rest } = await token();
      return { tokenValue: value, ...rest };
    };
  }
  return fresh(raw, identity, names);
}

/** Adds the material that there is, as getters: read when a library reads it, so that it is the identity's own of that moment. `util.inspect` doesn't call them, and JSON leaves them out,
 *  so that options which are logged tell no key. */
function fresh<T extends object, N extends Readonly<Record<string, keyof TlsMaterial>>>(
  options: T,
  identity: Identity,
  names: N,
): T & { readonly [K in keyof N]?: string } {
  const material = identity.tls() ?? {};
  for (const [name, part] of Object.entries(names))
    if (material[part] !== undefined) Object.defineProperty(options, name, { enumerable: true, configurable: true, get: () => identity.tls()?.[part] });
  Object.defineProperty(options, 'toJSON', { value: () => Object.fromEntries(Object.entries(options).filter(([name]) => !(name in names))) });
  return options;
}
