import type { Report } from '../quickstart/report.ts';
import { type DelayMonitorKafka, watchDelays } from './service.ts';

/** Runs until the connection closes, and reports the id of every event that its handler was given: twice where it came twice. */
export async function runDelayMonitor(kafka: DelayMonitorKafka, report: Report): Promise<void> {
  let ids: string[] = [];
  const tell = () => {
    if (ids.length > 0) report({ kind: 'handled', ids });
    ids = [];
  };
  const timer = setInterval(tell, 100);
  try {
    report({ kind: 'ready' });
    await watchDelays(kafka, (id) => {
      if (ids.push(id) >= 500) tell();
    });
  } finally {
    clearInterval(timer);
    tell();
  }
}
