import { asTurnpikeError, TurnpikeError } from '@turnpike/core';
import { type AdminPort, type Clock, type CommitOffset, type LinkContext, pause, type SeekTarget, type TopicPartition } from '@turnpike/core/spi';
import { wireAdmin } from './admin.ts';
import { Connections } from './connections.ts';
import { Coordinator, findCoordinator } from './coordinator.ts';
import { Metadata } from './metadata.ts';
import { listOffsets } from './offsets.ts';
import { askProducerId } from './producer-id.ts';

const RETRY_MS = 200;
const ADMIN_TIMEOUT_MS = 20_000;
/** Any broker can answer for the cluster: one that is slow is left for the next. */
const METADATA_TIMEOUT_MS = 4_000;
/** How long a question about one right may take, retries with it, in ms: whoever asked is told the cause within 5 s. */
const QUESTION_MS = 4_000;

/** An identity's own view of a cluster: where brokers and leaders are, administration, and what it may do, in errors of ours. The wire transport's links stand
 *  on it; a transport over another library keeps one beside it, since those hide causes, wait for ever where a right is missing, or can't administer. */
export class Control implements AsyncDisposable {
  readonly metadata: Metadata;
  readonly admin: AdminPort;
  readonly #context: LinkContext;
  readonly #connections: Connections;

  private constructor(context: LinkContext, metadataMaxAgeMs: number) {
    this.#context = context;
    this.#connections = new Connections(context, (purpose) => (purpose === 'metadata' ? METADATA_TIMEOUT_MS : ADMIN_TIMEOUT_MS));
    this.metadata = new Metadata(context, this.#connections, metadataMaxAgeMs);
    this.admin = wireAdmin(context, this.metadata, this.#connections);
  }

  /** Reaches the cluster and proves the identity. Rejects within `connectTimeoutMs` with TLS_FAILED, AUTHENTICATION_FAILED, BROKER_UNAVAILABLE or CLUSTER_MISMATCH. */
  static async open(context: LinkContext, metadataMaxAgeMs: number): Promise<Control> {
    const { clock, cluster, connectTimeoutMs, logger } = context;
    const control = new Control(context, metadataMaxAgeMs);
    const until = clock.monotonic() + connectTimeoutMs;
    let last: unknown;
    try {
      for (;;) {
        try {
          await answerBefore(until, clock, control.metadata.refresh(), () => last ?? unanswered(cluster.name));
          return control;
        } catch (error) {
          last = error;
          // A broker that is just restarting deserves a second try; a refused identity doesn't.
          if (!(error as TurnpikeError).retriable || clock.monotonic() + RETRY_MS >= until) throw error;
          logger.debug('broker.unavailable', { cluster: cluster.name, message: (error as Error).message });
          await pause(clock, RETRY_MS);
        }
      }
    } catch (error) {
      await control[Symbol.asyncDispose]();
      throw error;
    }
  }

  get clusterId(): string | undefined {
    return this.metadata.clusterId;
  }

  /** Why this identity gets no new connection to the cluster: TLS_FAILED, AUTHENTICATION_FAILED, TOKEN_UNAVAILABLE, BROKER_UNAVAILABLE; undefined = it does. */
  async refusal(): Promise<TurnpikeError | undefined> {
    const connections = new Connections(this.#context, () => METADATA_TIMEOUT_MS);
    let last: TurnpikeError | undefined;
    try {
      for (const address of this.metadata.addresses()) {
        try {
          await connections.get(address, 'metadata', { doing: 'connect' });
          return undefined;
        } catch (error) {
          last = asTurnpikeError(error, 'INTERNAL', 'connect');
          if (!last.retriable) return last;
        }
      }
      return last;
    } finally {
      await connections[Symbol.asyncDispose]();
    }
  }

  /** Rejects with AUTHORIZATION_FAILED where this identity may not be in the group. */
  async requireGroup(group: string): Promise<void> {
    await this.#coordinator(group).committed([], QUESTION_MS);
  }

  /** Rejects with AUTHORIZATION_FAILED where this identity may not see the transactional id, as who may write with it does. Nobody is fenced by the question. */
  async requireTransactionalId(transactionalId: string): Promise<void> {
    const { clock, identity } = this.#context;
    const until = clock.monotonic() + QUESTION_MS;
    for (;;) {
      try {
        await findCoordinator(this.metadata, this.#connections, 'transactional id', transactionalId, identity.principal);
        return;
      } catch (error) {
        if (!(error as TurnpikeError).retriable || clock.monotonic() + RETRY_MS >= until) throw error;
        await pause(clock, RETRY_MS);
      }
    }
  }

  /** Rejects with AUTHORIZATION_FAILED where this identity gets no producer id: it may write to no topic at all. */
  async requireProducerId(): Promise<void> {
    await askProducerId(this.metadata, this.#connections, 'metadata', { principal: this.#context.identity.principal });
  }

  /** null = all partitions that have one. */
  committed(group: string, partitions: readonly TopicPartition[] | null): Promise<readonly CommitOffset[]> {
    return this.#coordinator(group).committed(partitions, ADMIN_TIMEOUT_MS);
  }

  /** Of topics that `metadata` knows. */
  offsets(partitions: readonly TopicPartition[], target: SeekTarget, readCommitted: boolean, forMs: number): Promise<readonly CommitOffset[]> {
    return listOffsets({ context: this.#context, metadata: this.metadata, connections: this.#connections, readCommitted }, partitions, target, forMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.metadata.close();
    await this.#connections[Symbol.asyncDispose]();
  }

  #coordinator(group: string): Coordinator {
    return new Coordinator(group, this.#context, this.metadata, this.#connections);
  }
}

/** Several addresses that swallow what they get would each take their own timeout. A try that is cut short knows less than the one before it: where no token was to be had, that is why. */
async function answerBefore(until: number, clock: Clock, answer: Promise<unknown>, whyNot: () => unknown): Promise<void> {
  const over = new AbortController();
  const late = pause(clock, Math.max(until - clock.monotonic(), 0), over.signal).then(() => {
    if (!over.signal.aborted) throw whyNot();
  });
  await Promise.race([answer, late]).finally(() => over.abort());
}

const unanswered = (cluster: string): TurnpikeError =>
  new TurnpikeError('BROKER_UNAVAILABLE', `No broker of ${cluster} answered in time; check the addresses in its descriptor.`, { cluster, retriable: true });
