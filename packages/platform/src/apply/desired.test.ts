import { describe, expect, it } from 'vitest';
import { documents, service, topic, Workspace } from '../workspace.fixture.ts';
import { desiredClusters } from './desired.ts';

function desiredOf(text: string, environment = 'prod') {
  using workspace = new Workspace({ 'turnpike.yaml': text });
  return desiredClusters(workspace.load(), environment);
}
const prod = (principals: string) => `environments: { prod: { principals: [${principals}] } }`;
const text = (binding: { readonly principal: string; readonly operation: string; readonly resourceType: string; readonly resourceName: string }) =>
  `${binding.principal} ${binding.operation} ${binding.resourceType} ${binding.resourceName}`;

describe('what a cluster should hold', () => {
  it('lets each principal write what its service produces, read what it consumes and its groups, once each and nothing else', () => {
    const [cluster] = desiredOf(
      documents(
        topic('a'),
        topic('b'),
        service('s', `produces: [{ topic: a }], consumes: [{ topic: b, group: g }, { topic: a, group: g }], ${prod('p, "spiffe://acme/s"')}`),
        service('t', `runtime: external, consumes: [{ topic: b, group: h }], ${prod('q')}`),
      ),
    );
    expect(cluster?.acls.map(text)).toEqual([
      'User:p write topic a',
      'User:p read topic b',
      'User:p read group g',
      'User:p read topic a',
      'User:spiffe://acme/s write topic a',
      'User:spiffe://acme/s read topic b',
      'User:spiffe://acme/s read group g',
      'User:spiffe://acme/s read topic a',
      'User:q read topic b',
      'User:q read group h',
    ]);
    expect(cluster?.acls.every((a) => a.pattern === 'literal' && a.permission === 'allow' && a.host === '*')).toBe(true);
  });

  it('has on each cluster only what is there, by name', () => {
    const clusters = desiredOf(
      documents(
        topic('b').replace('cluster: main', 'cluster: west'),
        topic('a').replace('cluster: main', 'cluster: east'),
        service('s', `produces: [{ topic: a, quota: { bytes: 1B/s } }, { topic: b }], ${prod('p')}`),
      ),
    );
    expect(clusters.map((c) => [c.name, c.topics.map((t) => t.name), c.acls.map(text), c.quotas])).toEqual([
      ['east', ['a'], ['User:p write topic a'], [{ user: 'p', values: { producer_byte_rate: 1 } }]],
      ['west', ['b'], ['User:p write topic b'], []],
    ]);
  });

  it("adds a principal's rates up, each way by itself; where one topic has no limit in bytes, it has none", () => {
    const quotasOf = (spec: string) => desiredOf(documents(topic('a'), topic('b'), service('s', `${spec}, ${prod('p')}`)))[0]?.quotas;
    expect(quotasOf('produces: [{ topic: a, quota: { bytes: 1kB/s } }, { topic: b, quota: { bytes: 2kB/s } }], consumes: [{ topic: a, group: g }]')).toEqual([
      { user: 'p', values: { producer_byte_rate: 3000 } },
    ]);
    expect(quotasOf('produces: [{ topic: a, quota: { records: 5/s } }], consumes: [{ topic: a, group: g, quota: { bytes: 7B/s } }]')).toEqual([
      { user: 'p', values: { consumer_byte_rate: 7 } },
    ]);
    expect(quotasOf('produces: [{ topic: a, quota: { bytes: 1kB/s } }, { topic: b }]')).toEqual([]);
  });

  it("takes the replication factor of the cluster where the topic doesn't say one", () => {
    const cluster = 'apiVersion: turnpike.dev/v1alpha1\nkind: Cluster\nmetadata: { name: main, team: p }\nspec: { replicationFactor: 3 }\n';
    const [desired] = desiredOf(documents(topic('a'), topic('b', 'replicationFactor: 2'), cluster));
    expect(desired?.topics.map((t) => t.replicationFactor)).toEqual([3, 2]);
  });

  it("gives nobody rights in an environment that they aren't in", () => {
    const clusters = desiredOf(documents(topic('a'), service('s', `produces: [{ topic: a, quota: { bytes: 1B/s } }], ${prod('p')}`)), 'test');
    expect(clusters.map((c) => [c.topics.length, c.acls, c.quotas])).toEqual([[1, [], []]]);
  });
});
