import { MemoryCluster, memoryTransport } from '@turnpike/core/memory';
import type { Logger } from '@turnpike/core/spi';
import { silentLogger } from '@turnpike/core/spi';
import { describe, expect, it } from 'vitest';
import { connect } from './connect.ts';
import { type Departed, flights } from './flights.fixture.ts';
import type { ConnectOptions } from './settings.ts';

const departed = (n: number): Departed => ({ id: `f-${n}`, origin: 'JFK', delayMinutes: n });

function local(options: ConnectOptions = {}) {
  const cluster = new MemoryCluster({ topics: { 'flights.departed': 3, 'flights.landed': 2 } });
  const connecting = connect(flights, {
    environment: 'dev',
    transport: memoryTransport({ cluster }),
    env: {},
    logger: silentLogger,
    telemetry: 'off',
    shutdownSignals: [],
    ...options,
  });
  return { cluster, connecting };
}

describe('connect', () => {
  it('produces and consumes typed events through every layer', async () => {
    const { connecting, cluster } = local();
    await using kafka = await connecting;
    expect(kafka.principal).toBe('flight-ops-dev');
    const sent = await kafka.producer('flights.departed').send(departed(1), { headers: { source: 'test' } });
    expect(sent).toMatchObject({ topic: 'flights.departed', offset: 0n });
    // Confluent's frame: magic 0 and the schema's id.
    expect(cluster.records('flights.departed')[0]?.value?.subarray(0, 1)).toEqual(Buffer.from([0]));
    for await (const event of kafka.consumer(['flights.departed'], { group: 'ops.audit' })) {
      expect(event.value).toEqual(departed(1));
      expect(event.key).toBe('JFK');
      expect(event.headers.text('source')).toBe('test');
      break;
    }
  });

  it('takes the only group, and asks which where there are several', async () => {
    const { connecting } = local();
    await using kafka = await connecting;
    expect(kafka.consumer(['flights.landed']).group).toBe('ops.stats');
    expect(() => kafka.consumer(['flights.departed'])).toThrow(/declares the groups ops\.audit, ops\.stats for flights\.departed; say which/);
    expect(() => kafka.consumer(['flights.landed'], { group: 'ops.audit' as 'ops.stats' })).toThrow(
      /declares no group ops\.audit for flights\.landed; it has ops\.stats/,
    );
  });

  it('refuses an undeclared topic at run time too, and names what is declared', async () => {
    const { connecting } = local();
    await using kafka = await connecting;
    expect(() => kafka.producer('weather' as 'flights.departed')).toThrow(
      /\[TOPIC_UNDECLARED\] flight-ops produces flights\.departed, flights\.landed, not weather\. Declare it under produces/,
    );
    expect(() => kafka.consumer(['weather' as 'flights.departed'])).toThrow(expect.objectContaining({ code: 'TOPIC_UNDECLARED' }));
  });

  it('refuses one topic where an array is asked for, and shows how to write it', async () => {
    const { connecting } = local();
    await using kafka = await connecting;
    expect(() => kafka.consumer('flights.landed' as never)).toThrow("[CONFIG_INVALID] consumer() takes an array of topics: consumer(['flights.landed']).");
    expect(() => kafka.consumer(undefined as never)).toThrow('[CONFIG_INVALID] consumer() takes an array of topics.');
  });

  it('still closes, with the connection, a consumer whose first handler was no function', async () => {
    const { connecting } = local();
    const kafka = await connecting;
    const consumer = kafka.consumer(['flights.landed']);
    await expect(consumer.run('x' as never)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(consumer.runBatch('x' as never)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(consumer.runBatch(() => {}, { maxBatchRecords: 0 })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    const running = consumer.run(() => {});
    await kafka.close();
    await running;
  });

  it('refuses a consumer over two clusters', async () => {
    const { connecting } = local();
    await using kafka = await connecting;
    expect(() => kafka.consumer(['flights.departed', 'flights.landed'], { group: 'ops.stats' })).toThrow(
      /on the cluster airside and flights\.landed on landside/,
    );
  });

  it('fails at connect() when a declared topic is missing, not at its first event', async () => {
    await expect(local({ transport: memoryTransport({ cluster: new MemoryCluster({ topics: { 'flights.departed': 1 } }) }) }).connecting).rejects.toMatchObject(
      { code: 'TOPIC_UNKNOWN', facts: { topic: 'flights.landed' } },
    );
  });

  it('sends batches and tombstones, flushes, and refuses after close()', async () => {
    const { connecting, cluster } = local();
    const kafka = await connecting;
    const producer = kafka.producer('flights.departed');
    expect(await producer.sendBatch([departed(1), departed(2)])).toHaveLength(2);
    await producer.tombstone('JFK');
    await kafka.flush();
    await kafka.close();
    expect(cluster.records('flights.departed').map((r) => r.value === null)).toEqual([false, false, true]);
    await expect(producer.send(departed(3))).rejects.toMatchObject({ code: 'CLOSED', written: 'no' });
    expect(() => kafka.producer('flights.departed')).toThrow(expect.objectContaining({ code: 'CLOSED' }));
  });

  it('closes consumers before it flushes producers: what a handler sends last is not lost', async () => {
    const { connecting, cluster } = local();
    const kafka = await connecting;
    await kafka.producer('flights.departed').send(departed(1));
    const { promise: handling, resolve: handled } = Promise.withResolvers<void>();
    const running = kafka.consumer(['flights.departed'], { group: 'ops.audit' }).run(async (event) => {
      handled();
      await new Promise((resolve) => setTimeout(resolve, 20));
      await kafka.producer('flights.landed').send(event.value as Departed);
    });
    await handling;
    await kafka.close();
    await running;
    expect(cluster.records('flights.landed')).toHaveLength(1);
  });

  it('runBatch() gives arrays of typed events, at most so many, and commits them when they are handled', async () => {
    const { connecting, cluster } = local();
    const kafka = await connecting;
    await kafka.producer('flights.departed').sendBatch([departed(1), departed(2), departed(3)], { partition: 0 });
    const flights: string[][] = [];
    const consumer = kafka.consumer(['flights.departed'], { group: 'ops.audit' });
    const running = consumer.runBatch((events) => void flights.push(events.map((e) => `${e.offset} ${e.value?.id}`)), { maxBatchRecords: 2 });
    await expect.poll(() => flights.flat()).toHaveLength(3);
    expect(flights).toEqual([[`0 ${departed(1).id}`, `1 ${departed(2).id}`], [`2 ${departed(3).id}`]]);
    await kafka.close();
    await running;
    expect(cluster.group('ops.audit').committed.get('flights.departed/0')?.offset).toBe(3n);
  });

  it.each<[string, ConnectOptions, string, RegExp]>([
    ['no environment', { environment: undefined as never }, 'CONFIG_INVALID', /set TURNPIKE_ENV to one of dev, prod/],
    ['an unknown environment', { environment: 'staging' }, 'CONFIG_INVALID', /no environment "staging"; turnpike\.yaml has dev, prod/],
    ['a misspelt option', { registryUrl: 'x' } as object, 'CONFIG_INVALID', /connect\.registryUrl is not an option/],
    [
      'a principal of another environment',
      { environment: 'prod', identity: { kind: 'none', principal: 'flight-ops-dev' } as never },
      'PRINCIPAL_MISMATCH',
      /proves flight-ops-dev, but turnpike\.yaml lets flight-ops run in prod as spiffe:/,
    ],
    ['no identity on a real transport', { transport: undefined as never }, 'CONFIG_INVALID', /No identity: set TURNPIKE_TLS_CERT/],
    ['half an identity', { env: { TURNPIKE_TLS_CERT: '/c.pem' } }, 'CONFIG_INVALID', /TURNPIKE_TLS_CERT is set but TURNPIKE_TLS_KEY is not/],
    [
      'two identities',
      { env: { TURNPIKE_TLS_CERT: '/c.pem', TURNPIKE_TOKEN_URL: 'https://i/t', TURNPIKE_CLIENT_SECRET_FILE: '/s' } },
      'CONFIG_INVALID',
      /both set/,
    ],
    [
      'OAuth without a secret',
      { env: { TURNPIKE_TOKEN_URL: 'https://i/t', TURNPIKE_CLIENT_ID: 'x' } },
      'CONFIG_INVALID',
      /exactly one of TURNPIKE_CLIENT_SECRET_FILE/,
    ],
    ['a grant that is not there', { grant: '/nowhere/grant.jwt' }, 'GRANT_MISSING', /\/nowhere\/grant\.jwt can't be read/],
    ['a grant by URL', { grant: 'https://grants/x' }, 'CONFIG_INVALID', /a grant is read from a file/],
    ['descriptors that are not there', { clusters: '/nowhere/clusters.json' }, 'CONFIG_INVALID', /\/nowhere\/clusters\.json can't be read as JSON/],
    [
      'a cluster without a descriptor',
      { clusters: [{ name: 'airside', epoch: 1, primary: { id: '', bootstrap: {} } }] },
      'CONFIG_INVALID',
      /No descriptor for the cluster landside \(there are: airside\)/,
    ],
    [
      'a wrong cluster behind the address',
      { clusters: ['airside', 'landside'].map((name) => ({ name, epoch: 1, primary: { id: 'other', bootstrap: {} } })) },
      'CLUSTER_MISMATCH',
      /should be cluster other, but memory answers/,
    ],
    ['acks that contradict', { producer: { acks: 1 } }, 'CONFIG_INVALID', /producer\.acks is 1 but idempotent/],
    ['compression that the transport lacks', { producer: { compression: 'zstd' } }, 'CAPABILITY_MISSING', /no zstd compression/],
    ['a group protocol that it lacks', { consumer: { groupProtocol: 'consumer' } }, 'CAPABILITY_MISSING', /no KIP-848 groups/],
    ['a static member where it has none', { consumer: { instanceId: 'pod-0' } }, 'CAPABILITY_MISSING', /no static membership/],
  ])('refuses %s and says what to do', async (_what, options, code, message) => {
    const error = await local(options).connecting.then(
      () => undefined,
      (e: unknown) => e,
    );
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it('TURNPIKE_ENV is read where the option is absent, and an empty variable is one that is not set', async () => {
    await using kafka = await local({ environment: undefined as never, env: { TURNPIKE_ENV: 'dev', TURNPIKE_GRANT: '' } }).connecting;
    expect(kafka.environment).toBe('dev');
  });

  it('says once in its log that telemetry fails, and goes on without', async () => {
    const warned: string[] = [];
    const startSpan = () => {
      throw new Error('the exporter is gone');
    };
    const { connecting } = local({
      telemetry: { tracer: { startSpan, startActiveSpan: startSpan } },
      logger: { ...silentLogger, warn: (event, facts) => void warned.push(`${event}: ${String(facts?.message)}`) },
    });
    await using kafka = await connecting;
    const producer = kafka.producer('flights.departed');
    await producer.send(departed(1));
    await producer.send(departed(2));
    expect(warned).toEqual(['telemetry.failed: the exporter is gone']);
  });

  it('logs JSON lines of warnings on stderr by default, never what a logger would choke on', async () => {
    const { stderrLogger } = await import('./logger.ts');
    const lines: string[] = [];
    const logger: Logger = stderrLogger((line) => lines.push(line));
    logger.debug('hidden');
    logger.warn('consumer.slow', { offset: 12n, topic: 't' });
    expect(lines).toHaveLength(1);
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({ level: 'warn', event: 'turnpike.consumer.slow', offset: '12', topic: 't' });
  });
});
