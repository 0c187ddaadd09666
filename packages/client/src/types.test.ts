import { MemoryCluster, memoryTransport } from '@turnpike/core/memory';
import { silentLogger } from '@turnpike/core/spi';
import { describe, expect, expectTypeOf, it } from 'vitest';
import { connect } from './connect.ts';
import { type Departed, flights } from './flights.fixture.ts';

// Each "@ts-expect-error" is held by the type-check: where the compiler stops refusing the line, it refuses the comment. What is refused at run time too is asserted beside it.
const open = () =>
  connect(flights, {
    environment: 'dev',
    transport: memoryTransport({ cluster: new MemoryCluster({ topics: { 'flights.departed': 1, 'flights.landed': 1 } }) }),
    env: {},
    logger: silentLogger,
    telemetry: 'off',
    shutdownSignals: [],
  });
const departed: Departed = { id: 'f-1', origin: 'JFK', delayMinutes: 1 };

describe('the types of a connection', () => {
  it('refuse a topic that is not declared', async () => {
    await using kafka = await open();
    // @ts-expect-error weather is not among what the service produces
    expect(() => kafka.producer('weather')).toThrow(expect.objectContaining({ code: 'TOPIC_UNDECLARED' }));
    // @ts-expect-error nor among what it consumes
    expect(() => kafka.consumer(['weather'])).toThrow(expect.objectContaining({ code: 'TOPIC_UNDECLARED' }));
    // @ts-expect-error nor is the group, for this topic
    expect(() => kafka.consumer(['flights.landed'], { group: 'ops.audit' })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });

  it("refuse an event of another type than the topic's", async () => {
    await using kafka = await open();
    const producer = kafka.producer('flights.departed');
    // @ts-expect-error the delay is a number
    await expect(producer.send({ ...departed, delayMinutes: 'late' })).rejects.toMatchObject({ code: 'ENCODE_FAILED' });
    // @ts-expect-error the origin is missing
    await expect(producer.sendBatch([{ id: 'f-1', delayMinutes: 1 }])).rejects.toMatchObject({ code: 'ENCODE_FAILED' });
    // @ts-expect-error a key is a text
    await expect(producer.send(departed, { key: 7 })).rejects.toMatchObject({ code: 'ENCODE_FAILED' });
  });

  it('give a consumer the events of its topics, and null for a tombstone', async () => {
    await using kafka = await open();
    await kafka.producer('flights.departed').send(departed);
    for await (const event of kafka.consumer(['flights.departed'], { group: 'ops.stats' })) {
      expectTypeOf(event.topic).toEqualTypeOf<'flights.departed'>();
      expectTypeOf(event.value).toEqualTypeOf<Departed | null>();
      expectTypeOf(event.key).toEqualTypeOf<string | null>();
      expect(event.value).toEqual(departed);
      break;
    }
  });
});
