import { asTurnpikeError } from '@turnpike/core';
import { avroTypeScript } from '@turnpike/schema';
import { type Manifest, type ServiceResource, type TopicResource, topicOf } from './model.ts';
import { type Location, type Problem, placeOf } from './problems.ts';

/** What only several resources together can show: names that clash, topics that nobody declares, consent that is missing. */
export function checkManifest(manifest: Manifest, problems: Problem[]): void {
  const say = (at: Location, path: string, message: string) => problems.push({ ...at, path, message });
  unique([...manifest.topics, ...manifest.imported.topics], say);
  unique(manifest.services, say);
  unique([...manifest.clusters, ...manifest.imported.clusters], say);
  for (const topic of manifest.topics) checkSchema(topic, say);
  for (const service of manifest.services) checkService(manifest, service, say);
  checkPrincipals(manifest.services, say);
}

type Say = (at: Location, path: string, message: string) => void;

function unique(resources: readonly { readonly name: string; readonly at: Location }[], say: Say): void {
  const seen = new Map<string, Location>();
  for (const { name, at } of resources) {
    const first = seen.get(name);
    if (first) say(at, 'metadata.name', `${name} stands at ${placeOf(first)} too; one of them must go.`);
    else seen.set(name, at);
  }
}

function checkSchema(topic: TopicResource, say: Say): void {
  const { text, references, file } = topic.value;
  if (text === '') return; // Told of where it is read.
  let code: string;
  try {
    code = avroTypeScript(text, { references: references.map((r) => r.text) }).code;
  } catch (error) {
    const { message, code } = asTurnpikeError(error, 'SCHEMA_INVALID', String(error));
    say(topic.at, 'spec.value.file', `${file}: ${message.slice(code.length + 3)}`);
    return;
  }
  if (topic.key.format !== 'string' || topic.key.from === undefined || code === '') return;
  const { fields } = JSON.parse(text) as { fields?: readonly { readonly name: string; readonly type: unknown }[] };
  const field = fields?.find((f) => f.name === (topic.key as { from: string }).from);
  const isString = field?.type === 'string' || (field?.type as { type?: unknown } | undefined)?.type === 'string';
  if (!field) say(topic.at, 'spec.key.from', `is ${topic.key.from}, which ${file} has no field of; it has ${fields?.map((f) => f.name).join(', ') ?? 'none'}.`);
  else if (!isString)
    say(topic.at, 'spec.key.from', `is ${topic.key.from}, which is ${JSON.stringify(field.type)} in ${file}; a string key comes from a string.`);
}

function checkService(manifest: Manifest, service: ServiceResource, say: Say): void {
  const use = (entry: { readonly topic: string; readonly at: Location }, operation: 'produce' | 'consume') => {
    const topic = topicOf(manifest, entry.topic);
    const at = entry.at;
    if (entry.topic === '') return;
    if (!topic) {
      say(
        at,
        'topic',
        `${entry.topic} is declared neither here nor in what spec.imports names. Declare it (kind: Topic), or import its owner's turnpike.yaml.`,
      );
      return;
    }
    const consent = topic.team === service.team || topic.access.some((a) => a.service === service.name && a.operations.includes(operation));
    if (!consent)
      say(
        at,
        'topic',
        `${entry.topic} is ${topic.team}'s, and its owner has not agreed that ${service.name} may ${operation}. Ask them to add { service: ${service.name}, operations: [${operation}] } to spec.access at ${placeOf(topic.at)}.`,
      );
  };
  for (const entry of service.produces) use(entry, 'produce');
  for (const entry of service.consumes) use(entry, 'consume');
  twice(service.produces, (p) => p.topic, 'is produced twice; merge the two entries.', say);
  twice(service.consumes, (c) => `${c.topic} in ${c.group}`, 'is consumed twice; merge the two entries.', say);
  const clusterOf = new Map<string, string>();
  for (const { topic, group, at } of service.consumes) {
    const cluster = topicOf(manifest, topic)?.cluster;
    const other = clusterOf.get(group);
    if (cluster !== undefined && other !== undefined && other !== cluster)
      say(at, 'group', `${group} would read from ${other} and ${cluster}; a group lives on one cluster. Use a group for each.`);
    if (cluster !== undefined) clusterOf.set(group, cluster);
  }
}

function twice<T extends { readonly at: Location }>(entries: readonly T[], key: (entry: T) => string, message: string, say: Say): void {
  const seen = new Set<string>();
  for (const entry of entries) {
    if (seen.has(key(entry))) say(entry.at, 'topic', `${key(entry)} ${message}`);
    seen.add(key(entry));
  }
}

/** A principal that two services share would have the rights of both. */
function checkPrincipals(services: readonly ServiceResource[], say: Say): void {
  const owners = new Map<string, string>();
  for (const service of services)
    for (const [environment, { principals }] of Object.entries(service.environments))
      for (const principal of principals) {
        const key = `${environment} ${principal}`;
        const owner = owners.get(key);
        if (owner !== undefined && owner !== service.name)
          say(service.at, `spec.environments.${environment}.principals`, `${principal} is ${owner}'s there already; each service has principals of its own.`);
        owners.set(key, service.name);
      }
}
