import type { BufferedRecord } from '@turnpike/core/spi';
import type { IHeaders, Message } from 'kafkajs';

const NOTHING = Buffer.alloc(0);

/** One partition's records as kafkajs encodes them. It sorts their timestamps as texts to find the first and the last; these sort as numbers. */
class PartitionMessages extends Array<Message> {
  override sort(compare: (a: Message, b: Message) => number = (a, b) => Number(a) - Number(b)): this {
    return super.sort(compare);
  }
}

export interface PartitionRecords {
  readonly partition: number;
  readonly records: readonly BufferedRecord[];
}

type Grouping = (grouped: Record<string, Message[]>, message: Message) => unknown;

/** One topic's part of a request. kafkajs groups messages by partition in a way whose time grows with the square of their number; this has them grouped already, and asks the partitioner once for
 *  each partition. Without elements of its own. */
class TopicMessages extends Array<Message> {
  #byPartition: Readonly<Record<string, Message[]>> = {};

  static of_(parts: readonly PartitionRecords[]): TopicMessages {
    const messages = new TopicMessages();
    messages.#byPartition = Object.fromEntries(parts.map(({ partition, records }) => [partition, PartitionMessages.from(records, messageOf)]));
    return messages;
  }

  override reduce(group: unknown): never {
    for (const partition of Object.keys(this.#byPartition)) (group as Grouping)({}, { value: null, partition: Number(partition) });
    return this.#byPartition as never;
  }
}

export const topicMessages = (parts: readonly PartitionRecords[]): Message[] => TopicMessages.of_(parts);

const messageOf = ({ key, value, headers, timestampMs }: BufferedRecord): Message => ({
  key,
  value,
  timestamp: String(timestampMs), // As a number, 0 would be "now".
  ...(headers && headers.length > 0 ? { headers: headersOf(headers) } : {}),
});

/** kafkajs takes an object, in which a name stands once, and asks an array in it for its values by `map`: the one here answers with all headers, in their order. */
function headersOf(headers: NonNullable<BufferedRecord['headers']>): IHeaders {
  const all = { map: () => headers.map(([key, value]) => (value === null ? new NullHeader(key) : { key, value: bufferOf(value) })) };
  return { all: Object.assign([], all) };
}

/** kafkajs measures a header's value, twice, as if it were not null, and then writes it as what it is; nothing and null are of one length. */
class NullHeader {
  readonly key: string;
  #asked = 0;

  constructor(key: string) {
    this.key = key;
  }

  get value(): Buffer | null {
    return this.#asked++ < 2 ? NOTHING : null;
  }
}

const bufferOf = (bytes: Uint8Array): Buffer => (Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
