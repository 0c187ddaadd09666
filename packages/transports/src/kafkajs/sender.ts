import { TurnpikeError } from '@turnpike/core';
import type { CompiledProducerOptions, LinkContext, TopicPartition } from '@turnpike/core/spi';
import type { Producer, RecordMetadata, Transaction } from 'kafkajs';
import { partitionKey } from '../wire/assignor.ts';
import { LibraryClient, type LibraryModule } from './library.ts';
import { type PartitionRecords, topicMessages } from './messages.ts';
import { endingProducer, type ProducerRef } from './request.ts';

/** kafkajs' numbers: those of the protocol. */
const ACKS = { all: -1, 1: 1, 0: 0 } as const;
const CODECS = { none: 0, gzip: 1, snappy: 2, lz4: 3, zstd: 4 } as const;

export interface SenderParts {
  readonly library: LibraryModule;
  readonly context: LinkContext;
  readonly addresses: () => readonly string[];
  readonly brokerAt: (host: string, port: number) => number | undefined;
  readonly options: CompiledProducerOptions;
}

export interface SendPart extends PartitionRecords {
  readonly topic: string;
}

/** What became of one request to kafkajs. */
export interface Sent {
  /** Whether a produce request left for a broker. */
  readonly left: boolean;
  /** The broker's code for a partition of it; undefined = it gave no answer. */
  readonly code: (tp: TopicPartition) => number | undefined;
  readonly metadata: readonly RecordMetadata[];
  readonly error?: unknown;
}

/** One producer of kafkajs', with a producer id and sequences of its own. It can't raise its epoch: where its sequences can't be trusted any more another one takes over, and this one ends when the last
 *  batch that must stay with it has. */
export class Sender {
  readonly producer: Producer;
  readonly #client: LibraryClient;
  readonly #options: CompiledProducerOptions;
  #ready: Promise<void> | undefined;
  #users = 0;
  #retired = false;
  #closed = false;
  #left = 0;
  #ending: ProducerRef | undefined;
  /** By partition, which has one batch under way. */
  readonly #codes = new Map<string, number>();

  constructor({ library, context, addresses, brokerAt, options }: SenderParts) {
    this.#options = options;
    const { idempotent, transactionalId, transactionTimeoutMs, maxInFlight, requestTimeoutMs } = options;
    this.#client = new LibraryClient({
      library,
      context,
      addresses,
      brokerAt,
      answers: {
        onProduced: (partitions) => {
          for (const tp of partitions) this.#codes.set(partitionKey(tp), tp.errorCode);
        },
      },
      requestTimeoutMs,
      intercept: (request) => {
        if (request.api === 'produce') this.#left++;
        if (request.api === 'endTxn') this.#ending = endingProducer(request);
        return undefined;
      },
    });
    this.producer = this.#client.kafka.producer({
      createPartitioner:
        () =>
        ({ message, partitionMetadata }) => {
          const partition = message.partition ?? 0;
          // kafkajs would leave such a partition out of its request, and say that all is well; of this error it learns the metadata anew.
          if (!partitionMetadata.some((p) => p.partitionId === partition))
            throw Object.assign(new library.KafkaJSError(`the partition ${partition} is not known yet`), { name: 'KafkaJSMetadataNotLoaded' });
          return partition;
        },
      // NaN: kafkajs insists on some for an idempotent producer, yet each try must be ours to see.
      retry: { retries: Number.NaN },
      idempotent: idempotent && transactionalId === undefined,
      allowAutoTopicCreation: false,
      // What is out of date shows in errors; else the answers that nobody needs would be waited for in between.
      metadataMaxAge: Number.MAX_SAFE_INTEGER,
      maxInFlightRequests: maxInFlight,
      transactionTimeout: transactionTimeoutMs,
      ...(transactionalId === undefined ? {} : { transactionalId }),
    });
  }

  get retired(): boolean {
    return this.#retired;
  }

  /** Whose transaction it has last asked a coordinator to end. */
  get ending(): ProducerRef | undefined {
    return this.#ending;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Connects, once; again after a failure. */
  ready(): Promise<void> {
    this.#ready ??= this.producer.connect().catch((error: unknown) => {
      this.#ready = undefined;
      throw error;
    });
    return this.#ready;
  }

  /** One try. Never rejects. */
  async send(via: Pick<Transaction, 'sendBatch'>, parts: readonly SendPart[]): Promise<Sent> {
    const { acks, compression, requestTimeoutMs } = this.#options;
    const left = this.#left;
    for (const part of parts) this.#codes.delete(partitionKey(part));
    const seen = () => {
      const codes = new Map(parts.map((p) => [partitionKey(p), this.#codes.get(partitionKey(p))]));
      return { left: this.#left > left, code: (tp: TopicPartition) => codes.get(partitionKey(tp)) };
    };
    try {
      const metadata = await via.sendBatch({
        acks: ACKS[acks],
        timeout: requestTimeoutMs,
        compression: CODECS[compression],
        topicMessages: [...Map.groupBy(parts, (p) => p.topic)].map(([topic, of]) => ({ topic, messages: topicMessages(of) })),
      });
      return { ...seen(), metadata };
    } catch (error) {
      return { ...seen(), metadata: [], error };
    }
  }

  /** A batch begins to depend on it; the function says that it doesn't any more. */
  use(): () => void {
    this.#users++;
    let used = true;
    return () => {
      if (!used) return;
      used = false;
      this.#users--;
      this.#endIfIdle();
    };
  }

  /** Takes no new batches. */
  retire(): void {
    this.#retired = true;
    this.#endIfIdle();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#retired = true;
    this.#client[Symbol.dispose]();
    void this.producer.disconnect().catch(() => {});
  }

  #endIfIdle(): void {
    if (this.#retired && this.#users === 0) this.close();
  }
}

export const closedError = (): TurnpikeError => new TurnpikeError('CLOSED', 'The producer is closed; connect() again before sending.', { written: 'no' });
