import { type Document, isAlias, isMap, isScalar, isSeq, type LineCounter, type Node, type Pair } from 'yaml';
import type { Place, Problem } from './problems.ts';
import { meant, thereAre } from './words.ts';

export interface Source {
  readonly file: string;
  readonly document: Document;
  readonly lines: LineCounter;
  readonly problems: Problem[];
}

/** A place in a YAML document that is read by what is expected there. What is wrong becomes a problem with its place, and reading goes on. */
export class Reader {
  readonly path: string;
  /** What stands here; of an alias, what it stands for. */
  readonly #node: Node | null | undefined;
  readonly #source: Source;
  /** Where to point: here, or at what should have it. */
  readonly #pointed: Node | undefined;
  readonly #asked = new Set<string>();
  #told = false;

  constructor(node: Node | null | undefined, source: Source, path = '', parent?: Node) {
    this.#node = isAlias(node) ? node.resolve(source.document) : node;
    this.#source = source;
    this.path = path;
    this.#pointed = node ?? parent;
  }

  get exists(): boolean {
    return this.#node !== undefined && this.#node !== null && !(isScalar(this.#node) && this.#node.value === null);
  }

  get at(): Place {
    const { line, col } = this.#source.lines.linePos(this.#pointed?.range?.[0] ?? 0);
    return { file: this.#source.file, line, column: col, path: this.path };
  }

  /** Where what stands under these keys begins; of what isn't there, what should have it. It asks for nothing: end() takes no key of these for known. */
  where(...keys: readonly string[]): Place {
    return keys.reduce<Reader>((reader, key) => reader.#child(key), this).at;
  }

  problem(message: string): void {
    this.#source.problems.push({ ...this.at, message });
  }

  get(key: string): Reader {
    this.#asked.add(key);
    return this.#child(key);
  }

  #child(key: string): Reader {
    const pair = this.#pairs().find((p) => keyOf(p) === key);
    // What isn't a mapping is told of once, by end(), not once for each key that it therefore lacks.
    const source = this.exists && !isMap(this.#node) ? { ...this.#source, problems: [] } : this.#source;
    return new Reader(pair?.value as Node | null | undefined, source, this.path ? `${this.path}.${key}` : key, this.#pointed);
  }

  /** Call last: a misspelt key is a problem, and so is a value where keys belong; neither is ignored. */
  end(): void {
    if (this.exists) this.isMap();
    for (const pair of this.#pairs()) {
      const key = keyOf(pair);
      if (this.#asked.has(key)) continue;
      const child = new Reader(pair.key as Node, this.#source, this.path ? `${this.path}.${key}` : key);
      child.problem(`is not known here${meant(key, this.#asked)}; ${thereAre(this.#asked)}.`);
    }
  }

  isMap(): boolean {
    if (isMap(this.#node)) return true;
    if (!this.#told) this.problem(this.exists ? 'must be a mapping (key: value).' : 'is missing; it must be a mapping (key: value).');
    this.#told = true;
    return false;
  }

  entries(): (readonly [string, Reader])[] {
    if (!this.exists) return [];
    if (!this.isMap()) return [];
    return this.#pairs().map((pair) => [keyOf(pair), this.get(keyOf(pair))] as const);
  }

  list(): Reader[] {
    if (!this.exists) return [];
    if (!isSeq(this.#node)) {
      this.problem('must be a list, as [a, b].');
      return [];
    }
    return this.#node.items.map((item, i) => new Reader(item as Node, this.#source, `${this.path}[${i}]`, this.#pointed));
  }

  string(): string | undefined {
    const value = this.#scalar();
    if (typeof value === 'string' && value !== '') return value;
    if (value === '') this.problem('is empty; give it a value, or take it out.');
    else if (value !== undefined) this.problem(`is ${JSON.stringify(value)}, which YAML takes for no text; put it in quotes: "${String(value)}".`);
    return undefined;
  }

  /** As string(), and a problem where there is nothing. */
  requiredString(what: string): string {
    if (!this.exists) this.problem(`is missing; give ${what}.`);
    return this.string() ?? '';
  }

  strings(): string[] {
    return this.list().flatMap((item) => item.string() ?? []);
  }

  integer(bounds: { readonly min: number; readonly max?: number }): number | undefined {
    const value = this.#scalar();
    if (value === undefined) return undefined;
    const { min, max = Number.MAX_SAFE_INTEGER } = bounds;
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value;
    this.problem(`is ${JSON.stringify(value)}; it must be a whole number ${bounds.max === undefined ? `of at least ${min}` : `from ${min} to ${max}`}.`);
    return undefined;
  }

  oneOf<T extends string>(allowed: readonly T[], fallback: T): T {
    const value = this.#scalar();
    if (value === undefined) return fallback;
    if (allowed.includes(value as T)) return value as T;
    this.problem(`is ${JSON.stringify(value)}; it must be one of ${allowed.join(', ')}.`);
    return fallback;
  }

  /** A text that `parse` understands; undefined = it doesn't. `what`: "a rate such as 2000/s". */
  parsed<T>(parse: (text: string) => T | undefined, what: string): T | undefined {
    const value = this.#scalar();
    if (value === undefined) return undefined;
    const parsed = parse(String(value));
    if (parsed === undefined) this.problem(`is ${JSON.stringify(value)}; write ${what}.`);
    return parsed;
  }

  /** A scalar of any kind, as text. */
  text(): string | undefined {
    const value = this.#scalar();
    return value === undefined ? undefined : String(value);
  }

  #scalar(): unknown {
    if (!this.exists) return undefined;
    if (isScalar(this.#node)) return this.#node.value;
    this.problem('must be a single value.');
    return undefined;
  }

  #pairs(): readonly Pair[] {
    return isMap(this.#node) ? this.#node.items : [];
  }
}

const keyOf = (pair: Pair): string => String(isScalar(pair.key) ? pair.key.value : pair.key);
