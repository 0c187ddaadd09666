import { TurnpikeError } from './errors.ts';

/** Reads raw options once. Every refusal names the path, what was given, what is allowed. */
export class OptionReader {
  readonly #path: string;
  readonly #raw: Readonly<Record<string, unknown>>;
  readonly #known = new Set<string>();

  constructor(path: string, raw: unknown) {
    if (raw !== undefined && (typeof raw !== 'object' || raw === null)) throw new TurnpikeError('CONFIG_INVALID', `${path} must be an object.`);
    this.#path = path;
    this.#raw = (raw ?? {}) as Readonly<Record<string, unknown>>;
  }

  number(name: string, bounds: { min: number; max?: number; default: number; integer?: boolean }): number {
    const value = this.#take(name) ?? bounds.default;
    const max = bounds.max ?? Number.MAX_SAFE_INTEGER;
    const integer = bounds.integer ?? true;
    if (typeof value !== 'number' || Number.isNaN(value) || value < bounds.min || value > max || (integer && !Number.isInteger(value)))
      throw this.#invalid(
        name,
        value,
        `a ${integer ? 'whole ' : ''}number from ${bounds.min}${bounds.max === undefined ? '' : ` to ${bounds.max}`}; the default is ${bounds.default}`,
      );
    return value;
  }

  oneOf<T extends string | number | boolean>(name: string, allowed: readonly T[], fallback: T): T {
    const value = this.#take(name) ?? fallback;
    if (!allowed.includes(value as T)) throw this.#invalid(name, value, `one of ${allowed.map((a) => JSON.stringify(a)).join(', ')}`);
    return value as T;
  }

  string(name: string): string | undefined {
    const value = this.#take(name);
    if (value !== undefined && (typeof value !== 'string' || value === '')) throw this.#invalid(name, value, 'a string that is not empty');
    return value as string | undefined;
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.#take(name) ?? fallback;
    if (typeof value !== 'boolean') throw this.#invalid(name, value, 'true or false');
    return value;
  }

  /** Passed on as it is; the caller checks it. */
  any(name: string): unknown {
    return this.#take(name);
  }

  /** Call last: a misspelt option is an error, never ignored. */
  end(): void {
    for (const name of Object.keys(this.#raw)) {
      if (!this.#known.has(name) && this.#raw[name] !== undefined)
        throw new TurnpikeError('CONFIG_INVALID', `${this.#path}.${name} is not an option; there are ${[...this.#known].sort().join(', ')}.`);
    }
  }

  #take(name: string): unknown {
    this.#known.add(name);
    return this.#raw[name];
  }

  #invalid(name: string, value: unknown, allowed: string): TurnpikeError {
    return new TurnpikeError(
      'CONFIG_INVALID',
      `${this.#path}.${name} is ${typeof value === 'string' ? JSON.stringify(value) : String(value)}; it must be ${allowed}.`,
    );
  }
}
