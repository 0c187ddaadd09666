import { isTurnpikeError, TurnpikeError } from '@turnpike/core';
import { withoutCode } from '@turnpike/core/spi';
import { clusterOf, type Manifest, type TopicResource } from '../manifest/model.ts';
import { type Place, placeOf } from '../manifest/problems.ts';
import { meant } from '../manifest/words.ts';

/** A broker's refusal of a topic as it stands in a manifest, with the place of what is refused; a refusal for another reason unchanged. `known`: the names of configs that the broker has. */
export function topicRefused(error: TurnpikeError, topic: TopicResource, known: readonly string[] = []): TurnpikeError {
  const { kafkaError } = error.facts;
  if (kafkaError === 'INVALID_PARTITIONS') return placed(error, topic.where('spec', 'partitions'));
  if (kafkaError === 'INVALID_REPLICATION_FACTOR') return placed(error, topic.where('spec', 'replicationFactor'));
  if (kafkaError !== 'INVALID_CONFIG') return error;
  // The broker names the config, and nothing but its text says which.
  const [named] = Object.keys(topic.configs)
    .filter((name) => error.message.includes(name))
    .sort((x, y) => y.length - x.length); // "retention.ms" stands in "delete.retention.ms".
  if (named !== undefined) return placed(error, topic.where('spec', 'configs', named), { hint: meant(named, known) });
  const ofRetention = topic.retentionMs !== undefined && error.message.includes('retention.ms');
  return placed(error, topic.where('spec', ofRetention ? 'retention' : 'configs'));
}

/** Another cluster than the manifest's answers at the manifest's address; any other error unchanged. */
export function clusterRefused(
  error: unknown,
  manifest: Manifest,
  { cluster, environment }: { readonly cluster: string; readonly environment: string },
): unknown {
  const declared = clusterOf(manifest, cluster);
  if (!isTurnpikeError(error) || error.code !== 'CLUSTER_MISMATCH' || !declared) return error;
  // That is for a service, which has its addresses from there.
  const text = withoutCode(error).replace('Check TURNPIKE_CLUSTERS: nothing', 'Nothing');
  return placed(error, declared.where('spec', 'environments', environment, 'id'), { text });
}

function placed(error: TurnpikeError, place: Place, { text = withoutCode(error), hint = '' } = {}): TurnpikeError {
  const at = placeOf(place);
  return new TurnpikeError(error.code, `${text.replace(/\.$/, '')}. Correct ${place.path} at ${at}${hint}.`, { ...error.facts, path: at, cause: error });
}
