import { Airport } from '../delay-monitor/service.ts';
import type { FlightDeparted } from '../flight-ops/generated/flight-ops.ts';

export interface Verdict {
  /** Distinct event ids in the log. */
  readonly produced: number;
  /** Distinct event ids that the handler was given. */
  readonly consumed: number;
  /** Ids of the file that are missing in the log or at the handler. */
  readonly lost: number;
  /** Records in the log, and calls of the handler, beyond one for each id. */
  readonly duplicated: number;
}

export function verdict(flights: readonly FlightDeparted[], log: readonly string[], handled: ReadonlyMap<string, number>): Verdict {
  const stored = new Set(log);
  const twiceHandled = [...handled.values()].reduce((sum, times) => sum + times - 1, 0);
  return {
    produced: stored.size,
    consumed: handled.size,
    lost: flights.filter(({ id }) => !stored.has(id) || !handled.has(id)).length,
    duplicated: log.length - stored.size + twiceHandled,
  };
}

/** How many alerts there must be, were each airport's flights handled in their order. */
export function expectedAlerts(flights: readonly FlightDeparted[]): number {
  const airports = new Map<string, Airport>();
  let alerts = 0;
  for (const { origin, delayMinutes } of flights) {
    const airport = airports.get(origin) ?? new Airport();
    airports.set(origin, airport);
    if (airport.depart(delayMinutes) !== undefined) alerts++;
  }
  return alerts;
}
