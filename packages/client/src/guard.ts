import { CleanUp, OptionReader, TurnpikeError } from '@turnpike/core';
import type { ClusterDescriptor, Identity } from '@turnpike/core/spi';
import { accessPolicy, quotaGates } from '@turnpike/policy';
import { clusterFor, readDescriptors } from './clusters.ts';
import { telemetryOf } from './connect.ts';
import type { ServiceContract } from './generated.ts';
import { resolveRights } from './grant.ts';
import {
  type ConfluentOptions,
  constructorOptions,
  type GuardedLibrary,
  type KafkajsOptions,
  type OptionsOf,
  type RdkafkaOptions,
} from './guard/constructor-options.ts';
import { type Enforced, limitsOf, type NotEnforced } from './guard/limits.ts';
import { type Guarding, guardConsumer, guardKafka, guardProducer, type PromisedConsumer, type PromisedKafka, type PromisedProducer } from './guard/promised.ts';
import { configured, guardRawConsumer, guardRawProducer, type RawClient, type RawConsumer, type RawProducer } from './guard/raw.ts';
import { type Shape, shapeOf } from './guard/shape.ts';
import { Stages } from './guard/stages.ts';
import { type GuardReport, Tally } from './guard/tally.ts';
import { environmentOf } from './identity.ts';
import { type ConnectOptions, readSettings } from './settings.ts';

/** What openGuard() takes: options and environment variables of connect(), as far as they make sense without a transport. */
export type GuardOptions = Pick<
  ConnectOptions,
  'environment' | 'identity' | 'grant' | 'clusters' | 'onQuota' | 'telemetry' | 'logger' | 'clientId' | 'connectTimeoutMs' | 'env' | 'clock'
> & {
  /** How long a send may wait for its quota before it ends in QUOTA_EXCEEDED, in ms (> 0). Default 30_000, as the delivery timeout of connect(). */
  readonly quotaTimeoutMs?: number;
};

export interface GuardInit {
  /** The logical cluster that the instance speaks to. Default: the contract's only one. */
  readonly cluster?: string;
  /** Of a consumer that doesn't come from a guarded Kafka. */
  readonly group?: string;
  /** Of a producer that doesn't come from a guarded Kafka. */
  readonly transactionalId?: string;
}

export interface Guarded<T> {
  /** The one that was given, itself; whoever holds it already is guarded too. */
  readonly instance: T;
  readonly enforced: readonly Enforced[];
  /** Said plainly: what remains to the brokers' ACLs and quotas, or to nobody. */
  readonly notEnforced: readonly NotEnforced[];
  /** What this instance, and what it made, did that enforcement refuses, or would refuse. */
  report(): GuardReport;
}

export interface Guard extends AsyncDisposable {
  /** Puts grant, quota and tracing before a client's own calls. Nothing is imported and nothing rewritten; guarding twice changes nothing.
   *  @throws TurnpikeError CONFIG_INVALID: not a Kafka, producer or consumer that is known here; several clusters and none named. */
  <T extends object>(instance: T, init?: GuardInit): Guarded<T>;
  /** Options for `new Kafka()` of kafkajs: address, TLS and token, of this identity (default: the guard's own).
   *  @throws TurnpikeError CONFIG_INVALID (no listener for it, several clusters and none named), PRINCIPAL_MISMATCH (the grant is another's). */
  options(identity?: Identity): KafkajsOptions;
  options<L extends GuardedLibrary>(identity: Identity | undefined, init: { readonly library: L; readonly cluster?: string }): OptionsOf[L];
  options(identity: Identity | undefined, init: { readonly cluster: string }): KafkajsOptions;
  readonly identity: Identity;
  readonly principal: string;
  readonly environment: string;
  /** Of everything that was guarded. */
  report(): GuardReport;
  /** Stops watching grant and identity. The clients are the service's own to close, before. */
  close(): Promise<void>;
}

export type { ConfluentOptions, Enforced, GuardedLibrary, GuardReport, KafkajsOptions, NotEnforced, RdkafkaOptions };

/** Marks what is guarded, across copies of this package. */
const MARK = Symbol.for('@turnpike/client.guarded');

/** Identity, grant, quota and tracing for a service that keeps its kafkajs or confluent client for now. Reads what connect() reads, from the same environment variables, and
 *  needs no transport:
 *
 *  ```ts
 *  const guard = await openGuard(flightOps);
 *  const kafka = new Kafka(guard.options(guard.identity));
 *  const { report, notEnforced } = guard(kafka);
 *  ```
 *
 *  Rejects as connect() does: CONFIG_INVALID, IDENTITY_INVALID, TOKEN_UNAVAILABLE, PRINCIPAL_MISMATCH, GRANT_MISSING, GRANT_INVALID. */
export async function openGuard(service: ServiceContract, options: GuardOptions = {}): Promise<Guard> {
  const { quotaTimeoutMs: asked, ...shared } = options;
  const quotaTimeoutMs = new OptionReader('openGuard', { quotaTimeoutMs: asked }).number('quotaTimeoutMs', { min: 1, default: 30_000 });
  const settings = readSettings(shared);
  const environment = environmentOf(service, settings);
  const cleanUp = new CleanUp();
  try {
    const { identity, grant } = await resolveRights(service, environment, settings, cleanUp);
    const descriptors = settings.clusters === undefined ? [] : await readDescriptors(settings.clusters);
    const telemetry = telemetryOf(settings, service.name);
    const { clock, logger, onQuota: onExceeded } = settings;
    const stagesOf = (cluster: string): Stages => {
      const common = { claims: () => grant.claims(), cluster, clock, logger };
      return new Stages({
        ...{ cluster, clock, telemetry, quotaTimeoutMs },
        access: (onRefusal) => accessPolicy({ ...common, onRefusal }),
        gates: quotaGates({ ...common, onExceeded }),
      });
    };
    const desk = new GuardDesk(service, {
      environment,
      identity,
      descriptors,
      clientId: settings.clientId ?? service.name,
      stagesOf,
      whole: new Tally(clock),
      part: (whole) => new Tally(clock, whole),
    });
    const close = () => cleanUp[Symbol.asyncDispose]();
    return Object.assign(<T extends object>(instance: T, init: GuardInit = {}) => desk.guard(instance, init), {
      options: ((of?: Identity, init: { readonly library?: GuardedLibrary; readonly cluster?: string } = {}) => desk.options(of, init)) as Guard['options'],
      identity,
      principal: identity.principal,
      environment,
      report: () => desk.report(),
      close,
      [Symbol.asyncDispose]: close,
    });
  } catch (error) {
    await cleanUp[Symbol.asyncDispose]().catch(() => {}); // What went wrong first is what the caller can mend.
    throw error;
  }
}

interface DeskInit {
  readonly environment: string;
  readonly identity: Identity;
  readonly descriptors: readonly ClusterDescriptor[];
  readonly clientId: string;
  readonly stagesOf: (cluster: string) => Stages;
  readonly whole: Tally;
  readonly part: (whole: Tally) => Tally;
}

interface Marked {
  readonly desk: object;
  readonly guarded: Guarded<object>;
}

class GuardDesk {
  readonly #service: ServiceContract;
  readonly #init: DeskInit;
  /** By cluster: a quota is the process's, however many clients it has. */
  readonly #stages = new Map<string, Stages>();

  constructor(service: ServiceContract, init: DeskInit) {
    this.#service = service;
    this.#init = init;
  }

  report(): GuardReport {
    return this.#init.whole.report();
  }

  options(identity: Identity = this.#init.identity, { library = 'kafkajs', cluster }: { readonly library?: GuardedLibrary; readonly cluster?: string }) {
    const { environment, descriptors, clientId } = this.#init;
    const libraries: readonly unknown[] = ['kafkajs', 'confluent', 'rdkafka'] satisfies readonly GuardedLibrary[];
    if (!libraries.includes(library))
      throw new TurnpikeError('CONFIG_INVALID', `guard.options() knows no library ${JSON.stringify(library)}; it must be one of ${libraries.join(', ')}.`);
    if (identity.principal !== this.#init.identity.principal)
      throw new TurnpikeError(
        'PRINCIPAL_MISMATCH',
        `The grant is ${this.#init.identity.principal}'s, and the identity given to guard.options() proves ${identity.principal}; give it to openGuard() too, with its grant.`,
        { principal: identity.principal },
      );
    if (identity.kind === 'none')
      throw new TurnpikeError('CONFIG_INVALID', 'guard.options() was given an identity that proves nothing; give it one of mtlsIdentity() or oauthIdentity().');
    if (descriptors.length === 0)
      throw new TurnpikeError(
        'CONFIG_INVALID',
        'No cluster descriptors: set TURNPIKE_CLUSTERS to their file; the platform injects it (locally: turnpike dev).',
      );
    return constructorOptions(library, identity, clusterFor(this.#cluster(cluster), { environment, descriptors, identity }), clientId);
  }

  guard<T extends object>(instance: T, init: GuardInit): Guarded<T> {
    const shape = shapeOf(instance);
    return this.#guard(instance, { shape, init, stages: this.#stagesFor(this.#cluster(init.cluster)), tally: this.#init.part(this.#init.whole) });
  }

  #guard<T extends object>(instance: T, { shape, init, stages, tally }: { shape: Shape; init: GuardInit; stages: Stages; tally: Tally }): Guarded<T> {
    const mark = (instance as { [MARK]?: Marked })[MARK];
    if (mark?.desk === this) return mark.guarded as Guarded<T>;
    if (mark)
      throw new TurnpikeError(
        'CONFIG_INVALID',
        'guard() was given an instance that another guard has already; open one guard in a process, and use it for all clients.',
      );
    const raw = shape.startsWith('rdkafka') ? (instance as RawClient) : {};
    const known = { group: init.group ?? configured(raw, 'group.id'), transactionalId: init.transactionalId ?? configured(raw, 'transactional.id') };
    this.#wrap(instance, shape, { ...known, stages, tally });
    const guarded: Guarded<T> = { instance, ...limitsOf(shape, known), report: () => tally.report() };
    Object.defineProperty(instance, MARK, { value: { desk: this, guarded } satisfies Marked });
    return guarded;
  }

  #wrap(instance: unknown, shape: Shape, guarding: Guarding): void {
    const { stages, tally } = guarding;
    const adopt = (made: object, init: GuardInit) => this.#guard(made, { shape: shapeOf(made), init, stages, tally });
    const kafka = () => guardKafka(instance as PromisedKafka, adopt);
    const producer = (checkIdAt: 'transaction' | 'connect') => () => guardProducer(instance as PromisedProducer, guarding, { checkIdAt });
    const consumer = (joinEvent?: string) => () => guardConsumer(instance as PromisedConsumer, guarding, joinEvent);
    const wraps: Readonly<Record<Shape, () => void>> = {
      'kafkajs Kafka': kafka,
      'kafkajs producer': producer('transaction'),
      'kafkajs consumer': consumer('consumer.group_join'),
      'confluent Kafka': kafka,
      'confluent producer': producer('connect'),
      'confluent consumer': consumer(),
      'rdkafka producer': () => guardRawProducer(instance as RawProducer, guarding),
      'rdkafka consumer': () => guardRawConsumer(instance as RawConsumer, guarding),
      admin: () => {},
    };
    wraps[shape]();
  }

  #stagesFor(cluster: string): Stages {
    const stages = this.#stages.get(cluster) ?? this.#init.stagesOf(cluster);
    this.#stages.set(cluster, stages);
    return stages;
  }

  /** @throws TurnpikeError CONFIG_INVALID. */
  #cluster(asked: string | undefined): string {
    const { name, produces, consumes } = this.#service;
    const names = [...new Set([...Object.values(produces), ...Object.values(consumes).map((c) => c.topic)].map((t) => t.cluster))];
    if (asked !== undefined && names.includes(asked)) return asked;
    if (asked === undefined && names.length === 1 && names[0] !== undefined) return names[0];
    throw new TurnpikeError(
      'CONFIG_INVALID',
      asked === undefined
        ? `${name} has topics on ${names.length === 0 ? 'no cluster' : `the clusters ${names.join(', ')}`}; say which the client speaks to: { cluster }.`
        : `${name} has no topic on a cluster ${JSON.stringify(asked)}; its clusters: ${names.join(', ') || 'none'}.`,
    );
  }
}
