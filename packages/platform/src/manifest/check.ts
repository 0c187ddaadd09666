import { asTurnpikeError } from '@turnpike/core';
import { withoutCode } from '@turnpike/core/spi';
import { avroTypeScript } from '@turnpike/schema';
import {
  type AnyResource,
  type Consumes,
  clusterOf,
  type Manifest,
  type Produces,
  type SchemaResource,
  type ServiceResource,
  type TopicResource,
  topicNames,
  topicOf,
} from './model.ts';
import { type Location, type Place, type Problem, placeOf } from './problems.ts';
import { meant, thereAre } from './words.ts';

/** What only several resources together can show: names that clash, topics that nobody declares, consent that is missing. */
export function checkManifest(manifest: Manifest, problems: Problem[]): void {
  const say = (place: Place, message: string) => problems.push({ ...place, message });
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

type Say = (place: Place, message: string) => void;

function unique(resources: readonly AnyResource[], say: Say): void {
  const seen = new Map<string, Location>();
  for (const { name, where } of resources) {
    const at = where('metadata', 'name');
    const first = seen.get(name);
    if (name === '') continue; // Told of where it is read.
    if (first) say(at, `${name} stands at ${placeOf(first)} too; one of them must go.`);
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
        topic.where('metadata', 'name'),
        `${topic.name} and ${first.name} (${placeOf(first.where('metadata', 'name'))}) are one name to Kafka, which reads "." and "_" alike; rename one.`,
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
    say(topic.where('spec', 'value', 'file'), `${file}: ${withoutCode(asTurnpikeError(error, 'SCHEMA_INVALID', String(error)))}`);
    return;
  }
  if (topic.key.format !== 'string' || topic.key.from === undefined) return;
  const { from } = topic.key;
  const { fields } = JSON.parse(text) as { fields?: readonly { readonly name: string; readonly type: unknown }[] };
  const field = fields?.find((f) => f.name === from);
  const isString = field?.type === 'string' || (field?.type as { type?: unknown } | undefined)?.type === 'string';
  const at = topic.where('spec', 'key', 'from');
  if (!field)
    say(
      at,
      `is ${from}, which ${file} has no field of${meant(from, fields?.map((f) => f.name) ?? [])}; it has ${fields?.map((f) => f.name).join(', ') ?? 'none'}.`,
    );
  else if (!isString) say(at, `is ${from}, which is ${JSON.stringify(field.type)} in ${file}; a string key comes from a string. Take another field.`);
}

/** Clusters may be declared elsewhere; where they are declared here, a name that isn't among them is misspelt. */
function checkCluster(manifest: Manifest, { cluster, where }: TopicResource, say: Say): void {
  const known = [...manifest.clusters, ...manifest.imported.clusters].map((c) => c.name);
  if (cluster !== '' && known.length > 0 && !clusterOf(manifest, cluster))
    say(
      where('spec', 'cluster'),
      `is ${cluster}, which nobody declares${meant(cluster, known)}; ${thereAre(known)}. Correct it, or declare it (kind: Cluster).`,
    );
}

/** A subject is one schema, for every topic and reference that names it. */
function checkSubjects(topics: readonly TopicResource[], say: Say): void {
  const seen = new Map<string, { readonly schema: string; readonly at: Location }>();
  const once = (subject: string, schema: string, at: Place) => {
    const first = seen.get(subject);
    if (first && first.schema !== schema)
      say(at, `the subject ${subject} has another schema at ${placeOf(first.at)}; give one of them a subject of its own (value.subject).`);
    else seen.set(subject, first ?? { schema, at });
  };
  for (const { value, where } of topics) {
    const at = where('spec', 'value');
    once(value.subject, schemaOf(value), at);
    for (const r of value.references) once(r.subject, r.text, at);
  }
}

const schemaOf = ({ text, references }: SchemaResource): string => (references.length === 0 ? text : JSON.stringify([text, references]));

function checkService(manifest: Manifest, service: ServiceResource, say: Say): void {
  const known = [...manifest.topics, ...manifest.imported.topics].map((t) => t.name);
  const use = (entry: Produces | Consumes, operation: 'produce' | 'consume') => {
    const topic = topicOf(manifest, entry.topic);
    const at = entry.where('topic');
    if (entry.topic === '') return;
    if (!topic) {
      say(
        at,
        `${entry.topic} is declared neither here nor in what spec.imports names${meant(entry.topic, known)}. Declare it (kind: Topic), or import its owner's turnpike.yaml.`,
      );
      return;
    }
    const consent = topic.team === service.team || topic.access.some((a) => a.service === service.name && a.operations.includes(operation));
    if (!consent)
      say(
        at,
        `${entry.topic} is ${topic.team}'s, and its owner has not agreed that ${service.name} may ${operation}. Ask them to add { service: ${service.name}, operations: [${operation}] } to spec.access at ${placeOf(topic.where('spec', 'access'))}.`,
      );
  };
  for (const entry of service.produces) use(entry, 'produce');
  for (const entry of service.consumes) use(entry, 'consume');
  twice(service.produces, (p) => p.topic, 'is produced twice; merge the two entries.', say);
  twice(service.consumes, (c) => `${c.topic} in ${c.group}`, 'is consumed twice; merge the two entries.', say);
  const clusterOfGroup = new Map<string, string>();
  for (const { topic, group, where } of service.consumes) {
    const cluster = topicOf(manifest, topic)?.cluster;
    const other = clusterOfGroup.get(group);
    if (cluster !== undefined && other !== undefined && other !== cluster)
      say(where('group'), `${group} would read from ${other} and ${cluster}; a group lives on one cluster. Use a group for each.`);
    if (cluster !== undefined) clusterOfGroup.set(group, cluster);
  }
}

function twice<T extends Produces | Consumes>(entries: readonly T[], key: (entry: T) => string, message: string, say: Say): void {
  const seen = new Set<string>();
  for (const entry of entries) {
    if (seen.has(key(entry))) say(entry.where('topic'), `${key(entry)} ${message}`);
    seen.add(key(entry));
  }
}

/** A principal that two services share would have the rights of both. */
function checkPrincipals(services: readonly ServiceResource[], say: Say): void {
  const owners = new Map<string, string>();
  for (const service of services)
    for (const [name, { principals }] of Object.entries(service.environments))
      for (const principal of principals) {
        const key = `${name} ${principal}`;
        const owner = owners.get(key);
        if (owner !== undefined && owner !== service.name)
          say(service.where('spec', 'environments', name, 'principals'), `${principal} is ${owner}'s there already; each service has principals of its own.`);
        owners.set(key, owner ?? service.name);
      }
}
