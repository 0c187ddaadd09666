import { describe, expect, it } from 'vitest';
import { clusterDescriptors, requireEnvironment } from './clusters.ts';
import { documents, service, topic, Workspace } from './workspace.fixture.ts';

const cluster = (name: string, environments: string) =>
  `apiVersion: turnpike.dev/v1alpha1\nkind: Cluster\nmetadata: { name: ${name}, team: platform }\nspec: { environments: { ${environments} } }\n`;

describe('cluster descriptors', () => {
  it('come from Cluster resources, the imported ones too, with the listeners that the environment has', () => {
    using workspace = new Workspace({
      'main.yaml': cluster('main', 'prod: { id: abc, bootstrap: { mtls: ["a:1", "b:2"], oauth: ["a:3"] } }, test: { bootstrap: { oauth: ["t:1"] } }'),
      'turnpike.yaml': documents(service('s', 'imports: [main.yaml]'), cluster('other', 'prod: { bootstrap: { mtls: ["o:1"] } }')),
    });
    const manifest = workspace.load();
    expect(clusterDescriptors(manifest, 'prod')).toEqual([
      { name: 'other', epoch: 1, primary: { id: '', bootstrap: { mtls: ['o:1'] } } },
      { name: 'main', epoch: 1, primary: { id: 'abc', bootstrap: { mtls: ['a:1', 'b:2'], oauth: ['a:3'] } } },
    ]);
    expect(clusterDescriptors(manifest, 'test')).toEqual([{ name: 'main', epoch: 1, primary: { id: '', bootstrap: { oauth: ['t:1'] } } }]);
    expect(clusterDescriptors(manifest, 'toString')).toEqual([]);
  });

  it('an environment that nothing is in is misspelt; topics alone are in none', () => {
    using workspace = new Workspace({
      'turnpike.yaml': service('s', 'environments: { prod: { principals: [p] } }'),
      'topics.yaml': topic('a'),
      'main.yaml': cluster('main', 'staging: { bootstrap: { mtls: ["a:1"] } }'),
    });
    expect(() => requireEnvironment(workspace.load(), 'prod')).not.toThrow();
    expect(() => requireEnvironment(workspace.load('topics.yaml'), 'anything')).not.toThrow();
    expect(() => requireEnvironment(workspace.load('main.yaml'), 'prod')).toThrow(/"prod"; there is staging\. Correct --env/);
    expect(() => requireEnvironment(workspace.load(), 'prdo')).toThrow(
      expect.objectContaining({
        code: 'CONFIG_INVALID',
        message: expect.stringMatching(/is in an environment "prdo" \(did you mean prod\?\); there are local, prod\. Correct --env/),
      }),
    );
  });
});
