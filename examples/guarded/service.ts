// The gate desk as its team has had it for years: plain kafkajs, JSON, retries, a dead-letter topic. Nothing in this file knows of Turnpike.
import kafkajs, { type Admin, type Consumer, type EachBatchPayload, type EachMessagePayload, type IHeaders, type Kafka, type Producer } from 'kafkajs';

const { CompressionTypes, Partitioners } = kafkajs;

export interface Departure {
  readonly id: string;
  readonly origin: string;
  readonly destination: string;
  readonly scheduled: string;
  readonly delayMinutes: number;
}

/** The text-message gateway; rejects when it could not deliver. */
export type Notify = (departure: Departure, attempt: number) => Promise<void>;

export interface GateDeskOptions {
  readonly notify: Notify;
  readonly log: (level: 'info' | 'error', message: string) => void;
}

const DEPARTURES = 'departures.reported';
const CHANGES = 'gates.changed';
const SUMMARY = 'gates.summary';
const NOTIFICATIONS = 'passengers.notified';
const RETRIES = 'gate-desk.retry';
const DEAD_LETTERS = 'gate-desk.dlq';
const TOPICS = [DEPARTURES, CHANGES, SUMMARY, NOTIFICATIONS, RETRIES, DEAD_LETTERS];

export const LATE_MINUTES = 60;
export const VERY_LATE_MINUTES = 120;
export const MAX_ATTEMPTS = 3;
const RETRY_DELAY_MS = 20;
const REPORT_BATCH = 250;
const STOP_TIMEOUT_MS = 10_000;

interface Airport {
  departures: number;
  changes: number;
  nextGate: number;
}

export interface Health {
  readonly running: boolean;
  readonly reported: number;
  readonly boarded: number;
  readonly notified: number;
  readonly retried: number;
  readonly deadLettered: number;
}

export class GateDesk {
  private readonly admin: Admin;
  private readonly producer: Producer;
  private readonly summaryProducer: Producer;
  private readonly board: Consumer;
  private readonly notifier: Consumer;
  private readonly retrier: Consumer;
  private readonly options: GateDeskOptions;
  private readonly airports = new Map<string, Airport>();
  private running = false;
  private stopping: Promise<void> | undefined;
  private counts = { reported: 0, boarded: 0, notified: 0, retried: 0, deadLettered: 0 };

  constructor(kafka: Kafka, options: GateDeskOptions) {
    this.options = options;
    this.admin = kafka.admin();
    this.producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner, allowAutoTopicCreation: false });
    this.summaryProducer = kafka.producer({
      createPartitioner: Partitioners.DefaultPartitioner,
      transactionalId: 'gate-desk-summary',
      idempotent: true,
      maxInFlightRequests: 1,
    });
    const consumer = (groupId: string) => kafka.consumer({ groupId, sessionTimeout: 30_000, heartbeatInterval: 3_000, maxWaitTimeInMs: 100 });
    this.board = consumer('gate-desk.board');
    this.notifier = consumer('gate-desk.notify');
    this.retrier = consumer('gate-desk.retry');
    for (const [name, client] of [
      ['board', this.board],
      ['notifier', this.notifier],
      ['retrier', this.retrier],
    ] as const) {
      client.on(client.events.CRASH, ({ payload }) => {
        options.log('error', `the ${name} crashed: ${payload.error.message}${payload.restart ? '; it restarts' : ''}`);
      });
    }
  }

  async start(): Promise<void> {
    await this.checkTopics();
    await Promise.all([this.producer.connect(), this.summaryProducer.connect()]);
    await this.startBoard();
    await this.startNotifier();
    await this.startRetrier();
    this.running = true;
    this.options.log('info', 'the gate desk is open');
  }

  health(): Health {
    return { running: this.running, ...this.counts };
  }

  /** What other teams call over HTTP: flights that have left their gates. */
  async report(departures: Iterable<Departure>): Promise<void> {
    let batch: Departure[] = [];
    for (const departure of departures) {
      batch.push(departure);
      if (batch.length === REPORT_BATCH) {
        await this.send(batch);
        batch = [];
      }
    }
    if (batch.length > 0) await this.send(batch);
  }

  async stop(): Promise<void> {
    this.stopping ??= this.stopInOrder();
    return this.stopping;
  }

  private async send(batch: readonly Departure[]): Promise<void> {
    await this.producer.send({
      topic: DEPARTURES,
      compression: CompressionTypes.GZIP,
      messages: batch.map((departure) => ({
        key: departure.origin,
        value: JSON.stringify(departure),
        headers: { 'content-type': 'application/json' },
      })),
    });
    this.counts.reported += batch.length;
  }

  /** Better no gate desk than one that silently creates topics with one partition. */
  private async checkTopics(): Promise<void> {
    await this.admin.connect();
    try {
      const { topics } = await this.admin.fetchTopicMetadata({ topics: TOPICS });
      const missing = TOPICS.filter((name) => !topics.some((topic) => topic.name === name && topic.partitions.length > 0));
      if (missing.length > 0) throw new Error(`topics are missing: ${missing.join(', ')}`);
      for (const { name, partitions } of topics) this.options.log('info', `${name} has ${partitions.length} partitions`);
    } finally {
      await this.admin.disconnect();
    }
  }

  private async startBoard(): Promise<void> {
    await this.board.connect();
    await this.board.subscribe({ topics: [DEPARTURES], fromBeginning: true });
    await this.board.run({
      eachBatchAutoResolve: false,
      partitionsConsumedConcurrently: 3,
      eachBatch: (payload) => this.boardBatch(payload),
    });
  }

  private async boardBatch({ batch, resolveOffset, heartbeat, commitOffsetsIfNecessary, isRunning, isStale }: EachBatchPayload): Promise<void> {
    const changes: { key: string; value: string }[] = [];
    const notifications: { key: string; value: string; headers: IHeaders }[] = [];
    const done: string[] = [];
    for (const message of batch.messages) {
      if (!isRunning() || isStale()) break;
      const departure = this.parse(message.value);
      done.push(message.offset);
      if (!departure) {
        await this.deadLetter(message.key, message.value, 'it is no departure');
        continue;
      }
      const airport = this.airport(departure.origin);
      airport.departures++;
      if (departure.delayMinutes >= LATE_MINUTES) {
        airport.changes++;
        const gate = `${'ABCD'[airport.nextGate % 4]}${(airport.nextGate++ % 40) + 1}`;
        changes.push({ key: departure.origin, value: JSON.stringify({ flightId: departure.id, airport: departure.origin, gate }) });
      }
      if (departure.delayMinutes >= VERY_LATE_MINUTES) notifications.push({ key: departure.id, value: JSON.stringify(departure), headers: { attempt: '1' } });
    }
    await heartbeat();
    // First what follows from them, then the offsets: a crash in between sends twice rather than never.
    const topicMessages = [
      ...(changes.length > 0 ? [{ topic: CHANGES, messages: changes }] : []),
      ...(notifications.length > 0 ? [{ topic: NOTIFICATIONS, messages: notifications }] : []),
    ];
    if (topicMessages.length > 0) await this.producer.sendBatch({ topicMessages });
    for (const offset of done) resolveOffset(offset);
    await commitOffsetsIfNecessary();
    this.counts.boarded += done.length;
  }

  private async startNotifier(): Promise<void> {
    await this.notifier.connect();
    await this.notifier.subscribe({ topic: NOTIFICATIONS, fromBeginning: true });
    await this.notifier.run({ eachMessage: (payload) => this.handleNotification(payload) });
  }

  /** A pattern: there were retry topics by delay once, and there may be again. */
  private async startRetrier(): Promise<void> {
    await this.retrier.connect();
    await this.retrier.subscribe({ topics: [/^gate-desk\.retry(\..+)?$/], fromBeginning: true });
    await this.retrier.run({
      autoCommitThreshold: 50,
      eachMessage: async (payload) => {
        const dueAt = Number(this.header(payload.message.headers, 'due-at') ?? 0);
        const waitMs = dueAt - Date.now();
        if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, Math.min(waitMs, 1_000)));
        await this.handleNotification(payload);
        this.counts.retried++;
      },
    });
  }

  private async handleNotification({ topic, partition, message }: EachMessagePayload): Promise<void> {
    const attempt = Number(this.header(message.headers, 'attempt') ?? 1);
    const departure = this.parse(message.value);
    if (!departure) return this.deadLetter(message.key, message.value, 'it is no departure');
    try {
      await this.options.notify(departure, attempt);
      this.counts.notified++;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      if (attempt >= MAX_ATTEMPTS) return this.deadLetter(message.key, message.value, `${reason} (${attempt} attempts)`);
      await this.producer.send({
        topic: RETRIES,
        messages: [
          {
            key: message.key,
            value: message.value,
            headers: {
              ...message.headers,
              attempt: String(attempt + 1),
              'due-at': String(Date.now() + RETRY_DELAY_MS * attempt),
              'original-topic': topic,
              'original-partition': String(partition),
              reason,
            },
          },
        ],
      });
    }
  }

  private async deadLetter(key: Buffer | null, value: Buffer | null, reason: string): Promise<void> {
    await this.producer.send({ topic: DEAD_LETTERS, acks: -1, messages: [{ key, value, headers: { reason, service: 'gate-desk' } }] });
    this.counts.deadLettered++;
  }

  /** An airport's day is there whole, or not at all. */
  private async summarise(): Promise<void> {
    const transaction = await this.summaryProducer.transaction();
    try {
      await transaction.send({
        topic: SUMMARY,
        messages: [...this.airports].map(([airport, { departures, changes }]) => ({
          key: airport,
          value: JSON.stringify({ airport, departures, changes }),
        })),
      });
      await transaction.commit();
    } catch (error) {
      await transaction.abort();
      throw error;
    }
  }

  /** Consumers first: what their handlers still send goes out before the producers leave. */
  private async stopInOrder(): Promise<void> {
    this.running = false;
    const within = async (what: string, work: Promise<unknown>): Promise<void> => {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<'late'>((resolve) => {
        timer = setTimeout(() => resolve('late'), STOP_TIMEOUT_MS);
      });
      const ended = await Promise.race([work.then(() => 'done' as const), late]);
      clearTimeout(timer);
      if (ended === 'late') this.options.log('error', `${what} did not end within ${STOP_TIMEOUT_MS} ms`);
    };
    await within('the consumers', Promise.all([this.board, this.notifier, this.retrier].map((consumer) => consumer.disconnect())));
    if (this.airports.size > 0) await within('the summary', this.summarise());
    await within('the producers', Promise.all([this.producer.disconnect(), this.summaryProducer.disconnect()]));
    this.options.log('info', 'the gate desk is closed');
  }

  private airport(code: string): Airport {
    const airport = this.airports.get(code) ?? { departures: 0, changes: 0, nextGate: 0 };
    this.airports.set(code, airport);
    return airport;
  }

  private parse(value: Buffer | null): Departure | undefined {
    if (value === null) return undefined;
    try {
      const parsed = JSON.parse(value.toString()) as Partial<Departure>;
      return typeof parsed.id === 'string' && typeof parsed.origin === 'string' && typeof parsed.delayMinutes === 'number' ? (parsed as Departure) : undefined;
    } catch {
      return undefined;
    }
  }

  private header(headers: IHeaders | undefined, name: string): string | undefined {
    const value = headers?.[name];
    return value === undefined ? undefined : String(Array.isArray(value) ? value[0] : value);
  }
}
