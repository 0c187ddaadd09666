import type { GuardReport } from '@turnpike/client';
import { type Departure, LATE_MINUTES, MAX_ATTEMPTS, type Notify, VERY_LATE_MINUTES } from './service.ts';

/** The gateway of this example: of every 5th flight the first message gets lost, of every 15th all of them. */
export const gateway: Notify = async (departure, attempt) => {
  if (attempt <= failures(departure)) throw new Error('the gateway timed out');
};

function failures({ id }: Departure): number {
  const n = Number(id.slice(-5));
  if (n % 15 === 0) return MAX_ATTEMPTS;
  return n % 5 === 0 ? 1 : 0;
}

/** What the guard must count, worked out from the flights alone. */
export interface Expected {
  readonly sent: number;
  readonly consumed: number;
  readonly refused: number;
  /** Operation and name -> records: what turnpike.yaml forgets, and nothing else. */
  readonly refusals: ReadonlyMap<string, number>;
  readonly boarded: number;
  readonly notified: number;
  readonly retried: number;
  readonly deadLettered: number;
}

export function expectedOf(departures: readonly Departure[]): Expected {
  const late = departures.filter((d) => d.delayMinutes >= LATE_MINUTES).length;
  const notifications = departures.filter((d) => d.delayMinutes >= VERY_LATE_MINUTES);
  const retried = notifications.reduce((sum, d) => sum + Math.min(failures(d), MAX_ATTEMPTS - 1), 0);
  const deadLettered = notifications.filter((d) => failures(d) >= MAX_ATTEMPTS).length;
  const summaries = new Set(departures.map((d) => d.origin)).size;
  const refusals = new Map([
    ['produce passengers.notified', notifications.length],
    ['consume passengers.notified', notifications.length],
    ['join gate-desk.notify', notifications.length],
    ['produce gate-desk.retry', retried],
    ['consume gate-desk.retry', retried],
    ['join gate-desk.retry', retried],
    ['produce gate-desk.dlq', deadLettered],
    ['transact gate-desk-summary', summaries],
  ]);
  return {
    sent: departures.length + late + notifications.length + retried + deadLettered + summaries,
    consumed: departures.length + notifications.length + retried,
    // A record that is refused for its topic and for its group is one record.
    refused: 2 * notifications.length + 2 * retried + deadLettered + summaries,
    refusals,
    ...{ boarded: departures.length, notified: notifications.length - deadLettered, retried, deadLettered },
  };
}

/** How the report differs from what must be; none = as it must. */
export function differences(report: GuardReport, expected: Expected): string[] {
  const counted = new Map(report.refusals.map((r) => [`${r.operation} ${r.name}`, r.records]));
  const keys = [...new Set([...counted.keys(), ...expected.refusals.keys()])];
  return [
    ...(['sent', 'consumed', 'refused'] as const).flatMap((name) =>
      report[name] === expected[name] ? [] : [`${name}: ${report[name]}, not ${expected[name]}`],
    ),
    ...keys.flatMap((key) =>
      (counted.get(key) ?? 0) === (expected.refusals.get(key) ?? 0) ? [] : [`${key}: ${counted.get(key) ?? 0}, not ${expected.refusals.get(key) ?? 0}`],
    ),
    ...report.refusals.flatMap((r) => (r.mode === 'shadow' ? [] : [`${r.operation} ${r.name} was in mode ${r.mode}, not shadow`])),
  ];
}
