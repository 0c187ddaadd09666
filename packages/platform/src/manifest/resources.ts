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
import { readRootKeys } from './root-keys.ts';
import { bytesPerSecond, durationMs, recordsPerSecond, retentionMs } from './units.ts';

const API_VERSION = 'turnpike.dev/v1alpha1';
const KINDS = ['Topic', 'Service', 'Cluster'] as const;
const LEVELS: readonly CompatibilityLevel[] = ['NONE', 'BACKWARD', 'BACKWARD_TRANSITIVE', 'FORWARD', 'FORWARD_TRANSITIVE', 'FULL', 'FULL_TRANSITIVE'];
const ROOT_KEYS_FILE = 'turnpike.root-keys.json';
const NAME = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/;
/** Kafka's own rule: it goes into file names. Two underscores begin the names of its internal topics. */
const TOPIC_NAME = /^(?!\.{1,2}$)(?!__)[A-Za-z0-9._-]{1,249}$/;

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
  // Both are asked, so that both are told of.
  if (![metadata.isMap(), spec.isMap()].every(Boolean)) return undefined;
  const name = metadata.get('name');
  const resource = {
    name: name.requiredString('a name'),
    team: metadata.get('team').requiredString('the team that owns it'),
    at: metadata.at,
    where: placesIn(document),
  };
  const rule = is === 'Topic' ? TOPIC_NAME : NAME;
  if (resource.name !== '' && !rule.test(resource.name))
    name.problem(
      is === 'Topic'
        ? 'must be of letters, digits, ".", "_" and "-", at most 249 long, and not begin with "__".'
        : 'must be of lower-case letters, digits and "-".',
    );
  metadata.end();
  const read = is === 'Topic' ? topic(spec, resource) : is === 'Service' ? service(spec, resource) : cluster(spec, resource);
  spec.end();
  return read;
}

type Common = Pick<AnyResource, 'name' | 'team' | 'at' | 'where'>;

const placesIn =
  (reader: Reader) =>
  (...keys: readonly string[]) =>
    reader.where(...keys);

function topic(spec: Reader, common: Common): TopicResource {
  const read: TopicResource = {
    kind: 'Topic',
    ...common,
    cluster: spec.get('cluster').requiredString('the logical cluster that it is on'),
    partitions:
      spec.get('partitions').integer({ min: 1, max: 10_000 }) ??
      missing(spec.get('partitions'), 'is missing; give how many it has (they can grow, never shrink).', 1),
    replicationFactor: spec.get('replicationFactor').integer({ min: 1, max: 32 }),
    retentionMs: spec.get('retention').parsed(retentionMs, 'a time such as 72h or 30d, or forever'),
    configs: Object.fromEntries(
      spec
        .get('configs')
        .entries()
        .map(([key, value]) => [key, configText(value)]),
    ),
    key: keyOf(spec.get('key')),
    value: schema(spec.get('value'), `${common.name}-value`),
    access: spec.get('access').list().map(consent),
    deletion: spec.get('deletion').oneOf(['protected', 'allowed'], 'protected'),
  };
  if (read.retentionMs !== undefined && 'retention.ms' in read.configs)
    spec.get('configs').get('retention.ms').problem('is said twice: spec.retention is there too; take one of them out.');
  return read;
}

function configText(value: Reader): string {
  if (!value.exists) value.problem("has no value; give one, or take it out and the cluster's default holds.");
  return value.text() ?? '';
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
  const { file, text } = fileOf(value.get('file'));
  const references = value
    .get('references')
    .list()
    .map((r) => {
      const reference = {
        name: r.get('name').requiredString('the full name of the type'),
        subject: r.get('subject').requiredString('its subject'),
        text: fileOf(r.get('file')).text,
      };
      r.end();
      return reference;
    });
  const read: SchemaResource = {
    format,
    subject: value.get('subject').string() ?? subject,
    text,
    file,
    references,
    compatibility: value.get('compatibility').oneOf(LEVELS, 'BACKWARD'),
  };
  value.end();
  return read;
}

/** Lines end as Git keeps them, whatever a checkout made of them: else a fingerprint would differ between two machines. */
function fileOf(reader: Reader): { readonly file: string; readonly text: string } {
  const file = reader.requiredString('the path of its .avsc');
  if (file === '') return { file, text: '' };
  const resolved = path.resolve(path.dirname(reader.at.file), file);
  try {
    const text = readFileSync(resolved, 'utf8')
      .replace(/^\uFEFF/, '')
      .replaceAll('\r\n', '\n');
    if (text.trim() === '') reader.problem(`is ${file}, which is empty; write the schema there.`);
    return { file, text: text.trim() === '' ? '' : text };
  } catch (error) {
    reader.problem(`is ${file}, which can't be read (${reason(error)}). The path is taken from where this manifest lies.`);
    return { file, text: '' };
  }
}

const reason = (error: unknown): string => {
  const { code, message } = error as NodeJS.ErrnoException;
  return code === 'ENOENT' ? 'there is no such file' : code === 'EISDIR' ? 'it is a folder' : (code ?? message);
};

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
    environments: { [LOCAL_ENVIRONMENT]: { principals: [common.name], maxInstances: 1, enforcement: 'enforce', at: common.at }, ...environments },
    generated,
    rootKeys: rootKeys(spec.get('rootKeys'), common.at.file),
  };
}

function environment(entry: Reader, name: string): ServiceEnvironment {
  if (!NAME.test(name)) entry.problem('is no name of an environment: it must be of lower-case letters, digits and "-".');
  const principals = entry.get('principals');
  const who = principals.list();
  if (entry.isMap() && (!principals.exists || who.length === 0))
    principals.problem("names nobody; give who the service is there: a certificate's name, a SPIFFE id or an OAuth client.");
  const instances = entry.get('instances');
  const read: ServiceEnvironment = {
    principals: who.flatMap((p) => principal(p) ?? []),
    maxInstances: instances.get('max').integer({ min: 1 }) ?? 1,
    // A new rule starts by being counted (architecture: shadow, warn, enforce); a developer's own machine may say no at once.
    enforcement: entry.get('enforcement').oneOf(['shadow', 'warn', 'enforce'], name === LOCAL_ENVIRONMENT ? 'enforce' : 'shadow'),
    at: entry.at,
  };
  instances.end();
  entry.end();
  return read;
}

function principal(entry: Reader): string | undefined {
  const name = entry.string();
  // To Kafka `User:*` is everybody.
  if (name === '*') entry.problem('is "*", which is everybody; name each principal.');
  if (name?.startsWith('User:')) entry.problem(`is ${JSON.stringify(name)}; leave "User:" out, it is put before it for Kafka.`);
  return name;
}

function produced(entry: Reader): Produces {
  const read = {
    topic: entry.get('topic').requiredString('the topic'),
    quota: quota(entry.get('quota'), 'produce'),
    onExpiry: expiry(entry),
    at: entry.at,
    where: placesIn(entry),
  };
  entry.end();
  return read;
}

function consumed(entry: Reader): Consumes {
  const group = entry.get('group');
  const read = {
    topic: entry.get('topic').requiredString('the topic'),
    group: group.requiredString('the consumer group'),
    quota: quota(entry.get('quota'), 'consume'),
    onExpiry: expiry(entry),
    at: entry.at,
    where: placesIn(entry),
  };
  // In an ACL the name "*" is every group.
  if (read.group === '*') group.problem('is "*", which is every group; give it a name of its own.');
  entry.end();
  return read;
}

const expiry = (entry: Reader) => entry.get('onExpiry').oneOf(['hold', 'refuse'], 'hold');

function quota(entry: Reader, operation: 'produce' | 'consume'): QuotaSpec | undefined {
  if (!entry.exists || !entry.isMap()) return undefined;
  const records = entry.get('records');
  const wanted = operation === 'produce' ? 'bytes, records or both' : 'bytes';
  if (operation === 'consume' && records.exists) records.problem("can't be limited for a consumer yet; give bytes.");
  const burstMs = entry.get('burst').parsed(durationMs, 'the time of the rate that may go at once, such as 2s');
  const read: QuotaSpec = {
    bytesPerSecond: entry.get('bytes').parsed(bytesPerSecond, 'a rate such as 5MiB/s or 500kB/s'),
    recordsPerSecond: records.parsed(recordsPerSecond, 'a rate such as 2000/s'),
    burstSeconds: (burstMs ?? 1000) / 1000,
    weight: entry.get('weight').integer({ min: 1 }) ?? 1,
  };
  if (!entry.get('bytes').exists && !records.exists) entry.problem(`limits nothing; give ${wanted}.`);
  entry.end();
  return read;
}

/** Members of a public key that are worth pinning (RFC 7518, section 6; RFC 8037): a contract holds nothing else of what the file says. */
const PUBLIC_MEMBERS = ['kty', 'crv', 'x', 'y', 'kid', 'alg', 'use'];

function rootKeys(entry: Reader, manifest: string): ServiceResource['rootKeys'] {
  const named = entry.string();
  const file = path.resolve(path.dirname(manifest), named ?? ROOT_KEYS_FILE);
  if (named === undefined && !existsSync(file)) return [];
  try {
    const keys = readRootKeys(file);
    return keys.map((key) => Object.fromEntries(PUBLIC_MEMBERS.filter((m) => typeof key[m] === 'string').map((m) => [m, String(key[m])])));
  } catch (error) {
    entry.problem((error as Error).message);
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
      if (e.isMap() && (bootstrap.isMap() || !bootstrap.exists) && !bootstrap.get('mtls').exists && !bootstrap.get('oauth').exists)
        bootstrap.problem('gives no address; give mtls, oauth or both, each a list of host:port.');
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
    if (text !== undefined && !/^[^\s/]+:\d{1,5}$/.test(text)) item.problem(`is ${JSON.stringify(text)}; write an address as host:port.`);
    return text ?? [];
  });
}

function missing<T>(reader: Reader, message: string, fallback: T): T {
  if (!reader.exists) reader.problem(message);
  return fallback;
}
