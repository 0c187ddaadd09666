import type { Tracer } from '@opentelemetry/api';
import { isTurnpikeError } from '@turnpike/client';
import { flights, isVeryLate } from '../quickstart/flights.ts';
import type { Report } from '../quickstart/report.ts';
import { callCrews, type FlightOpsKafka, reportDepartures } from './service.ts';

/** A burst of so many pages meets a quota of 200 a second. */
export const CREW_CALLS = 600;

/** What the quickstart has this service do, with a report of each part. */
export async function runFlightOps(kafka: FlightOpsKafka, { tracer, report }: { readonly tracer: Tracer; readonly report: Report }): Promise<void> {
  const started = performance.now();
  await reportDepartures(kafka, flights(), {
    around: (flight, send) =>
      isVeryLate(flight) ? tracer.startActiveSpan(`late departure from ${flight.origin}`, (span) => send().finally(() => span.end())) : send(),
    acknowledged: (count) => {
      if (count % 2_000 === 0) report({ kind: 'produced', count, ms: performance.now() - started });
    },
  });
  report({ kind: 'departed', ms: performance.now() - started });

  // Types refuse this at compile time; who gets past them is refused here.
  report({ kind: 'refused', what: 'undeclared', ...(await refusal(() => kafka.producer('flights.diverted' as 'flights.departed').send({} as never))) });
  // Declared in turnpike.yaml, not yet in the grant.
  const cancelled = { id: 'c-1', origin: 'SEA', reason: 'WEATHER' } as const;
  report({ kind: 'refused', what: 'ungranted', ...(await refusal(() => kafka.producer('flights.cancelled').send(cancelled))) });

  const burst = performance.now();
  await callCrews(
    kafka,
    Array.from({ length: CREW_CALLS }, (_, n) => `flight-${n}`),
  );
  report({ kind: 'burst', records: CREW_CALLS, ms: performance.now() - burst });
}

async function refusal(attempt: () => Promise<unknown>): Promise<{ readonly code: string; readonly message: string }> {
  try {
    await attempt();
    return { code: 'none', message: 'it went through' };
  } catch (error) {
    if (isTurnpikeError(error)) return { code: error.code, message: error.message };
    throw error;
  }
}
