import type { Shape } from './shape.ts';

/** A rule that guard() holds. */
export interface Enforced {
  readonly what: string;
  readonly how: string;
}

/** One that it can't, and why. The brokers' ACLs and quotas, compiled from the same manifest, hold what they can of these. */
export interface NotEnforced {
  readonly what: string;
  readonly why: string;
}

export interface Known {
  readonly group: string | undefined;
  readonly transactionalId: string | undefined;
}

/** What guard() does for an instance of this shape, and what it doesn't. */
export function limitsOf(shape: Shape, known: Known): { readonly enforced: readonly Enforced[]; readonly notEnforced: readonly NotEnforced[] } {
  const [library, part = 'admin'] = shape.split(' ') as [string, string?];
  const all = part === 'Kafka';
  const parts = [
    ...(all || part === 'producer' ? [library === 'rdkafka' ? rawProducer(known) : producer(library, all, known)] : []),
    ...(all || part === 'consumer' ? [library === 'rdkafka' ? rawConsumer(known) : consumer(library, all, known)] : []),
    ...(library === 'confluent' || library === 'rdkafka' ? [{ enforced: [], notEnforced: [CERTIFICATE] }] : []),
    { enforced: [], notEnforced: [CLUSTER_ID] },
    ...(all || part === 'admin' ? [{ enforced: [], notEnforced: [ADMIN] }] : []),
    ...(all ? [{ enforced: [], notEnforced: [MADE_BEFORE] }] : []),
  ];
  return { enforced: parts.flatMap((p) => p.enforced), notEnforced: parts.flatMap((p) => p.notEnforced) };
}

type Limits = { readonly enforced: readonly Enforced[]; readonly notEnforced: readonly NotEnforced[] };

const ADMIN: NotEnforced = {
  what: 'administration (admin())',
  why: 'a grant speaks of topics, groups and transactional ids; topics, ACLs and configs are changed by turnpike apply. Only the brokers refuse what an admin client tries.',
};
const CLUSTER_ID: NotEnforced = { what: "the cluster's id", why: 'the library speaks to whatever answers at the address; connect() compares.' };
const MADE_BEFORE: NotEnforced = {
  what: 'producers and consumers made before guard()',
  why: 'they are not known here; give each to guard(), or guard the Kafka first.',
};
const SCHEMA: NotEnforced = { what: 'the schema of what is sent', why: "the bytes are the service's own; connect() encodes by the contract." };
const SCHEMA_READ: NotEnforced = { what: 'the schema of what is read', why: "the bytes are decoded by the service's own code." };
const CERTIFICATE: NotEnforced = {
  what: 'a renewed certificate, in a client that is there already',
  why: 'librdkafka reads it once, when the client is made; make a new one before it expires. Tokens are renewed.',
};
const TRANSACTIONAL_ID: NotEnforced = {
  what: 'the transactional id',
  why: 'the library does not tell it; guard the Kafka, or pass guard(producer, { transactionalId }).',
};

function producer(library: string, all: boolean, { transactionalId }: Known): Limits {
  return {
    enforced: [
      { what: 'produce, by topic', how: 'send() and sendBatch(), in transactions too, ask the grant before the library has a record' },
      {
        what: 'quota of what is sent, in records and bytes',
        how: 'a send waits for it, in order by topic, at most quotaTimeoutMs; with onQuota "refuse" it ends at once. Bytes are of key, value and headers, uncompressed, once',
      },
      ...(all || transactionalId !== undefined
        ? [{ what: 'transactional id', how: `${library === 'kafkajs' ? 'transaction()' : 'connect()'} asks the grant's prefixes` }]
        : []),
      { what: 'tracing of sends', how: 'create and send spans; a traceparent header where a span is active and the message has none' },
    ],
    notEnforced: [
      SCHEMA,
      { what: 'retries of the library against the quota', why: 'they happen inside it; a record is charged once.' },
      ...(all || transactionalId !== undefined ? [] : [TRANSACTIONAL_ID]),
      { what: 'the partition in spans', why: 'the library chooses it; it is known only where a send went to one.' },
    ],
  };
}

function consumer(library: string, all: boolean, { group }: Known): Limits {
  const known = all || group !== undefined;
  return {
    enforced: [
      { what: 'consume, by topic', how: 'subscribe() asks the grant, and so does each record that comes, before the handler of run()' },
      ...(known ? [{ what: 'group', how: 'subscribe() asks the grant before the group is joined' }] : []),
      { what: 'quota of what is read, in bytes', how: 'a handler of run() waits until what came before is paid for, and keeps the membership by heartbeats' },
      { what: 'tracing of handlers', how: 'a process span around the handler, linked to where its records were created' },
    ],
    notEnforced: [
      SCHEMA_READ,
      { what: 'the first fetch against the quota', why: 'the library reads ahead by itself; what it has fetched is charged when it is handed out.' },
      {
        what: 'a pattern in subscribe()',
        why: `which topics it matches only the library learns; each record that comes is asked about${library === 'confluent' ? ', and one that is refused comes again and again' : ''}.`,
      },
      ...(known
        ? []
        : [
            {
              what: 'the group at subscribe()',
              why: `the library does not tell it${library === 'kafkajs' ? ' until it has joined; records are asked about from then on' : ''}; guard the Kafka, or pass guard(consumer, { group }).`,
            },
          ]),
      { what: 'spans and metrics of fetches and of commits', why: 'the library does both out of sight.' },
    ],
  };
}

function rawProducer({ transactionalId }: Known): Limits {
  return {
    enforced: [
      { what: 'produce, by topic', how: 'produce() asks the grant and throws' },
      { what: 'quota of what is sent, with onQuota "refuse"', how: 'produce() throws QUOTA_EXCEEDED' },
      ...(transactionalId === undefined ? [] : [{ what: 'transactional id', how: "initTransactions() asks the grant's prefixes" }]),
      { what: 'tracing of sends', how: 'create span, and a traceparent header where a span is active and the message has none' },
    ],
    notEnforced: [
      { what: 'quota of what is sent, with onQuota "wait"', why: 'produce() is synchronous and cannot wait; being over it is counted in report().' },
      SCHEMA,
      { what: 'send spans, and metrics of sends', why: 'the answer comes by an event that names no call.' },
      { what: 'the size of what a serializer makes, against the quota', why: 'it is made inside; only bytes and texts that are passed are counted.' },
    ],
  };
}

function rawConsumer({ group }: Known): Limits {
  return {
    enforced: [
      { what: 'consume, by topic', how: 'subscribe() asks the grant and throws' },
      ...(group === undefined ? [] : [{ what: 'group', how: 'subscribe() asks the grant and throws' }]),
    ],
    notEnforced: [
      ...(group === undefined ? [{ what: 'the group', why: 'the configuration names none.' }] : []),
      {
        what: 'patterns in subscribe(), and assign()',
        why: 'a record is given to the application by an event that nobody can hold; it is counted in report().',
      },
      { what: 'quota of what is read, in bytes', why: 'for the same reason; what came is charged.' },
      SCHEMA_READ,
      { what: 'process spans', why: 'there is no handler to put one around.' },
    ],
  };
}
