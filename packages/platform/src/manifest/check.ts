import { asTurnpikeError } from '@turnpike/core';
import { avroTypeScript } from '@turnpike/schema';
import { clusterOf, type Manifest, type SchemaResource, type ServiceResource, type TopicResource, topicNames, topicOf } from './model.ts';
import { type Location, type Place, type Problem, placeOf } from './problems.ts';

/** What only several resources together can show: names that clash, topics that nobody declares, consent that is missing. */
export function checkManifest(manifest: Manifest, problems: Problem[]): void {
  const say = (at: Location, path: string, message: string) => problems.push({ ...at, path, message });
  const topics = [...manifest.topics, ...manifest.imported.topics];
  unique(topics, say);
  unique(manifest.services, say);
  unique([...manifest.clusters, ...manifest.imported.clusters], say);
  alike(topics, say);
  const used = new Set(manifest.services.flatMap(topicNames));
  for (const topic of topics) if (manifest.topics.includes(topic) || used.has(topic.name)) checkSchema(topic, say);
  for (const topic of manifest.topics) checkCluster(manifest, topic, say);
  checkSubjects(topics, say);
  for (const service of manifest.services) checkService(manifest, service, say);
  checkPrincipals(manifest.services, say);
}

type Say = (at: Location, path: string, message: string) => void;

function unique(resources: readonly { readonly name: string; readonly at: Location }[], say: Say): void {
  const seen = new Map<string, Location>();
  for (const { name, at } of resources) {
    const first = seen.get(name);
    if (name === '') continue; // Told of where it is read.
    if (first) say(at, 'metadata.name', `${name} stands at ${placeOf(first)} too; one of them must go.`);
    else seen.set(name, at);
  }
}

/** Kafka takes "a.b" and "a_b" for one name in its metrics, and refuses the second. */
function alike(topics: readonly TopicResource[], say: Say): void {
  const seen = new Map<string, TopicResource>();
  for (const topic of topics) {
    const first = seen.get(topic.name.replaceAll('.', '_'));
    if (first && first.name !== topic.name && first.cluster === topic.cluster)
      say(
        topic.at,
        'metadata.name',
        `${topic.name} and ${first.name} (${placeOf(first.at)}) are one name to Kafka, which reads "." and "_" alike; rename one.`,
      );
    seen.set(topic.name.replaceAll('.', '_'), first ?? topic);
  }
}

function checkSchema(topic: TopicResource, say: Say): void {
  const { text, references, file } = topic.value;
  if (text === '' || references.some((r) => r.text === '')) return; // Told of where it is read.
  try {
    avroTypeScript(text, { references: references.map((r) => r.text) });
  } catch (error) {
    const { message, code } = asTurnpikeError(error, 'SCHEMA_INVALID', String(error));
    say(topic.at, 'spec.value.file', `${file}: ${message.slice(code.length + 3)}`);
    return;
  }
  if (topic.key.format !== 'string' || topic.key.from === undefined) return;
  const { from } = topic.key;
  const { fields } = JSON.parse(text) as { fields?: readonly { readonly name: string; readonly type: unknown }[] };
  const field = fields?.find((f) => f.name === from);
  const isString = field?.type === 'string' || (field?.type as { type?: unknown } | undefined)?.type === 'string';
  if (!field) say(topic.at, 'spec.key.from', `is ${from}, which ${file} has no field of; it has ${fields?.map((f) => f.name).join(', ') ?? 'none'}.`);
  else if (!isString)
    say(topic.at, 'spec.key.from', `is ${from}, which is ${JSON.stringify(field.type)} in ${file}; a string key comes from a string. Take another field.`);
}

/** Clusters may be declared elsewhere; where they are declared here, a name that isn't among them is misspelt. */
function checkCluster(manifest: Manifest, { cluster, at }: TopicResource, say: Say): void {
  const known = [...manifest.clusters, ...manifest.imported.clusters].map((c) => c.name);
  if (cluster !== '' && known.length > 0 && !clusterOf(manifest, cluster))
    say(at, 'spec.cluster', `is ${cluster}, which nobody declares; there are ${known.join(', ')}. Correct it, or declare it (kind: Cluster).`);
}

/** A subject is one schema, for every topic and reference that names it. */
function checkSubjects(topics: readonly TopicResource[], say: Say): void {
  const seen = new Map<string, { readonly schema: string; readonly at: Location }>();
  const once = (subject: string, schema: string, at: Location) => {
    const first = seen.get(subject);
    if (first && first.schema !== schema)
      say(at, 'spec.value', `the subject ${subject} has another schema at ${placeOf(first.at)}; give one of them a subject of its own (value.subject).`);
    else seen.set(subject, first ?? { schema, at });
  };
  for (const { value, at } of topics) {
    once(value.subject, schemaOf(value), at);
    for (const r of value.references) once(r.subject, r.text, at);
  }
}

const schemaOf = ({ text, references }: SchemaResource): string => (references.length === 0 ? text : JSON.stringify([text, references]));

function checkService(manifest: Manifest, service: ServiceResource, say: Say): void {
  const use = (entry: { readonly topic: string; readonly at: Place }, operation: 'produce' | 'consume') => {
    const topic = topicOf(manifest, entry.topic);
    const at = entry.at;
    if (entry.topic === '') return;
    if (!topic) {
      say(
        at,
        `${at.path}.topic`,
        `${entry.topic} is declared neither here nor in what spec.imports names. Declare it (kind: Topic), or import its owner's turnpike.yaml.`,
      );
      return;
    }
    const consent = topic.team === service.team || topic.access.some((a) => a.service === service.name && a.operations.includes(operation));
    if (!consent)
      say(
        at,
        `${at.path}.topic`,
        `${entry.topic} is ${topic.team}'s, and its owner has not agreed that ${service.name} may ${operation}. Ask them to add { service: ${service.name}, operations: [${operation}] } to spec.access at ${placeOf(topic.at)}.`,
      );
  };
  for (const entry of service.produces) use(entry, 'produce');
  for (const entry of service.consumes) use(entry, 'consume');
  twice(service.produces, (p) => p.topic, 'is produced twice; merge the two entries.', say);
  twice(service.consumes, (c) => `${c.topic} in ${c.group}`, 'is consumed twice; merge the two entries.', say);
  const clusterOfGroup = new Map<string, string>();
  for (const { topic, group, at } of service.consumes) {
    const cluster = topicOf(manifest, topic)?.cluster;
    const other = clusterOfGroup.get(group);
    if (cluster !== undefined && other !== undefined && other !== cluster)
      say(at, `${at.path}.group`, `${group} would read from ${other} and ${cluster}; a group lives on one cluster. Use a group for each.`);
    if (cluster !== undefined) clusterOfGroup.set(group, cluster);
  }
}

function twice<T extends { readonly at: Place }>(entries: readonly T[], key: (entry: T) => string, message: string, say: Say): void {
  const seen = new Set<string>();
  for (const entry of entries) {
    if (seen.has(key(entry))) say(entry.at, `${entry.at.path}.topic`, `${key(entry)} ${message}`);
    seen.add(key(entry));
  }
}

/** A principal that two services share would have the rights of both. */
function checkPrincipals(services: readonly ServiceResource[], say: Say): void {
  const owners = new Map<string, string>();
  for (const service of services)
    for (const [name, { principals, at }] of Object.entries(service.environments))
      for (const principal of principals) {
        const key = `${name} ${principal}`;
        const owner = owners.get(key);
        if (owner !== undefined && owner !== service.name)
          say(at, `spec.environments.${name}.principals`, `${principal} is ${owner}'s there already; each service has principals of its own.`);
        owners.set(key, owner ?? service.name);
      }
}
