/** Those of Kafka's APIs that we look at (protocol guide, "API keys"). */
const APIS = {
  0: 'produce',
  1: 'fetch',
  3: 'metadata',
  11: 'joinGroup',
  13: 'leaveGroup',
  14: 'syncGroup',
  17: 'saslHandshake',
  26: 'endTxn',
  36: 'saslAuthenticate',
} as const;
type Api = (typeof APIS)[keyof typeof APIS];

/** A request of kafkajs as it goes to the socket. It writes the versions before KIP-482 only, whose header and strings are of one form. */
export interface LibraryRequest {
  readonly api: Api | undefined;
  readonly version: number;
  readonly correlationId: number;
  /** Reads the body from its beginning. */
  body(): BodyReader;
}

export function readRequest(frame: Buffer): LibraryRequest {
  const key = frame.readInt16BE(4);
  const clientLength = Math.max(frame.readInt16BE(12), 0);
  return {
    api: (APIS as Partial<Record<number, Api>>)[key],
    version: frame.readInt16BE(6),
    correlationId: frame.readInt32BE(8),
    body: () => new BodyReader(frame, 14 + clientLength),
  };
}

export class BodyReader {
  readonly #frame: Buffer;
  #at: number;

  constructor(frame: Buffer, at: number) {
    this.#frame = frame;
    this.#at = at;
  }

  get at(): number {
    return this.#at;
  }

  skip(bytes: number): void {
    this.#at += bytes;
  }

  int16(): number {
    this.#at += 2;
    return this.#frame.readInt16BE(this.#at - 2);
  }

  int32(): number {
    this.#at += 4;
    return this.#frame.readInt32BE(this.#at - 4);
  }

  int64(): bigint {
    this.#at += 8;
    return this.#frame.readBigInt64BE(this.#at - 8);
  }

  /** '' for null. */
  string(): string {
    const length = Math.max(this.int16(), 0);
    this.#at += length;
    return this.#frame.toString('utf8', this.#at - length, this.#at);
  }

  /** Not copied; empty for null. */
  bytes(): Buffer {
    const length = Math.max(this.int32(), 0);
    this.#at += length;
    return this.#frame.subarray(this.#at - length, this.#at);
  }

  array<T>(read: (reader: BodyReader) => T): T[] {
    return Array.from({ length: Math.max(this.int32(), 0) }, () => read(this));
  }
}

export interface MemberRef {
  readonly id: string;
  readonly generation: number;
}

/** Whom a JoinGroup request names; '' = it asks for a new member id. */
export function joiningMember(request: LibraryRequest): string {
  const body = request.body();
  body.string(); // the group
  body.int32(); // session timeout
  body.int32(); // rebalance timeout
  return body.string();
}

/** The member and the generation that a SyncGroup request takes part in. */
export function syncingMember(request: LibraryRequest): MemberRef {
  const body = request.body();
  body.string(); // the group
  const generation = body.int32();
  return { generation, id: body.string() };
}

export interface ProducerRef {
  readonly producerId: bigint;
  readonly epoch: number;
}

/** Whose transaction an EndTxn request ends. */
export function endingProducer(request: LibraryRequest): ProducerRef {
  const body = request.body();
  body.string(); // the transactional id
  const producerId = body.int64();
  return { producerId, epoch: body.int16() };
}
