import { TurnpikeError } from '@turnpike/core';
import { describe, expect, it } from 'vitest';
import { topic, Workspace } from '../workspace.fixture.ts';
import { topicRefused } from './refused.ts';

/** Where the refusal of a topic with this spec is said to be. */
function placeOfRefusal(spec: string, kafkaError: string, text: string): string | undefined {
  using workspace = new Workspace({ 'turnpike.yaml': topic('a', spec) });
  const [refused] = workspace.load().topics;
  const { facts, message } = topicRefused(new TurnpikeError('BROKER_REJECTED', text, { kafkaError }), refused as typeof refused & object);
  return facts.path === undefined ? undefined : message.slice(message.indexOf('Correct ')).split(' ')[1];
}

describe('a topic that a broker refuses', () => {
  it.each([
    [
      'configs: { retention.ms: 5, delete.retention.ms: x }',
      'INVALID_CONFIG',
      'Invalid value x for configuration delete.retention.ms: no number',
      'spec.configs.delete.retention.ms',
    ],
    ['retention: 1d', 'INVALID_CONFIG', 'Invalid value 86400000 for configuration retention.ms', 'spec.retention'],
    ['configs: { cleanup.policy: delete }', 'INVALID_CONFIG', 'something else', 'spec.configs'],
    ['', 'INVALID_PARTITIONS', 'too many', 'spec.partitions'],
    ['replicationFactor: 9', 'INVALID_REPLICATION_FACTOR', 'too many', 'spec.replicationFactor'],
    ['', 'TOPIC_AUTHORIZATION_FAILED', 'no', undefined],
  ])('with %s for %s (%s) is to be corrected at %s', (spec, kafkaError, text, path) => expect(placeOfRefusal(spec, kafkaError, text)).toBe(path));
});
