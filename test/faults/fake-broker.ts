import { randomUUID } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import { createServer, type Server, type TLSSocket } from 'node:tls';
import { Reader, Writer } from '@platformatic/kafka';
import type { TopicPartition } from '@turnpike/core/spi';
import type { CertificateAuthority } from '@turnpike/testing';
import { FakeConsumerGroup } from './fake-consumer-group.ts';
import { FakeTransactions, TRANSACTION_APIS } from './fake-transactions.ts';

/** One partition's batch in a produce request. */
export interface ProducedBatch extends TopicPartition {
  readonly node: number;
  readonly producerId: bigint;
  readonly epoch: number;
  readonly sequence: number;
  readonly count: number;
  /** As it came. */
  readonly bytes: Buffer;
}

export interface ProduceAnswer {
  readonly code?: number;
  readonly baseOffset?: bigint;
  readonly throttleMs?: number;
  /** KIP-467. */
  readonly rejected?: readonly number[];
}

/** One partition of a fetch, as it was asked for. */
export interface FetchedAsk extends TopicPartition {
  readonly offset: bigint;
  readonly leaderEpoch: number;
  readonly lastEpoch: number;
  readonly maxBytes: number;
}

/** A fetch as it came. */
export interface FetchRequest {
  readonly node: number;
  readonly maxBytes: number;
  readonly sessionId: number;
  readonly sessionEpoch: number;
  readonly asks: readonly FetchedAsk[];
  readonly forgotten: readonly string[];
}

/** "cut": the connection ends without an answer; "silence": it stays open, without one. */
export type Mishap = 'cut' | 'silence';

const OFFSET_OUT_OF_RANGE = 1;
const UNKNOWN_TOPIC = 3;
const OUT_OF_ORDER_SEQUENCE = 45;
const INVALID_PRODUCER_EPOCH = 47;
/** The bit of a batch's attributes. */
const TRANSACTIONAL = 0x10;
const FETCH_SESSION_ID_NOT_FOUND = 70;
const INVALID_FETCH_SESSION_EPOCH = 71;
const FENCED_LEADER_EPOCH = 74;
const UNKNOWN_LEADER_EPOCH = 75;
const MEMBER_ID_REQUIRED = 79;

interface FetchAnswer extends TopicPartition {
  readonly code: number;
  readonly end: bigint;
  readonly diverging: { readonly epoch: number; readonly endOffset: bigint } | undefined;
  readonly records: Buffer;
}

function fetchAnswer(w: Writer, code: number, sessionId: number, answers: readonly FetchAnswer[]): Writer {
  return w
    .appendInt32(0)
    .appendInt16(code)
    .appendInt32(sessionId)
    .appendArray([...Map.groupBy(answers, (a) => a.topic)], (w, [topic, of]) =>
      w.appendString(topic).appendArray(
        of,
        (w, { partition, code, end, diverging, records }) => {
          w.appendInt32(partition)
            .appendInt16(code)
            .appendInt64(end)
            .appendInt64(end)
            .appendInt64(0n)
            .appendArray(null, () => {})
            .appendInt32(-1)
            .appendBytes(records);
          if (!diverging) return w.appendTaggedFields();
          // One tagged field: number 0, of 13 bytes.
          return w
            .appendUnsignedVarInt(1)
            .appendUnsignedVarInt(0)
            .appendUnsignedVarInt(13)
            .appendInt32(diverging.epoch)
            .appendInt64(diverging.endOffset)
            .appendTaggedFields();
        },
        true,
        false,
      ),
    )
    .appendTaggedFields();
}
const NOT_COORDINATOR = 16;
const CONSUMER_GROUP_HEARTBEAT = 68;

interface StoredBatch {
  readonly baseOffset: bigint;
  readonly batch: ProducedBatch;
}

/** Kafka's protocol as far as the wire transport speaks it, on loopback, over TLS: for faults that a real broker can't be brought to on request. Records are kept as the bytes that came; the
 *  idempotent producer's sequences are checked as Kafka's ProducerStateManager does; a classic group has one member. Every hook is asked before the broker's own answer. */
export class FakeBroker implements AsyncDisposable {
  /** Topic -> leader of each partition (-1 = none). */
  readonly topics = new Map<string, number[]>();
  readonly log = new Map<string, StoredBatch[]>();
  readonly committed = new Map<string, bigint>();
  /** Every produce that came, in order, as it was seen. */
  readonly produced: ProducedBatch[] = [];
  /** Every API key that was asked for, by node. */
  readonly asked: { readonly node: number; readonly api: number; readonly atMs: number }[] = [];
  /** Takes nothing in: what clients send stays in their sockets. */
  deaf = false;
  /** The partitions of each fetch, in the order in which they were asked for. */
  readonly fetched: string[][] = [];
  readonly fetches: FetchRequest[] = [];
  /** Record bytes that fetches were answered with. */
  fetchedBytes = 0;
  /** Whether fetch sessions (KIP-227) are kept, and those that are: what each asks for. */
  keepsSessions = false;
  readonly sessions = new Map<number, { epoch: number; readonly asks: Map<string, FetchedAsk> }>();
  /** Leader epochs by partition, 0 where there is none: metadata tells them, fetches are checked against them, and records are of them. */
  readonly epochs = new Map<string, number>();
  generation = 0;
  member = '';
  onProduce: (batch: ProducedBatch) => ProduceAnswer | Mishap = (batch) => this.write(batch);
  /** An error code of one fetched partition; 0 = as the log has it. */
  onFetch: (tp: TopicPartition) => number = () => 0;
  /** An error code of a whole fetch. */
  onFetchRequest: () => number = () => 0;
  /** Where the log ends that a partition's records were read of, if that isn't this one (KIP-595). */
  onDiverging: (ask: FetchedAsk) => { readonly epoch: number; readonly endOffset: bigint } | undefined = () => undefined;
  onListOffsets: () => number = () => 0;
  onHeartbeat: () => number = () => 0;
  onCommit: (generation: number, member: string) => number | Mishap = () => 0;
  onJoin: (member: string) => number | Mishap = () => 0;
  /** The one KIP-848 group; false = this broker has no API for it. */
  readonly group = new FakeConsumerGroup((topics) => topics.flatMap((t) => (this.topics.get(t) ?? []).map((_, p) => `${this.topicId(t)}/${p}`)));
  hasConsumerGroups = true;
  readonly transactions = new FakeTransactions();
  /** The node that keeps the KIP-848 group, and the transactional ids. */
  coordinator = 0;
  readonly #ids = new Map<string, string>();
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<TLSSocket>();
  #nextProducerId = 1000n;
  #nextSession = 1;

  static async open(ca: CertificateAuthority, init: { readonly nodes?: number; readonly topics: Readonly<Record<string, number>> }): Promise<FakeBroker> {
    const broker = new FakeBroker();
    const { cert, key } = await ca.issue({ commonName: 'fake-broker', usage: 'server' });
    for (const [name, partitions] of Object.entries(init.topics)) broker.topics.set(name, Array(partitions).fill(0));
    for (let node = 0; node < (init.nodes ?? 1); node++) {
      const server = createServer({ cert, key }, (socket) => broker.#serve(node, socket));
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      broker.#servers.push(server);
    }
    return broker;
  }

  get bootstrap(): string[] {
    return this.#servers.map((_, node) => `127.0.0.1:${this.#port(node)}`);
  }

  /** Of a topic as it is now; one that is made anew has another. */
  topicId(topic: string): string {
    const known = this.#ids.get(topic) ?? randomUUID();
    this.#ids.set(topic, known);
    return known;
  }

  renew(topic: string): void {
    this.#ids.set(topic, randomUUID());
  }

  /** What Kafka does with a batch: appends it, knows it again, or refuses its sequence. */
  write(batch: ProducedBatch): ProduceAnswer {
    if (!this.topics.has(batch.topic)) return { code: UNKNOWN_TOPIC };
    const key = `${batch.topic}/${batch.partition}`;
    const log = this.log.get(key) ?? [];
    this.log.set(key, log);
    const last = log.at(-1);
    const baseOffset = last ? last.baseOffset + BigInt(last.batch.count) : 0n;
    const isTransactional = (batch.bytes.readInt16BE(21) & TRANSACTIONAL) !== 0;
    const refused = isTransactional ? this.transactions.check(batch, batch.producerId, batch.epoch) : 0;
    if (refused !== 0) return { code: refused };
    if (batch.producerId >= 0n) {
      const own = log.filter((b) => b.batch.producerId === batch.producerId);
      const newest = own.at(-1)?.batch;
      if (newest) {
        if (batch.epoch < newest.epoch) return { code: INVALID_PRODUCER_EPOCH };
        const same = own.slice(-5).find(({ batch: b }) => b.epoch === batch.epoch && b.sequence === batch.sequence && b.count === batch.count);
        if (same) return { baseOffset: same.baseOffset };
        const expected = batch.epoch > newest.epoch ? 0 : (newest.sequence + newest.count) % 2 ** 31;
        if (batch.sequence !== expected) return { code: OUT_OF_ORDER_SEQUENCE };
      }
    }
    log.push({ baseOffset, batch });
    if (isTransactional) this.transactions.wrote(batch, batch.producerId, `${key}@${baseOffset}`);
    return { baseOffset };
  }

  /** Record counts of the log's batches. */
  end(topic: string, partition: number): bigint {
    const last = this.log.get(`${topic}/${partition}`)?.at(-1);
    return last ? last.baseOffset + BigInt(last.batch.count) : 0n;
  }

  /** Ends every connection. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** A node that is gone for good. */
  kill(node: number): void {
    this.#servers[node]?.close();
    this.cut();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    await Promise.all(this.#servers.map((s) => new Promise((resolve) => s.close(resolve))));
  }

  #port(node: number): number {
    const address = this.#servers[node]?.address() as AddressInfo | undefined;
    return address?.port ?? 0;
  }

  #serve(node: number, socket: TLSSocket): void {
    this.#sockets.add(socket);
    let pending = Buffer.alloc(0);
    socket.on('error', () => {});
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('data', (chunk) => {
      if (this.deaf) socket.pause();
      pending = Buffer.concat([pending, chunk]);
      while (pending.length >= 4 && pending.length >= 4 + pending.readInt32BE(0)) {
        const end = 4 + pending.readInt32BE(0);
        const request = Reader.from(Buffer.from(pending.subarray(4, end)));
        pending = pending.subarray(end);
        this.#handle(node, socket, request);
      }
    });
  }

  #handle(node: number, socket: TLSSocket, request: Reader): void {
    const api = request.readInt16();
    const version = request.readInt16();
    const correlation = request.readInt32();
    request.readNullableString(false);
    request.readTaggedFields();
    this.asked.push({ node, api, atMs: performance.now() });
    const answer = this.#answer(node, api, version, request);
    if (answer === 'cut') socket.destroy();
    if (typeof answer === 'string') return;
    const header = Writer.create().appendInt32(correlation);
    if (api !== 18) header.appendTaggedFields();
    const message = header.appendFrom(answer).prependLength().buffer;
    socket.write(message);
  }

  #answer(node: number, api: number, version: number, r: Reader): Writer | Mishap {
    const w = Writer.create();
    switch (api) {
      case 0:
        return this.#produce(node, r, w);
      case 1:
        return this.#fetch(node, r, w);
      case 2:
        return this.#listOffsets(r, w);
      case 3:
        return this.#metadata(r, w);
      case 8:
        return this.#commit(node, version, r, w);
      case 9:
        return this.#offsets(node, version, r, w);
      case 10: {
        r.readInt8();
        const keys = r.readArray((r) => r.readString(), true, false);
        return w
          .appendInt32(0)
          .appendArray(keys, (w, key) =>
            w
              .appendString(key)
              .appendInt32(this.coordinator)
              .appendString('127.0.0.1')
              .appendInt32(this.#port(this.coordinator))
              .appendInt16(0)
              .appendString(null),
          )
          .appendTaggedFields();
      }
      case 11:
        return this.#join(r, w);
      case 12:
        return w.appendInt32(0).appendInt16(this.onHeartbeat()).appendTaggedFields();
      case 13:
        this.member = '';
        return w
          .appendInt32(0)
          .appendInt16(0)
          .appendArray([], () => {})
          .appendTaggedFields();
      case 14: {
        for (let i = 0; i < 1; i++) r.readString();
        r.readInt32();
        r.readString();
        for (let i = 0; i < 3; i++) r.readNullableString();
        const given = r.readArray((r) => ({ member: r.readString(), assignment: r.readBytes() }));
        const own = given.find((g) => g.member === this.member)?.assignment ?? Buffer.alloc(0);
        return w.appendInt32(0).appendInt16(0).appendString('consumer').appendString('cooperative-sticky').appendBytes(own).appendTaggedFields();
      }
      case 18:
        return w
          .appendInt16(0)
          .appendArray(
            SPOKEN.filter(([key]) => key !== CONSUMER_GROUP_HEARTBEAT || this.hasConsumerGroups),
            (w, [key, least, most = least]) => w.appendInt16(key).appendInt16(least).appendInt16(most),
          )
          .appendInt32(0)
          .appendTaggedFields();
      case 22:
        if (r.peekUnsignedInt8() > 0) return this.transactions.answer(api, node === this.coordinator, r, w) ?? 'cut';
        return w
          .appendInt32(0)
          .appendInt16(0)
          .appendInt64(this.#nextProducerId++)
          .appendInt16(0)
          .appendTaggedFields();
      case CONSUMER_GROUP_HEARTBEAT:
        if (node === this.coordinator) return this.group.answer(r, w);
        w.appendInt32(0).appendInt16(NOT_COORDINATOR).appendString(null).appendString(null);
        return w.appendInt32(0).appendInt32(0).appendInt8(-1).appendTaggedFields();
      default:
        return this.transactions.answer(api, node === this.coordinator, r, w) ?? 'cut';
    }
  }

  #produce(node: number, r: Reader, w: Writer): Writer | Mishap {
    r.readNullableString();
    r.readInt16();
    r.readInt32();
    const topics = r.readArray((r) => ({ topic: r.readString(), partitions: r.readArray((r) => ({ partition: r.readInt32(), bytes: r.readBytes() })) }));
    const answers: { readonly topic: string; readonly partitions: { readonly partition: number; readonly answer: ProduceAnswer }[] }[] = [];
    let mishap: Mishap | undefined;
    for (const { topic, partitions } of topics) {
      const of: { readonly partition: number; readonly answer: ProduceAnswer }[] = [];
      for (const { partition, bytes } of partitions) {
        const batch: ProducedBatch = {
          node,
          topic,
          partition,
          producerId: bytes.readBigInt64BE(43),
          epoch: bytes.readInt16BE(51),
          sequence: bytes.readInt32BE(53),
          count: bytes.readInt32BE(57),
          bytes,
        };
        this.produced.push(batch);
        const answer = this.onProduce(batch);
        if (typeof answer === 'string') mishap = answer;
        else of.push({ partition, answer });
      }
      answers.push({ topic, partitions: of });
    }
    if (mishap) return mishap;
    const throttleMs = Math.max(0, ...answers.flatMap((t) => t.partitions.map((p) => p.answer.throttleMs ?? 0)));
    return w
      .appendArray(answers, (w, { topic, partitions }) =>
        w.appendString(topic).appendArray(partitions, (w, { partition, answer }) =>
          w
            .appendInt32(partition)
            .appendInt16(answer.code ?? 0)
            .appendInt64(answer.baseOffset ?? -1n)
            .appendInt64(-1n)
            .appendInt64(0n)
            .appendArray([...(answer.rejected ?? [])], (w, index) => w.appendInt32(index).appendString('not this one'))
            .appendString(null),
        ),
      )
      .appendInt32(throttleMs)
      .appendTaggedFields();
  }

  #metadata(r: Reader, w: Writer): Writer {
    const names = r.readNullableArray((r) => {
      r.readUUID();
      return r.readString();
    });
    const nodes = this.#servers.map((_, node) => node);
    return w
      .appendInt32(0)
      .appendArray(nodes, (w, node) => w.appendInt32(node).appendString('127.0.0.1').appendInt32(this.#port(node)).appendString(null))
      .appendString('fake')
      .appendInt32(0)
      .appendArray(names ?? [...this.topics.keys()], (w, name) => {
        const leaders = this.topics.get(name);
        w.appendInt16(leaders ? 0 : UNKNOWN_TOPIC)
          .appendString(name)
          .appendUUID(leaders ? this.topicId(name) : null)
          .appendBoolean(false)
          .appendArray([...(leaders ?? []).entries()], (w, [partition, leader]) =>
            w
              .appendInt16(leader < 0 ? 5 : 0)
              .appendInt32(partition)
              .appendInt32(leader)
              .appendInt32(this.epochs.get(`${name}/${partition}`) ?? 0)
              .appendArray([0], (w, n) => w.appendInt32(n), true, false)
              .appendArray([0], (w, n) => w.appendInt32(n), true, false)
              .appendArray([], () => {}),
          )
          .appendInt32(0);
      })
      .appendTaggedFields();
  }

  #fetch(node: number, r: Reader, w: Writer): Writer {
    for (let i = 0; i < 3; i++) r.readInt32();
    const maxBytes = r.readInt32();
    r.readInt8();
    const [sessionId, sessionEpoch] = [r.readInt32(), r.readInt32()];
    const asks = r
      .readArray((r) => {
        const topic = r.readString();
        return r.readArray((r): FetchedAsk => {
          const [partition, leaderEpoch, offset, lastEpoch] = [r.readInt32(), r.readInt32(), r.readInt64(), r.readInt32()];
          r.readInt64();
          return { topic, partition, leaderEpoch, offset, lastEpoch, maxBytes: r.readInt32() };
        });
      })
      .flat();
    const forgotten = r
      .readArray((r) => {
        const topic = r.readString();
        return r.readArray((r) => `${topic}/${r.readInt32()}`, true, false);
      })
      .flat();
    this.fetched.push(asks.map((a) => `${a.topic}/${a.partition}`));
    this.fetches.push({ node, maxBytes, sessionId, sessionEpoch, asks, forgotten });
    const refused = this.onFetchRequest();
    if (refused) return fetchAnswer(w, refused, 0, []);
    const session = this.#session(sessionId, sessionEpoch, asks, forgotten);
    if (typeof session === 'number') return fetchAnswer(w, session, 0, []);
    let left = maxBytes;
    const answers = [...session.asks.values()].map((ask) => {
      const answer = this.#read(ask, left);
      left -= answer.records.length;
      return answer;
    });
    this.fetchedBytes += maxBytes - left;
    // Of a session only what is news.
    const news = sessionEpoch > 0 ? answers.filter((a) => a.code !== 0 || a.diverging || a.records.length > 0) : answers;
    return fetchAnswer(w, 0, session.id, news);
  }

  #session(
    id: number,
    epoch: number,
    asks: readonly FetchedAsk[],
    forgotten: readonly string[],
  ): { readonly id: number; readonly asks: ReadonlyMap<string, FetchedAsk> } | number {
    const named = asks.map((a) => [`${a.topic}/${a.partition}`, a] as const);
    if (epoch <= 0) {
      this.sessions.delete(id);
      if (!this.keepsSessions) return { id: 0, asks: new Map(named) };
      const session = { epoch: 1, asks: new Map(named) };
      this.sessions.set(this.#nextSession, session);
      return { id: this.#nextSession++, asks: session.asks };
    }
    const session = this.sessions.get(id);
    if (!session) return FETCH_SESSION_ID_NOT_FOUND;
    if (session.epoch !== epoch) return INVALID_FETCH_SESSION_EPOCH;
    session.epoch++;
    for (const [key, ask] of named) session.asks.set(key, ask);
    for (const key of forgotten) session.asks.delete(key);
    return { id, asks: session.asks };
  }

  /** As much as fits, and the first batch of an answer in any case. */
  #read(ask: FetchedAsk, left: number): FetchAnswer {
    const { topic, partition, offset } = ask;
    const key = `${topic}/${partition}`;
    const end = this.end(topic, partition);
    const epoch = this.epochs.get(key) ?? 0;
    const stale = ask.leaderEpoch < 0 || ask.leaderEpoch === epoch ? 0 : ask.leaderEpoch < epoch ? FENCED_LEADER_EPOCH : UNKNOWN_LEADER_EPOCH;
    const diverging = ask.lastEpoch < 0 ? undefined : this.onDiverging(ask);
    const code = this.onFetch({ topic, partition }) || stale || (offset > end && !diverging ? OFFSET_OUT_OF_RANGE : 0);
    const batches: Buffer[] = [];
    let size = 0;
    for (const { baseOffset, batch } of code || diverging ? [] : (this.log.get(key) ?? [])) {
      if (baseOffset + BigInt(batch.count) <= offset) continue;
      if (size + batch.bytes.length > Math.min(left, ask.maxBytes) && (size > 0 || left <= 0)) break;
      const bytes = Buffer.from(batch.bytes);
      bytes.writeBigInt64BE(baseOffset, 0);
      bytes.writeInt32BE(epoch, 12);
      batches.push(bytes);
      size += bytes.length;
    }
    return { topic, partition, code, end, diverging, records: Buffer.concat(batches) };
  }

  #listOffsets(r: Reader, w: Writer): Writer {
    r.readInt32();
    r.readInt8();
    const topics = r.readArray((r) => ({
      topic: r.readString(),
      partitions: r.readArray((r) => {
        const partition = r.readInt32();
        r.readInt32();
        return { partition, timestamp: r.readInt64() };
      }),
    }));
    return w
      .appendInt32(0)
      .appendArray(topics, (w, { topic, partitions }) =>
        w.appendString(topic).appendArray(partitions, (w, { partition, timestamp }) =>
          w
            .appendInt32(partition)
            .appendInt16(this.onListOffsets())
            .appendInt64(-1n)
            .appendInt64(timestamp === -2n ? 0n : this.end(topic, partition))
            .appendInt32(0),
        ),
      )
      .appendTaggedFields();
  }

  #join(r: Reader, w: Writer): Writer | Mishap {
    r.readString();
    for (let i = 0; i < 2; i++) r.readInt32();
    const member = r.readString();
    r.readNullableString();
    r.readString();
    const [protocol] = r.readArray((r) => ({ name: r.readString(), metadata: r.readBytes() }));
    const refused = this.onJoin(member);
    if (typeof refused === 'string') return refused;
    const code = refused || (member === '' ? MEMBER_ID_REQUIRED : 0);
    const id = member || `member-${this.generation + 1}`;
    if (code === 0) {
      this.generation++;
      this.member = id;
    }
    return w
      .appendInt32(0)
      .appendInt16(code)
      .appendInt32(this.generation)
      .appendString('consumer')
      .appendString(protocol?.name ?? null)
      .appendString(id)
      .appendBoolean(false)
      .appendString(id)
      .appendArray(code === 0 ? [id] : [], (w, id) =>
        w
          .appendString(id)
          .appendString(null)
          .appendBytes(protocol?.metadata ?? null),
      )
      .appendTaggedFields();
  }

  #commit(node: number, version: number, r: Reader, w: Writer): Writer | Mishap {
    r.readString();
    const generation = r.readInt32();
    const member = r.readString();
    r.readNullableString();
    const topics = r.readArray((r) => ({
      topic: r.readString(),
      partitions: r.readArray((r) => {
        const partition = r.readInt32();
        const offset = r.readInt64();
        r.readInt32();
        r.readNullableString();
        return { partition, offset };
      }),
    }));
    const code = this.onCommit(generation, member) || (version >= 9 ? this.#checked(node, member, generation) : 0);
    if (typeof code === 'string') return code;
    if (code === 0) for (const { topic, partitions } of topics) for (const p of partitions) this.committed.set(`${topic}/${p.partition}`, p.offset);
    return w
      .appendInt32(0)
      .appendArray(topics, (w, { topic, partitions }) =>
        w.appendString(topic).appendArray(partitions, (w, { partition }) => w.appendInt32(partition).appendInt16(code)),
      )
      .appendTaggedFields();
  }

  /** A request of a KIP-848 group's member. */
  #checked(node: number, member: string, epoch: number): number {
    return node === this.coordinator ? this.group.check(member, epoch) : NOT_COORDINATOR;
  }

  #offsets(node: number, version: number, r: Reader, w: Writer): Writer {
    const groups = r.readArray((r) => ({
      group: r.readString(),
      code: version >= 9 ? this.#checked(node, r.readNullableString() ?? '', r.readInt32()) : 0,
      topics: r.readArray((r) => ({ topic: r.readString(), partitions: r.readArray((r) => r.readInt32(), true, false) })),
    }));
    return w
      .appendInt32(0)
      .appendArray(groups, (w, { group, topics, code }) =>
        w
          .appendString(group)
          .appendArray(code === 0 ? topics : [], (w, { topic, partitions }) =>
            w.appendString(topic).appendArray(partitions, (w, partition) =>
              w
                .appendInt32(partition)
                .appendInt64(this.committed.get(`${topic}/${partition}`) ?? -1n)
                .appendInt32(-1)
                .appendString('')
                .appendInt16(0),
            ),
          )
          .appendInt16(code),
      )
      .appendTaggedFields();
  }
}

/** API key, version; where there are several the lowest and the highest. */
const SPOKEN: readonly (readonly [key: number, least: number, most?: number])[] = [
  [0, 9],
  [1, 12],
  [2, 7],
  [3, 12],
  [8, 8, 9],
  [9, 8, 9],
  [10, 4],
  [11, 9],
  [12, 4],
  [13, 5],
  [14, 5],
  [18, 3],
  [22, 4],
  ...TRANSACTION_APIS,
  [CONSUMER_GROUP_HEARTBEAT, 1],
];
