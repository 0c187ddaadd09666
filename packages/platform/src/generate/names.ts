/** What a module may not declare, though it is a name: keywords, and what strict mode or a CommonJS build keeps for itself. */
const KEPT = new Set(
  'break case catch class const continue debugger default delete do else enum export extends false finally for function if import in instanceof new null return super switch this throw true try typeof var void while with yield let static implements interface package private protected public await undefined NaN Infinity arguments eval globalThis require exports module'.split(
    ' ',
  ),
);

/** The names of one module, each given once: `a-b` and `a.b` are two topics, and both want to be `aB`. */
export class Names {
  readonly #taken: Set<string>;

  constructor(taken: Iterable<string>) {
    this.#taken = new Set(taken);
  }

  get taken(): readonly string[] {
    return [...this.#taken];
  }

  add(names: Iterable<string>): void {
    for (const name of names) this.#taken.add(name);
  }

  /** Free together with each of the suffixes. */
  take(wanted: string, suffixes: readonly string[] = []): string {
    const free = (name: string) => ['', ...suffixes].every((s) => !this.#taken.has(name + s));
    let name = wanted;
    for (let n = 2; !free(name); n++) name = `${wanted}_${n}`;
    this.add(['', ...suffixes].map((s) => name + s));
    return name;
  }
}

const words = (name: string): string[] => name.split(/[^A-Za-z0-9]+/).filter(Boolean);
const capital = (word: string): string => `${word[0]?.toUpperCase() ?? ''}${word.slice(1)}`;
const safe = (name: string): string => (/^[A-Za-z_]/.test(name) && !KEPT.has(name) ? name : `_${name}`);

/** `flights.departed` -> `FlightsDeparted`. */
export const pascal = (name: string): string => safe(words(name).map(capital).join(''));

/** `flights.departed` -> `flightsDeparted`. */
export function camel(name: string): string {
  const joined = words(name).map(capital).join('');
  return safe(`${joined[0]?.toLowerCase() ?? ''}${joined.slice(1)}`);
}

const PLAIN = /^[A-Za-z_]\w*$/;
export const property = (name: string): string => (PLAIN.test(name) ? name : literal(name));
export const member = (name: string): string => (PLAIN.test(name) ? `.${name}` : `[${literal(name)}]`);

/** A single-quoted string literal. */
export function literal(text: string): string {
  const escaped = JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"').replaceAll("'", "\\'");
  return `'${escaped.replaceAll('\u2028', '\\u2028').replaceAll('\u2029', '\\u2029')}'`;
}
