import { readFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { connect } from '@turnpike/client';
import type { AnyTopic, ConsumedTopic, ServiceContract } from '@turnpike/client/generated';
import { MemoryCluster, memoryTransport } from '@turnpike/core/memory';
import { silentLogger } from '@turnpike/core/spi';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { documents, service, topic, Workspace } from '../workspace.fixture.ts';
import { contractModule } from './contract.ts';

const root = path.resolve(import.meta.dirname, '../../../..');
const record = (name: string, fields: readonly object[], more: object = {}) => JSON.stringify({ type: 'record', name, fields, ...more });

/** A topic whose schema is that file. */
const typed = (name: string, file: string, spec = '') => topic(name, spec).replace('departed.avsc', file);

function moduleOf(text: string, files: Readonly<Record<string, string>> = {}): string {
  using workspace = new Workspace({ 'turnpike.yaml': text, ...files });
  const manifest = workspace.load();
  const [of] = manifest.services;
  if (!of) throw new Error('The manifest has no service.');
  return contractModule(manifest, of);
}

/** Topics and records that ask for names which the module has itself, that JavaScript keeps, or that another one has. */
const HOSTILE_TOPICS = [
  'a.b',
  'a-b',
  'a.b.schema',
  'a-b-text',
  'avro-codec',
  'define.service',
  'topic.contract',
  'default',
  'undefined',
  '1st',
  '-',
  '--',
  '_x',
  'hostile',
];
const hostile = documents(
  ...HOSTILE_TOPICS.map((name, i) => typed(`"${name}"`, `${i % 2 === 0 ? 'one' : 'two'}.avsc`, i % 3 === 0 ? 'key: { from: key }' : '')),
  typed('chunks', 'chunks.avsc'),
  typed('value', 'value.avsc'),
  service(
    'hostile',
    `produces: [${[...HOSTILE_TOPICS, 'chunks', 'value'].map((t) => `{ topic: "${t}" }`).join(', ')}], consumes: [${HOSTILE_TOPICS.map((t) => `{ topic: "${t}", group: "it's" }`).join(', ')}]`,
    "it's */ team",
  ),
)
  .replaceAll('team: airside', 'team: "it\'s */ team"')
  .replaceAll("team: it's */ team", 'team: "it\'s */ team"');
const HOSTILE_FILES = {
  'one.avsc': record(
    'TopicContract',
    [
      { name: 'key', type: 'string', default: "it's\u2028" },
      { name: 'constructor', type: 'int', doc: '*/ evil() `' },
    ],
    { namespace: 'one' },
  ),
  'two.avsc': record(
    'TopicContract',
    [
      { name: 'key', type: 'string' },
      { name: 'more', type: { type: 'enum', name: 'Buffer', symbols: ['default'] } },
    ],
    { namespace: 'two' },
  ),
  'chunks.avsc': '{"type":"array","items":"bytes"}',
  'value.avsc': record('Value', [{ name: 'x', type: 'long' }]),
};

describe('the generated contract', () => {
  it('is the same text for the same manifest, whatever the order of what stands in it', () => {
    const topics = [topic('b', 'key: { from: id }'), topic('a')];
    const of = (order: readonly string[], produces: string) =>
      moduleOf(documents(...order, service('s', `produces: [${produces}], consumes: [{ topic: b, group: g }]`)));
    const text = of(topics, '{ topic: a }, { topic: b }');
    expect(of(topics, '{ topic: a }, { topic: b }')).toBe(text);
    expect(of(topics.toReversed(), '{ topic: b }, { topic: a }')).toBe(text);
    expect(text).not.toContain('\r');
  });

  it('declares the types of a schema once for all its topics', () => {
    const text = moduleOf(documents(topic('a'), topic('b'), service('s', 'produces: [{ topic: a }, { topic: b }]')));
    expect(text.match(/export interface Departed /g)).toHaveLength(1);
    expect(text.match(/TopicContract<Departed, Departed, null>/g)).toHaveLength(2);
  });

  it('keeps apart records of one name in two namespaces', () => {
    const files = {
      'x.avsc': record('Moved', [{ name: 'x', type: 'int' }], { namespace: 'acme.x' }),
      'y.avsc': record('Moved', [{ name: 'y', type: 'int' }], { namespace: 'acme.y' }),
    };
    const text = moduleOf(documents(typed('a', 'x.avsc'), typed('b', 'y.avsc'), service('s', 'produces: [{ topic: a }, { topic: b }]')), files);
    expect(text).toContain('const a: TopicContract<Moved, Moved, null>');
    expect(text).toContain('const b: TopicContract<AcmeYMoved, AcmeYMoved, null>');
    expect(diagnostics({ 'contract.ts': text })).toEqual([]);
  });

  it("has the key that the manifest says: none, the caller's, or a field of the event, with its default", () => {
    const files = { 'd.avsc': record('D', [{ name: 'id', type: 'string', default: 'none' }]) };
    const of = (spec: string, file = 'departed.avsc') =>
      /key: (\{.*\}),\n/.exec(moduleOf(documents(typed('a', file, spec), service('s', 'produces: [{ topic: a }]')), files))?.[1];
    expect(of('')).toBe("{ format: 'none' }");
    expect(of('key: { format: none }')).toBe("{ format: 'none' }");
    expect(of('key: { format: string }')).toBe("{ format: 'string' }");
    expect(of('key: { from: origin }')).toBe("{ format: 'string', of: (event) => event.origin }");
    expect(of('key: { from: id }', 'd.avsc')).toBe("{ format: 'string', of: (event) => event.id ?? 'none' }");
  });

  it('of hostile names compiles under strict, and refuses what is not declared and what is of another type', () => {
    const use = `
      import { connect } from '@turnpike/client';
      import { hostile } from './contract.ts';
      await using kafka = await connect(hostile);
      await kafka.producer('a.b').send({ constructor: 1 });
      await kafka.producer('a-b').send({ key: 'k', more: 'default' }, { key: 'own' as never });
      await kafka.producer('chunks').send([new Uint8Array(1)]);
      for await (const event of kafka.consumer(['a.b'], { group: "it's" })) { const n: number = event.value?.constructor ?? 0; void n; }
    `;
    const wrong = `
      import { connect } from '@turnpike/client';
      import { hostile } from './contract.ts';
      await using kafka = await connect(hostile);
      kafka.producer('a.c');
      await kafka.producer('a.b').send({ constructor: 'text' });
      await kafka.producer('value').send({ x: 1 });
      kafka.consumer(['value']);
    `;
    const contract = moduleOf(hostile, HOSTILE_FILES);
    expect(diagnostics({ 'contract.ts': contract, 'use.ts': use })).toEqual([]);
    expect(diagnostics({ 'contract.ts': contract, 'wrong.ts': wrong }).map((d) => d.replace(/ .*/s, ''))).toEqual([
      'wrong.ts:5',
      'wrong.ts:6',
      'wrong.ts:7',
      'wrong.ts:8',
    ]);
  });

  it('connects: what was generated is what is sent and read, with the key derived, over every hostile topic', async () => {
    const { hostile: contract } = await load<'hostile'>(moduleOf(hostile, HOSTILE_FILES));
    expect(Object.keys(contract.produces).sort()).toEqual([...HOSTILE_TOPICS, 'chunks', 'value'].sort());
    const cluster = new MemoryCluster({ topics: Object.fromEntries(Object.keys(contract.produces).map((t) => [t, 1])) });
    await using kafka = await connect(contract, {
      environment: 'local',
      transport: memoryTransport({ cluster }),
      env: {},
      logger: silentLogger,
      telemetry: 'off',
      shutdownSignals: [],
    });
    await kafka.producer('a.b').send({ constructor: 3 });
    for await (const event of kafka.consumer(['a.b'], { group: "it's" })) {
      expect([event.key, event.value]).toEqual(["it's\u2028", { key: "it's\u2028", constructor: 3 }]);
      break;
    }
  });

  it('holds a schema with what it refers to, so that it stands alone', async () => {
    const files = {
      'aircraft.avsc': record('Aircraft', [{ name: 'tail', type: 'string' }], { namespace: 'acme' }),
      'flight.avsc': record('Flight', [{ name: 'aircraft', type: 'Aircraft' }], { namespace: 'acme' }),
    };
    const value = 'value: { file: flight.avsc, references: [{ name: acme.Aircraft, subject: aircraft, file: aircraft.avsc }] }';
    const text = moduleOf(documents(topic('flights').replace('value: { file: departed.avsc }', value), service('s', 'produces: [{ topic: flights }]')), files);
    expect(diagnostics({ 'contract.ts': text })).toEqual([]);
    const { s } = await load<'s'>(text);
    const codec = s.produces.flights?.value.codec();
    const end = codec?.encodeInto({ aircraft: { tail: 'N1' } }, Buffer.alloc(16), 0);
    expect(end).toBe(3);
  });

  it('of a service that uses nothing is a module too', () => {
    const text = moduleOf(service('idle'));
    expect(text).toContain('produces: {},\n  consumes: {},');
    expect(diagnostics({ 'contract.ts': text })).toEqual([]);
  });
});

type Contract = ServiceContract<Readonly<Record<string, AnyTopic>>, Readonly<Record<string, ConsumedTopic>>>;

/** Runs a module as a service would import it. */
async function load<N extends string>(text: string): Promise<Record<N, Contract>> {
  using workspace = new Workspace({ 'contract.ts': text });
  return (await import(pathToFileURL(workspace.path('contract.ts')).href)) as Record<N, Contract>;
}

/** What the compiler says of files, as `file:line message`. */
function diagnostics(files: Readonly<Record<string, string>>): readonly string[] {
  const { compilerOptions } = JSON.parse(readFileSync(path.join(root, 'tsconfig.json'), 'utf8')) as { compilerOptions: { paths: Record<string, string[]> } };
  using workspace = new Workspace({ ...files, 'package.json': '{"type":"module"}' });
  const program = ts.createProgram(
    Object.keys(files).map((f) => workspace.path(f)),
    {
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      noUnusedLocals: true,
      verbatimModuleSyntax: true,
      isolatedModules: true,
      erasableSyntaxOnly: true,
      allowImportingTsExtensions: true,
      noEmit: true,
      skipLibCheck: true,
      target: ts.ScriptTarget.ES2024,
      lib: ['lib.es2024.d.ts', 'lib.esnext.disposable.d.ts'],
      module: ts.ModuleKind.NodeNext,
      moduleResolution: ts.ModuleResolutionKind.NodeNext,
      types: ['node'],
      typeRoots: [path.join(root, 'node_modules/@types')],
      paths: Object.fromEntries(Object.entries(compilerOptions.paths).map(([name, [file]]) => [name, [path.join(root, file ?? '')]])),
    },
  );
  return Object.keys(files)
    .flatMap((f) => program.getSourceFile(workspace.path(f)) ?? [])
    .flatMap((source) => [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)])
    .map((d) => {
      const line = d.file && d.start !== undefined ? d.file.getLineAndCharacterOfPosition(d.start).line + 1 : 0;
      return `${path.basename(d.file?.fileName ?? '')}:${line} ${ts.flattenDiagnosticMessageText(d.messageText, '\n')}`;
    });
}
