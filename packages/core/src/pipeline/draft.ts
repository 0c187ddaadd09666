import { TurnpikeError } from '../errors.ts';
import { type HeadersInit, RecordHeaders } from '../headers.ts';
import type { HeaderCarrier } from '../spi/telemetry.ts';

/** An event on its way through the stages, before it is encoded. */
export interface StageEvent {
  readonly topic: string;
  /** Derived from the value, unless the caller or a stage sets it. */
  key: unknown;
  value: unknown;
  readonly headers: RecordHeaders;
  timestampMs: number;
}

/** A user's own layer: sees, changes or refuses (by throwing) each event before policy and encoding. Synchronous, so that it can't reorder a key. */
export type Stage = (event: StageEvent) => void;

export class Draft implements StageEvent, HeaderCarrier {
  readonly topic: string;
  value: unknown;
  timestampMs: number;
  readonly #keyOf: ((value: never) => unknown) | undefined;
  #key: unknown;
  #headers: RecordHeaders | undefined;

  constructor(
    topic: string,
    value: unknown,
    timestampMs: number,
    keyOf: ((value: never) => unknown) | undefined,
    given: { key?: unknown; headers?: HeadersInit } | undefined,
  ) {
    this.topic = topic;
    this.value = value;
    this.timestampMs = timestampMs;
    this.#keyOf = keyOf;
    this.#key = given?.key;
    if (given?.headers !== undefined) this.#headers = new RecordHeaders(given.headers);
  }

  get key(): unknown {
    if (this.#key !== undefined) return this.#key;
    if (!this.#keyOf || this.value === null) return null;
    try {
      return this.#keyOf(this.value as never);
    } catch (cause) {
      throw new TurnpikeError('ENCODE_FAILED', `${this.topic}: the key can't be derived from the event; give an event of the topic's own type.`, {
        cause,
        topic: this.topic,
        written: 'no',
      });
    }
  }

  /** Whether the key comes from the event: neither the caller nor a stage gave one. */
  get keyIsDerived(): boolean {
    return this.#key === undefined && this.#keyOf !== undefined;
  }

  /** The field that the key is derived from. Only an error asks: a stand-in for the event sees what is read of it. */
  keyField(): string | undefined {
    let field: string | undefined;
    const event = new Proxy(
      {},
      {
        get: (_target, name) => {
          field ??= String(name);
          return undefined;
        },
      },
    );
    try {
      this.#keyOf?.(event as never);
    } catch {} // It goes on with what isn't there; the first name is known by then.
    return field;
  }

  set key(key: unknown) {
    this.#key = key;
  }

  get hasHeaders(): boolean {
    return this.#headers !== undefined;
  }

  get headers(): RecordHeaders {
    this.#headers ??= new RecordHeaders();
    return this.#headers;
  }
}
