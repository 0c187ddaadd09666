import type { Kafka } from '@turnpike/client';
import type { delayMonitor } from './generated/delay-monitor.ts';

export type DelayMonitorKafka = Kafka<typeof delayMonitor.produces, typeof delayMonitor.consumes>;

const LAST = 10;
const LATE_MINUTES = 30;
const CALM_MINUTES = 15;

/** The last departures of one airport. */
export class Airport {
  departures = 0;
  readonly #last: number[] = [];
  #late = false;

  /** The mean delay, where this departure makes the airport late; undefined = it is not, or was so before. */
  depart(delayMinutes: number): number | undefined {
    this.departures++;
    this.#last.push(delayMinutes);
    if (this.#last.length > LAST) this.#last.shift();
    if (this.#last.length < LAST) return undefined;
    const mean = this.#last.reduce((sum, d) => sum + d, 0) / LAST;
    if (mean < CALM_MINUTES) this.#late = false;
    if (this.#late || mean < LATE_MINUTES) return undefined;
    this.#late = true;
    return mean;
  }
}

/** Watches departures until the connection closes. Delivery is at least once, so an event that comes again is told by its id. */
export async function watchDelays(kafka: DelayMonitorKafka, handled: (flightId: string) => void): Promise<void> {
  const airports = new Map<string, Airport>();
  const seen = new Set<string>();
  const alerts = kafka.producer('delays.alerted');
  await kafka.consumer(['flights.departed']).run(async ({ value: flight }) => {
    if (flight === null) return;
    handled(flight.id);
    if (seen.has(flight.id)) return;
    seen.add(flight.id);
    const airport = airports.get(flight.origin) ?? new Airport();
    airports.set(flight.origin, airport);
    const mean = airport.depart(flight.delayMinutes);
    if (mean === undefined) return;
    await alerts.send({ airport: flight.origin, meanDelayMinutes: mean, departures: airport.departures, flightId: flight.id });
  });
}
