// One trace through a producer, a consumer and what its handler sends on: what the layers make of telemetry together.
import type { ReadableSpan } from '@opentelemetry/sdk-trace';
import { connect } from '@turnpike/client';
import { avroCodec, defineService, type TopicContract } from '@turnpike/client/generated';
import { MemoryCluster, memoryTransport } from '@turnpike/core/memory';
import { silentLogger } from '@turnpike/core/spi';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { recordingMeter, tracing } from './sdk.ts';

interface Seen {
  id: string;
}

function topic(name: string): TopicContract<Seen, Seen, string> {
  const schema = { subject: `${name}-value`, sha256: name };
  const text = JSON.stringify({ type: 'record', name: 'Seen', fields: [{ name: 'id', type: 'string' }] });
  return {
    name,
    cluster: 'local',
    key: { format: 'string', of: (e) => e.id },
    value: { format: 'avro', schema, text, codec: () => avroCodec<Seen>(schema, text) },
  };
}

const relay = defineService({
  name: 'relay',
  team: 'test',
  environments: { dev: { principals: ['relay'] } },
  rootKeys: [],
  produces: { in: topic('in'), out: topic('out') },
  consumes: { in: { topic: topic('in'), groups: ['relay.in'] } },
});

let sdk: ReturnType<typeof tracing>;
beforeEach(() => {
  sdk = tracing();
});
afterEach(() => sdk[Symbol.asyncDispose]());

const open = (cluster: MemoryCluster, meter = recordingMeter()) =>
  connect(relay, {
    transport: memoryTransport({ cluster }),
    env: {},
    logger: silentLogger,
    shutdownSignals: [],
    telemetry: { tracer: sdk.tracer, meter: meter.meter },
  });

const linked = (span: ReadableSpan | undefined) => span?.links.map((l) => l.context.spanId);
const idOf = (span: ReadableSpan | undefined) => span?.spanContext().spanId;

it('joins both sides: the process span links to the create span, and what the handler sends hangs under it', async () => {
  const cluster = new MemoryCluster({ topics: { in: 1, out: 1 } });
  {
    await using kafka = await open(cluster);
    await sdk.recording(() => kafka.producer('in').send({ id: 'a' }));
    const handled = Promise.withResolvers<void>();
    void kafka.consumer(['in']).run(async (event) => {
      if (event.value) await kafka.producer('out').send(event.value);
      handled.resolve();
    });
    await handled.promise;
  }
  const [created] = sdk.spans('create in');
  const [sent] = sdk.spans('send in');
  const processed = sdk.spans('process in').at(-1);
  const passedOn = sdk.spans('create out').at(-1);
  expect(linked(sent)).toEqual([idOf(created)]);
  expect(linked(processed)).toEqual([idOf(created)]);
  expect(linked(sdk.spans('poll in')[0])).toEqual([idOf(created)]);
  expect(passedOn?.parentSpanContext?.spanId).toBe(idOf(processed));
  expect(sdk.spans('commit in')).not.toEqual([]);
  for (const span of sdk.spans().filter((s) => s.name !== 'application'))
    expect(span.attributes).toMatchObject({ 'messaging.system': 'kafka', 'messaging.client.id': 'relay' });
});

it('counts each record once on its way out and once on its way in', async () => {
  const cluster = new MemoryCluster({ topics: { in: 1, out: 1 } });
  const meter = recordingMeter();
  {
    await using kafka = await open(cluster, meter);
    await kafka.producer('in').sendBatch([{ id: 'a' }, { id: 'b' }, { id: 'c' }]);
    let left = 3;
    const all = Promise.withResolvers<void>();
    void kafka.consumer(['in']).run(() => {
      if (--left === 0) all.resolve();
    });
    await all.promise;
  }
  const total = (instrument: string) => meter.of(instrument).reduce((sum, m) => sum + m.value, 0);
  expect(total('messaging.client.sent.messages')).toBe(3);
  expect(total('messaging.client.consumed.messages')).toBe(3);
  expect(meter.of('messaging.process.duration')).toHaveLength(3);
  expect(cluster.records('in').every((r) => (r.headers ?? []).length === 0)).toBe(true); // Nothing was traced, so nothing travels.
});
