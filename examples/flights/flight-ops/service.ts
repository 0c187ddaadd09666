import type { Kafka } from '@turnpike/client';
import type { FlightDeparted, flightOps } from './generated/flight-ops.ts';

/** What connect() gives this service: its own topics, and nothing else. */
export type FlightOpsKafka = Kafka<typeof flightOps.produces, typeof flightOps.consumes>;

/** Sends each departure; resolves when the broker has all of them. `around` wraps the sending of one flight: a span, say. */
export async function reportDepartures(
  kafka: FlightOpsKafka,
  flights: Iterable<FlightDeparted>,
  { around, acknowledged }: { around: (flight: FlightDeparted, send: () => Promise<unknown>) => Promise<unknown>; acknowledged: (count: number) => void },
): Promise<void> {
  const departures = kafka.producer('flights.departed');
  const outstanding = new Set<Promise<unknown>>();
  let count = 0;
  for (const flight of flights) {
    // The key is the origin, as turnpike.yaml says: flights of one airport stay in order.
    const sent = around(flight, () => departures.send(flight)).then(() => {
      outstanding.delete(sent);
      acknowledged(++count);
    });
    outstanding.add(sent);
    if (outstanding.size >= 1_000) await Promise.race(outstanding);
  }
  await Promise.all(outstanding);
}

/** Pages many crews at once. */
export async function callCrews(kafka: FlightOpsKafka, flightIds: readonly string[]): Promise<void> {
  const crews = kafka.producer('crew.called');
  await Promise.all(flightIds.map((flightId, n) => crews.send({ id: `call-${n}`, flightId })));
}
