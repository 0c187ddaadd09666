import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { LOCAL_ENVIRONMENT } from '@turnpike/policy';
import type { CompatibilityLevel } from '@turnpike/schema';
import type {
  AnyResource,
  ClusterResource,
  Consumes,
  Produces,
  QuotaSpec,
  SchemaResource,
  ServiceEnvironment,
  ServiceResource,
  TopicResource,
} from './model.ts';
import type { Reader } from './reader.ts';
import { bytesPerSecond, durationMs, recordsPerSecond } from './units.ts';

const API_VERSION = 'turnpike.dev/v1alpha1';
const KINDS = ['Topic', 'Service', 'Cluster'] as const;
const LEVELS: readonly CompatibilityLevel[] = ['NONE', 'BACKWARD', 'BACKWARD_TRANSITIVE', 'FORWARD', 'FORWARD_TRANSITIVE', 'FULL', 'FULL_TRANSITIVE'];
const ROOT_KEYS_FILE = 'turnpike.root-keys.json';
const NAME = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/;
/** Kafka's own rule: it goes into file names. */
const TOPIC_NAME = /^(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}$/;

/** Reads one document of a manifest; undefined = it is of no known kind, which is a problem. */
export function readResource(document: Reader): AnyResource | undefined {
  if (!document.isMap()) return undefined;
  const apiVersion = document.get('apiVersion');
  if (apiVersion.requiredString(API_VERSION) !== API_VERSION && apiVersion.exists) apiVersion.problem(`must be ${API_VERSION}.`);
  const kind = document.get('kind');
  const metadata = document.get('metadata');
  const spec = document.get('spec');
  const is = kind.requiredString(`one of ${KINDS.join(', ')}`);
  if (!(KINDS as readonly string[]).includes(is)) {
    if (kind.exists) kind.problem(`is ${JSON.stringify(is)}; it must be one of ${KINDS.join(', ')}.`);
    return undefined;
  }
  document.end();
  if (!metadata.isMap() || !spec.isMap()) return undefined;
  const name = metadata.get('name');
  const resource = { name: name.requiredString('a name'), team: metadata.get('team').requiredString('the team that owns it'), at: metadata.at };
  const rule = is === 'Topic' ? TOPIC_NAME : NAME;
  if (resource.name !== '' && !rule.test(resource.name))
    name.problem(is === 'Topic' ? 'must be of letters, digits, ".", "_" and "-", at most 249 long.' : 'must be of lower-case letters, digits and "-".');
  metadata.end();
  const read = is === 'Topic' ? topic(spec, resource) : is === 'Service' ? service(spec, resource) : cluster(spec, resource);
  spec.end();
  return read;
}

type Common = Pick<AnyResource, 'name' | 'team' | 'at'>;

function topic(spec: Reader, common: Common): TopicResource {
  return {
    kind: 'Topic',
    ...common,
    cluster: spec.get('cluster').requiredString('the logical cluster that it is on'),
    partitions:
      spec.get('partitions').integer({ min: 1, max: 10_000 }) ??
      missing(spec.get('partitions'), 'is missing; give how many it has (they can grow, never shrink).', 1),
    replicationFactor: spec.get('replicationFactor').integer({ min: 1, max: 32 }),
    retentionMs: spec.get('retention').parsed(durationMs, '72h, 30d or forever'),
    configs: Object.fromEntries(
      spec
        .get('configs')
        .entries()
        .map(([key, value]) => [key, value.text() ?? '']),
    ),
    key: keyOf(spec.get('key')),
    value: schema(spec.get('value'), `${common.name}-value`),
    access: spec.get('access').list().map(consent),
    deletion: spec.get('deletion').oneOf(['protected', 'allowed'], 'protected'),
  };
}

function keyOf(key: Reader): TopicResource['key'] {
  if (!key.exists) return { format: 'none' };
  if (!key.isMap()) return { format: 'none' };
  const format = key.get('format').oneOf(['string', 'none'], 'string');
  const from = key.get('from').string();
  key.end();
  return format === 'none' ? { format } : { format, from };
}

function consent(entry: Reader): TopicResource['access'][number] {
  const service = entry.get('service').requiredString('the service that may use it');
  const operations = entry
    .get('operations')
    .list()
    .map((o) => o.oneOf<'produce' | 'consume'>(['produce', 'consume'], 'consume'));
  if (operations.length === 0) entry.problem('allows nothing; give operations: [consume], [produce] or both.');
  entry.end();
  return { service, operations };
}

function schema(value: Reader, subject: string): SchemaResource {
  const empty: SchemaResource = { format: 'avro', subject, text: '', file: '', references: [], compatibility: 'BACKWARD' };
  if (!value.isMap()) return empty;
  const format = value.get('format').oneOf(['avro'], 'avro');
  const file = value.get('file');
  const references = value
    .get('references')
    .list()
    .map((r) => {
      const reference = {
        name: r.get('name').requiredString('the full name of the type'),
        subject: r.get('subject').requiredString('its subject'),
        text: textOf(r.get('file')),
      };
      r.end();
      return reference;
    });
  const read: SchemaResource = {
    format,
    subject: value.get('subject').string() ?? subject,
    text: textOf(file),
    file: file.string() ?? '',
    references,
    compatibility: value.get('compatibility').oneOf(LEVELS, 'BACKWARD'),
  };
  value.end();
  return read;
}

function textOf(file: Reader): string {
  const name = file.requiredString('the path of its .avsc');
  if (name === '') return '';
  const resolved = path.resolve(path.dirname(file.at.file), name);
  try {
    return readFileSync(resolved, 'utf8');
  } catch (error) {
    file.problem(`can't be read: ${(error as Error).message}. The path is taken from where this manifest lies.`);
    return '';
  }
}

function service(spec: Reader, common: Common): ServiceResource {
  const environments = Object.fromEntries(
    spec
      .get('environments')
      .entries()
      .map(([name, e]) => [name, environment(e, name)] as const),
  );
  const generated = spec.get('generated').string() ?? 'generated';
  spec.get('imports').strings(); // Followed by whoever reads the file.
  return {
    kind: 'Service',
    ...common,
    runtime: spec.get('runtime').oneOf(['sdk', 'external'], 'sdk'),
    identity: spec.get('identity').oneOf(['mtls', 'oauth'], 'mtls'),
    produces: spec.get('produces').list().map(produced),
    consumes: spec.get('consumes').list().map(consumed),
    environments: { [LOCAL_ENVIRONMENT]: { principals: [common.name], maxInstances: 1, enforcement: 'enforce' }, ...environments },
    generated,
    rootKeys: rootKeys(spec.get('rootKeys'), common.at.file),
  };
}

function environment(entry: Reader, name: string): ServiceEnvironment {
  const principals = entry.get('principals');
  if (entry.isMap() && !principals.exists)
    principals.problem("is missing; give who the service is there: a certificate's name, a SPIFFE id or an OAuth client.");
  const instances = entry.get('instances');
  const read: ServiceEnvironment = {
    principals: principals.strings(),
    maxInstances: instances.get('max').integer({ min: 1 }) ?? 1,
    // A new rule starts by being counted (architecture: shadow, warn, enforce); a developer's own machine may say no at once.
    enforcement: entry.get('enforcement').oneOf(['shadow', 'warn', 'enforce'], name === LOCAL_ENVIRONMENT ? 'enforce' : 'shadow'),
  };
  instances.end();
  entry.end();
  return read;
}

function produced(entry: Reader): Produces {
  const read = { topic: entry.get('topic').requiredString('the topic'), quota: quota(entry.get('quota')), onExpiry: expiry(entry), at: entry.at };
  entry.end();
  return read;
}

function consumed(entry: Reader): Consumes {
  const read = {
    topic: entry.get('topic').requiredString('the topic'),
    group: entry.get('group').requiredString('the consumer group'),
    quota: quota(entry.get('quota')),
    onExpiry: expiry(entry),
    at: entry.at,
  };
  entry.end();
  return read;
}

const expiry = (entry: Reader) => entry.get('onExpiry').oneOf(['hold', 'refuse'], 'hold');

function quota(entry: Reader): QuotaSpec | undefined {
  if (!entry.exists || !entry.isMap()) return undefined;
  const burstMs = entry.get('burst').parsed(durationMs, 'the time of the rate that may go at once, as 2s');
  const read: QuotaSpec = {
    bytesPerSecond: entry.get('bytes').parsed(bytesPerSecond, '5MiB/s or 500kB/s'),
    recordsPerSecond: entry.get('records').parsed(recordsPerSecond, '2000/s'),
    burstSeconds: (burstMs ?? 1000) / 1000,
    weight: entry.get('weight').integer({ min: 1 }) ?? 1,
  };
  if (read.bytesPerSecond === undefined && read.recordsPerSecond === undefined) entry.problem('limits nothing; give bytes, records or both.');
  entry.end();
  return read;
}

function rootKeys(entry: Reader, manifest: string): ServiceResource['rootKeys'] {
  const named = entry.string();
  const file = path.resolve(path.dirname(manifest), named ?? ROOT_KEYS_FILE);
  if (named === undefined && !existsSync(file)) return [];
  try {
    const { keys } = JSON.parse(readFileSync(file, 'utf8')) as { keys: readonly Readonly<Record<string, string>>[] };
    const priv = keys.find((k) => 'd' in k);
    if (priv) entry.problem(`${file} holds a private key (${priv.kid}); it must hold public keys only. Replace that key: it has been where it can be read.`);
    return priv ? [] : keys;
  } catch (error) {
    entry.problem(`${file} is no set of keys ({"keys": [...]}, as turnpike grant keygen writes it): ${(error as Error).message}.`);
    return [];
  }
}

function cluster(spec: Reader, common: Common): ClusterResource {
  const environments = spec
    .get('environments')
    .entries()
    .map(([name, e]) => {
      const bootstrap = e.get('bootstrap');
      const read = { id: e.get('id').string() ?? '', mtls: addresses(bootstrap.get('mtls')), oauth: addresses(bootstrap.get('oauth')) };
      bootstrap.end();
      e.end();
      return [name, read] as const;
    });
  return {
    kind: 'Cluster',
    ...common,
    replicationFactor: spec.get('replicationFactor').integer({ min: 1, max: 32 }),
    environments: Object.fromEntries(environments),
  };
}

function addresses(list: Reader): readonly string[] {
  return list.list().flatMap((item) => {
    const text = item.string();
    if (text !== undefined && !/^.+:\d{1,5}$/.test(text)) item.problem(`is ${JSON.stringify(text)}; write an address as host:port.`);
    return text ?? [];
  });
}

function missing<T>(reader: Reader, message: string, fallback: T): T {
  if (!reader.exists) reader.problem(message);
  return fallback;
}
