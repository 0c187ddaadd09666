import { context, type HrTime, propagation, type Tracer } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { W3CTraceContextPropagator } from '@opentelemetry/core';
import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  ParentBasedSampler,
  type ReadableSpan,
  SimpleSpanProcessor,
  type SpanExporter,
  TracerProvider,
} from '@opentelemetry/sdk-trace';
import type { Report } from './report.ts';

/** OpenTelemetry for one service. `roots`: whether spans without a parent are recorded; one with a sampled parent always is. */
export function tracing(service: string, { roots, report }: { readonly roots: 'on' | 'off'; readonly report: Report }): { readonly tracer: Tracer } {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  propagation.setGlobalPropagator(new W3CTraceContextPropagator());
  const exporter: SpanExporter = {
    export(spans, done) {
      for (const span of spans) report({ kind: 'span', span: lineOf(service, span) });
      done({ code: 0 });
    },
    shutdown: async () => {},
  };
  const sampler = new ParentBasedSampler({ root: roots === 'on' ? new AlwaysOnSampler() : new AlwaysOffSampler() });
  const provider = new TracerProvider({ sampler, spanProcessors: [new SimpleSpanProcessor({ exporter })] });
  return { tracer: provider.getTracer('flights') };
}

const ms = ([seconds, nanos]: HrTime): number => seconds * 1e3 + nanos / 1e6;

function lineOf(service: string, span: ReadableSpan) {
  const { traceId, spanId } = span.spanContext();
  const records = span.attributes['messaging.batch.message_count'];
  return {
    service,
    name: span.name,
    traceId,
    spanId,
    parentSpanId: span.parentSpanContext?.spanId,
    links: span.links.map((l) => ({ traceId: l.context.traceId, spanId: l.context.spanId })),
    records: typeof records === 'number' ? records : undefined,
    startMs: ms(span.startTime),
    durationMs: ms(span.duration),
  };
}
