import type { Reader, Writer } from '@platformatic/kafka';
import type { TopicPartition } from '@turnpike/core/spi';

const NOT_COORDINATOR = 16;
const INVALID_PRODUCER_EPOCH = 47;
const INVALID_TXN_STATE = 48;
const INVALID_PRODUCER_ID_MAPPING = 49;
const CONCURRENT_TRANSACTIONS = 51;
const OPERATION_NOT_ATTEMPTED = 55;
const PRODUCER_FENCED = 90;

const INIT_PRODUCER_ID = 22;
const ADD_PARTITIONS = 24;
const ADD_OFFSETS = 25;
const END = 26;
const COMMIT_OFFSETS = 28;
/** Their API keys, each with the version that a client without rights on the cluster asks for. */
export const TRANSACTION_APIS: readonly (readonly [key: number, version: number])[] = [
  [ADD_PARTITIONS, 3],
  [ADD_OFFSETS, 3],
  [END, 3],
  [COMMIT_OFFSETS, 3],
];

/** A request about a transaction, as it came. */
export interface TransactionRequest {
  readonly what: 'init' | 'add' | 'offsets' | 'commit-offsets' | 'commit' | 'abort';
  readonly epoch: number;
  /** "topic/partition", or a group. */
  readonly of: readonly string[];
}

/** An error code, 0 = none; "cut": not heard; "lost": heard and done, but the connection ends before the answer; "silence": not heard, and the connection stays open. */
export type TransactionOutcome = number | 'cut' | 'lost' | 'silence';

type State = 'empty' | 'ongoing' | 'commit' | 'abort';

interface Kept {
  readonly producerId: bigint;
  epoch: number;
  /** That from which the present one was asked for (KIP-360). */
  lastEpoch: number;
  /** What it is, or what it was ended with. */
  state: State;
  readonly partitions: Set<string>;
  readonly groups: Set<string>;
  readonly offsets: Map<string, bigint>;
  /** Of the open transaction, in order of their writing. */
  written: { readonly key: string; readonly id: string }[];
}

/** Transactional ids as Kafka's TransactionCoordinator keeps them with transaction protocol 1: who owns one, what is counted in, how it ended; and what those who read committed records see of that. */
export class FakeTransactions {
  readonly ids = new Map<string, Kept>();
  readonly requests: TransactionRequest[] = [];
  /** By "topic/partition": what a batch holds, as its first bytes past the header tell, in order of the commits. */
  readonly committed: string[] = [];
  readonly aborted: string[] = [];
  readonly offsets = new Map<string, bigint>();
  /** Batches that came for a partition that wasn't counted in: in a log they would hold back its readers for ever. */
  readonly strays: string[] = [];
  onRequest: (request: TransactionRequest) => TransactionOutcome = () => 0;
  /** Of one partition that is to be added. */
  onAdd: (tp: TopicPartition) => number = () => 0;
  #nextProducerId = 5000n;

  /** What `what` requests have come. */
  count(what: TransactionRequest['what']): number {
    return this.requests.filter((r) => r.what === what).length;
  }

  /** Whether a batch may be written; 0, or the error. */
  check({ topic, partition }: TopicPartition, producerId: bigint, epoch: number): number {
    const kept = [...this.ids.values()].find((k) => k.producerId === producerId);
    if (!kept) return INVALID_PRODUCER_ID_MAPPING;
    if (epoch < kept.epoch) return INVALID_PRODUCER_EPOCH;
    if (kept.state === 'ongoing' && kept.partitions.has(`${topic}/${partition}`)) return 0;
    this.strays.push(`${topic}/${partition}`);
    return INVALID_TXN_STATE;
  }

  wrote({ topic, partition }: TopicPartition, producerId: bigint, id: string): void {
    const kept = [...this.ids.values()].find((k) => k.producerId === producerId);
    kept?.written.push({ key: `${topic}/${partition}`, id });
  }

  /** undefined = none of its APIs. */
  answer(api: number, isCoordinator: boolean, r: Reader, w: Writer): Writer | 'cut' | 'silence' | undefined {
    if (api === INIT_PRODUCER_ID) return this.#init(isCoordinator, r, w);
    if (api === ADD_PARTITIONS) return this.#addPartitions(isCoordinator, r, w);
    if (api === ADD_OFFSETS) return this.#addOffsets(isCoordinator, r, w);
    if (api === END) return this.#end(isCoordinator, r, w);
    if (api === COMMIT_OFFSETS) return this.#commitOffsets(isCoordinator, r, w);
    return undefined;
  }

  /** The mishap that befalls it, or the answer with the code that it has come to. */
  #heard(isCoordinator: boolean, request: TransactionRequest, act: () => number, answer: (code: number) => Writer): Writer | 'cut' | 'silence' {
    this.requests.push(request);
    const outcome = this.onRequest(request);
    if (outcome === 'cut' || outcome === 'silence') return outcome;
    if (typeof outcome === 'number') return answer(isCoordinator ? outcome || act() : NOT_COORDINATOR);
    act();
    return 'cut';
  }

  #init(isCoordinator: boolean, r: Reader, w: Writer): Writer | 'cut' | 'silence' {
    const id = r.readNullableString();
    r.readInt32();
    const [producerId, epoch] = [r.readInt64(), r.readInt16()];
    const told = { producerId: -1n, epoch: -1 };
    const act = (): number => {
      const kept = this.ids.get(id ?? '');
      if (!kept) {
        const made = { producerId: this.#nextProducerId++, epoch: 0, lastEpoch: -1, state: 'empty' as State };
        this.ids.set(id ?? '', { ...made, partitions: new Set(), groups: new Set(), offsets: new Map(), written: [] });
        Object.assign(told, made);
        return 0;
      }
      if (producerId >= 0n && kept.lastEpoch === epoch) return Object.assign(told, { producerId: kept.producerId, epoch: kept.epoch }) && 0;
      if (producerId >= 0n && kept.epoch !== epoch) return PRODUCER_FENCED;
      if (kept.state === 'ongoing') {
        kept.epoch++; // Nobody is told of this one.
        kept.lastEpoch = -1;
        this.#close(kept, false);
        return CONCURRENT_TRANSACTIONS;
      }
      kept.lastEpoch = producerId >= 0n ? epoch : -1;
      kept.epoch++;
      kept.state = 'empty';
      Object.assign(told, { producerId: kept.producerId, epoch: kept.epoch });
      return 0;
    };
    return this.#heard(isCoordinator, { what: 'init', epoch, of: [] }, act, (code) =>
      w.appendInt32(0).appendInt16(code).appendInt64(told.producerId).appendInt16(told.epoch).appendTaggedFields(),
    );
  }

  #addPartitions(isCoordinator: boolean, r: Reader, w: Writer): Writer | 'cut' | 'silence' {
    const [id, producerId, epoch] = [r.readString(), r.readInt64(), r.readInt16()];
    const topics = r.readArray((r) => ({ topic: r.readString(), partitions: r.readArray((r) => r.readInt32(), true, false) }));
    const all = topics.flatMap(({ topic, partitions }) => partitions.map((partition) => ({ topic, partition })));
    const codes = new Map(all.map((tp) => [tp, this.onAdd(tp)]));
    const anyRefused = [...codes.values()].some((code) => code !== 0);
    const act = (): number =>
      anyRefused
        ? 0
        : this.#open(id, producerId, epoch, (kept) => {
            for (const { topic, partition } of all) kept.partitions.add(`${topic}/${partition}`);
          });
    const request = { what: 'add', epoch, of: all.map((tp) => `${tp.topic}/${tp.partition}`) } as const;
    return this.#heard(isCoordinator, request, act, (code) =>
      w
        .appendInt32(0)
        .appendArray([...Map.groupBy(all, (tp) => tp.topic)], (w, [topic, of]) =>
          w
            .appendString(topic)
            .appendArray(of, (w, tp) => w.appendInt32(tp.partition).appendInt16(code || codes.get(tp) || (anyRefused ? OPERATION_NOT_ATTEMPTED : 0))),
        )
        .appendTaggedFields(),
    );
  }

  #addOffsets(isCoordinator: boolean, r: Reader, w: Writer): Writer | 'cut' | 'silence' {
    const [id, producerId, epoch, group] = [r.readString(), r.readInt64(), r.readInt16(), r.readString()];
    const act = (): number => this.#open(id, producerId, epoch, (kept) => kept.groups.add(group));
    return this.#heard(isCoordinator, { what: 'offsets', epoch, of: [group] }, act, (code) => w.appendInt32(0).appendInt16(code).appendTaggedFields());
  }

  #commitOffsets(isCoordinator: boolean, r: Reader, w: Writer): Writer | 'cut' | 'silence' {
    const [id, group, producerId, epoch] = [r.readString(), r.readString(), r.readInt64(), r.readInt16()];
    r.readInt32();
    r.readString();
    r.readNullableString();
    const topics = r.readArray((r) => ({
      topic: r.readString(),
      partitions: r.readArray((r) => {
        const [partition, offset] = [r.readInt32(), r.readInt64()];
        r.readInt32();
        r.readNullableString();
        return { partition, offset };
      }),
    }));
    const act = (): number => {
      const kept = this.#owned(id, producerId, epoch);
      if (typeof kept === 'number') return kept;
      if (!kept.groups.has(group)) return INVALID_TXN_STATE;
      for (const { topic, partitions } of topics) for (const p of partitions) kept.offsets.set(`${group} ${topic}/${p.partition}`, p.offset);
      return 0;
    };
    return this.#heard(isCoordinator, { what: 'commit-offsets', epoch, of: [group] }, act, (code) =>
      w
        .appendInt32(0)
        .appendArray(topics, (w, { topic, partitions }) =>
          w.appendString(topic).appendArray(partitions, (w, { partition }) => w.appendInt32(partition).appendInt16(code)),
        )
        .appendTaggedFields(),
    );
  }

  #end(isCoordinator: boolean, r: Reader, w: Writer): Writer | 'cut' | 'silence' {
    const [id, producerId, epoch, commits] = [r.readString(), r.readInt64(), r.readInt16(), r.readBoolean()];
    const act = (): number => {
      const kept = this.#owned(id, producerId, epoch);
      if (typeof kept === 'number') return kept;
      if (kept.state === 'ongoing') this.#close(kept, commits);
      else if (kept.state !== (commits ? 'commit' : 'abort')) return INVALID_TXN_STATE;
      return 0;
    };
    return this.#heard(isCoordinator, { what: commits ? 'commit' : 'abort', epoch, of: [] }, act, (code) =>
      w.appendInt32(0).appendInt16(code).appendTaggedFields(),
    );
  }

  #owned(id: string, producerId: bigint, epoch: number): Kept | number {
    const kept = this.ids.get(id);
    if (kept?.producerId !== producerId) return INVALID_PRODUCER_ID_MAPPING;
    return kept.epoch === epoch ? kept : PRODUCER_FENCED;
  }

  #open(id: string, producerId: bigint, epoch: number, add: (kept: Kept) => void): number {
    const kept = this.#owned(id, producerId, epoch);
    if (typeof kept === 'number') return kept;
    kept.state = 'ongoing';
    add(kept);
    return 0;
  }

  #close(kept: Kept, commits: boolean): void {
    kept.state = commits ? 'commit' : 'abort';
    (commits ? this.committed : this.aborted).push(...kept.written.map((b) => b.id));
    if (commits) for (const [key, offset] of kept.offsets) this.offsets.set(key, offset);
    kept.written = [];
    kept.partitions.clear();
    kept.groups.clear();
    kept.offsets.clear();
  }
}
