// A service as a team would deploy it: everything that differs between environments comes from TURNPIKE_* variables. The transport is an argument here, to show each.
import { connect } from '@turnpike/client';
import { parentProcess } from '../quickstart/report.ts';
import { tracing } from '../quickstart/tracing.ts';
import { chosenTransport } from '../quickstart/transports.ts';
import { flightOps } from './generated/flight-ops.ts';
import { runFlightOps } from './run.ts';

const report = parentProcess();
const { tracer } = tracing('flight-ops', { roots: 'on', report });
await using kafka = await connect(flightOps, { transport: await chosenTransport(), telemetry: { tracer } });
await runFlightOps(kafka, { tracer, report });
