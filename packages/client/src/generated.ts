import type { Codec, SchemaRef } from '@turnpike/core/spi';

export { avroCodec } from '@turnpike/schema';

/** What a topic's value is made of, as pinned in the lock. */
export interface ValueContract<In, Out = In> {
  readonly format: 'avro' | 'protobuf' | 'json';
  readonly schema: SchemaRef;
  /** The schema's text as locked. */
  readonly text: string;
  codec(): Codec<In, Out>;
}

/** A topic as its service knows it. `In` is what send() takes, `Out` what a consumer gets, `Key` the key's type (null = the topic has no keys). */
export interface TopicContract<In, Out = In, Key extends string | null = string | null> {
  readonly name: string;
  /** The logical cluster. */
  readonly cluster: string;
  readonly key: Key extends null ? { readonly format: 'none' } : { readonly format: 'string'; readonly of?: (event: In) => string };
  readonly value: ValueContract<In, Out>;
}

// biome-ignore lint/suspicious/noExplicitAny: the event types of a topic are only known where it is named
export type AnyTopic = TopicContract<any, any, any>;

export interface ConsumedTopic<T extends AnyTopic = AnyTopic, G extends string = string> {
  readonly topic: T;
  /** The groups that the manifest declares for it. */
  readonly groups: readonly G[];
}

/** Who a service is, what it produces and what it consumes: what `turnpike generate` makes of `turnpike.yaml`. */
export interface ServiceContract<
  P extends Readonly<Record<string, AnyTopic>> = Readonly<Record<string, AnyTopic>>,
  C extends Readonly<Record<string, ConsumedTopic>> = Readonly<Record<string, ConsumedTopic>>,
> {
  readonly name: string;
  readonly team: string;
  /** Environment -> what stands in the manifest for it. */
  readonly environments: Readonly<Record<string, { readonly principals: readonly string[] }>>;
  /** Public keys (JWK, RFC 7517, with `kid`) that may sign a grant: the roots that code pins. */
  readonly rootKeys: readonly Readonly<Record<string, string>>[];
  readonly produces: P;
  readonly consumes: C;
}

/** Keeps the literal types of a generated contract. */
export function defineService<const P extends Readonly<Record<string, AnyTopic>>, const C extends Readonly<Record<string, ConsumedTopic>>>(
  service: ServiceContract<P, C>,
): ServiceContract<P, C> {
  return service;
}
