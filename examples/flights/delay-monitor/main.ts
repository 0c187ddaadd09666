// A service as a team would deploy it: everything that differs between environments comes from TURNPIKE_* variables. The transport is an argument here, to show each. On SIGTERM it drains, commits and leaves.
import { connect } from '@turnpike/client';
import { parentProcess } from '../quickstart/report.ts';
import { tracing } from '../quickstart/tracing.ts';
import { chosenTransport } from '../quickstart/transports.ts';
import { delayMonitor } from './generated/delay-monitor.ts';
import { runDelayMonitor } from './run.ts';

const report = parentProcess();
const { tracer } = tracing('delay-monitor', { roots: 'off', report });
await using kafka = await connect(delayMonitor, { transport: await chosenTransport(), telemetry: { tracer, parenting: 'parent' } });
await runDelayMonitor(kafka, report);
