import { readFileSync } from 'node:fs';
import type { FlightDeparted } from '../flight-ops/generated/flight-ops.ts';

interface Row {
  readonly date: string;
  readonly delay: number;
  readonly distance: number;
  readonly origin: string;
  readonly destination: string;
}

/** 20,000 flights within the United States in 2001, from npm's vega-datasets. Each gets an id of its own: its place in the file. */
export function flights(): readonly FlightDeparted[] {
  const file = new URL('../data/flights-20k.json', import.meta.resolve('vega-datasets'));
  const rows = JSON.parse(readFileSync(file, 'utf8')) as readonly Row[];
  return rows.map(({ date, delay, distance, origin, destination }, n) => ({
    id: `${origin}-${destination}-${String(n).padStart(5, '0')}`,
    origin,
    destination,
    scheduled: date.replaceAll('/', '-').replace(' ', 'T'),
    delayMinutes: delay,
    distanceMiles: distance,
  }));
}

/** Few enough to trace each. */
export const isVeryLate = (flight: FlightDeparted): boolean => flight.delayMinutes >= 180;
