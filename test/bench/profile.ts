// What a CPU profile says, as a table: whose code the time went to.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

interface Profile {
  readonly nodes: readonly { readonly id: number; readonly callFrame: { readonly functionName: string; readonly url: string } }[];
  readonly samples: readonly number[];
  /** us. */
  readonly timeDeltas: readonly number[];
}

interface Share {
  micros: number;
  readonly functions: Map<string, number>;
}

/** Loading and compiling of modules: a process's start, not its work. */
const START = /node:internal\/(modules|process\/pre|bootstrap)|node:internal\/(vm|url|fs)|\/ajv\/|(^|:)internal\/modules|cjs\/loader|esm\//;

/** Of the engine and of Node, by the name of the function where there is no file. */
const OF_THE_ENGINE: readonly (readonly [group: string, names: RegExp])[] = [
  ['garbage collection', /^\(garbage collector\)$/],
  ['the socket, in the kernel', /^(writeBuffer|writev|writeUtf8String|writeLatin1String|readStart|shutdown)$/],
  ['promises and turns', /^(runMicrotasks|\(program\)|then|resolve|reject|.*[Pp]romise.*)$/],
];

function groupOf({ functionName, url }: Profile['nodes'][number]['callFrame']): string {
  if (functionName === '(idle)' || functionName === '(root)' || START.test(url)) return '';
  const packaged = /\/packages\/([a-z-]+)\/(?:dist|src)\//.exec(url)?.[1];
  if (packaged) return `@turnpike/${packaged}`;
  if (/\/test\/bench\//.test(url)) return 'the bench itself';
  const [scope, name] = /node_modules\/((?:@[^/]+\/)?[^/]+)\/(?!.*node_modules)/.exec(url)?.[1]?.split('/') ?? [];
  if (scope) return name ? `${scope}/${name}` : scope;
  if (url.startsWith('wasm:')) return '@platformatic/kafka';
  const known = OF_THE_ENGINE.find(([, names]) => names.test(functionName))?.[0];
  if (known) return known;
  return url.startsWith('node:') ? "Node's own JavaScript" : 'the engine, and calls into it';
}

/** Self time by group, the largest first, with the functions that took most of it. */
export function profileTable(profile: Profile): string {
  const frames = new Map(profile.nodes.map((n) => [n.id, n.callFrame]));
  const shares = new Map<string, Share>();
  let total = 0;
  for (const [i, id] of profile.samples.entries()) {
    const frame = frames.get(id);
    const group = frame ? groupOf(frame) : '';
    const micros = profile.timeDeltas[i] ?? 0;
    if (!frame || group === '') continue;
    const share = shares.get(group) ?? { micros: 0, functions: new Map() };
    share.micros += micros;
    share.functions.set(frame.functionName, (share.functions.get(frame.functionName) ?? 0) + micros);
    shares.set(group, share);
    total += micros;
  }
  const percent = (micros: number) => `${((micros / total) * 100).toFixed(0)} %`;
  const rows = [...shares]
    .filter(([, { micros }]) => micros / total >= 0.01)
    .sort(([, a], [, b]) => b.micros - a.micros)
    .map(([group, { micros, functions }]) => {
      const most = [...functions]
        .filter(([name, of]) => /^[#\w .]+$/.test(name) && of / total >= 0.01)
        .sort(([, a], [, b]) => b - a)
        .slice(0, 5);
      return `| ${group} | ${percent(micros)} | ${most.map(([name, of]) => `\`${name}\` ${percent(of)}`).join(', ')} |`;
    });
  return ['| whose code | share of the CPU time | of it |', '|---|---|---|', ...rows].join('\n');
}

/** Of each profile in a folder. */
export function profileTables(folder: string): string {
  return readdirSync(folder)
    .filter((file) => file.endsWith('.cpuprofile'))
    .sort()
    .map((file) => `${file.replace(/^bench-|-\d+\.cpuprofile$/g, '')}\n\n${profileTable(JSON.parse(readFileSync(path.join(folder, file), 'utf8')) as Profile)}`)
    .join('\n\n');
}
