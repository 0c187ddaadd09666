import type { SpanLine } from './report.ts';

/** The trace that goes from a departure in one service to the alert that the other sent because of it; undefined = not all of it is here yet. */
export function traceAcross(spans: readonly SpanLine[]): string | undefined {
  const alert = spans.find((s) => s.name === 'create delays.alerted');
  const whole = ['create flights.departed', 'process flights.departed', 'create delays.alerted'];
  return alert && whole.every((name) => spans.some((s) => s.traceId === alert.traceId && s.name === name)) ? alert.traceId : undefined;
}

/** A trace as a tree, and under each span the flush that carried its record: that one serves many records, so it is linked, not a child. */
export function tree(spans: readonly SpanLine[], traceId: string): string[] {
  const own = spans.filter((s) => s.traceId === traceId).sort((a, b) => a.startMs - b.startMs);
  const lines: string[] = [];
  const show = (span: SpanLine, depth: number) => {
    lines.push(line(span, depth));
    for (const flush of spans.filter((s) => s.traceId !== traceId && s.name.startsWith('send ') && s.links.some((l) => l.spanId === span.spanId)))
      lines.push(line({ ...flush, name: `~ ${flush.name} (${flush.records} records)` }, depth + 1));
    for (const child of own.filter((s) => s.parentSpanId === span.spanId)) show(child, depth + 1);
  };
  for (const root of own.filter((s) => !own.some((o) => o.spanId === s.parentSpanId))) show(root, 0);
  return lines;
}

const line = (span: SpanLine, depth: number): string => {
  const name = `${'  '.repeat(depth)}${depth > 0 ? '└ ' : ''}${span.name}`;
  return `${span.service.padEnd(14)} ${name.padEnd(46)} ${span.durationMs.toFixed(1).padStart(8)} ms`;
};
