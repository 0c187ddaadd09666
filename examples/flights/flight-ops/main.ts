// A service as a team would deploy it: everything that differs between environments comes from TURNPIKE_* variables.
import { connect } from '@turnpike/client';
import { parentProcess } from '../quickstart/report.ts';
import { tracing } from '../quickstart/tracing.ts';
import { flightOps } from './generated/flight-ops.ts';
import { runFlightOps } from './run.ts';

const report = parentProcess();
const { tracer } = tracing('flight-ops', { roots: 'on', report });
await using kafka = await connect(flightOps, { telemetry: { tracer } });
await runFlightOps(kafka, { tracer, report });
