import { context, propagation, ROOT_CONTEXT, type Tracer, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { CompositePropagator, W3CBaggagePropagator, W3CTraceContextPropagator } from '@opentelemetry/core';
import { AlwaysOffSampler, InMemorySpanExporter, type ReadableSpan, SimpleSpanProcessor, TracerProvider } from '@opentelemetry/sdk-trace';
import type { OpenTelemetryOptions } from '@turnpike/telemetry';

/** The SDK with everything in memory. Its tracer is given to the telemetry; context and propagation are global, as the API has them. */
export function tracing() {
  const exporter = new InMemorySpanExporter();
  const provider = new TracerProvider({ spanProcessors: [new SimpleSpanProcessor({ exporter })] });
  const unsampled = new TracerProvider({ sampler: new AlwaysOffSampler() });
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  propagation.setGlobalPropagator(new CompositePropagator({ propagators: [new W3CTraceContextPropagator(), new W3CBaggagePropagator()] }));
  const under = <T>(tracer: Tracer, f: () => T): T => {
    const span = tracer.startSpan('application');
    try {
      return context.with(trace.setSpan(ROOT_CONTEXT, span), f);
    } finally {
      span.end();
    }
  };
  return {
    tracer: provider.getTracer('turnpike'),
    /** Runs inside a span of the application's that records. */
    recording: <T>(f: () => T): T => under(provider.getTracer('application'), f),
    /** Runs inside a span that the sampler has dropped. */
    dropped: <T>(f: () => T): T => under(unsampled.getTracer('application'), f),
    spans: (prefix = ''): ReadableSpan[] => exporter.getFinishedSpans().filter((s) => s.name.startsWith(prefix)),
    reset: () => exporter.reset(),
    async [Symbol.asyncDispose]() {
      context.disable();
      propagation.disable();
      await Promise.all([provider.shutdown(), unsampled.shutdown()]);
    },
  };
}

export interface Measurement {
  readonly instrument: string;
  readonly value: number;
  readonly attributes: Readonly<Record<string, unknown>>;
}

/** A meter that keeps what it is told; no metrics SDK is installed. */
export function recordingMeter() {
  const instruments = new Map<string, { readonly kind: string; readonly unit?: string; readonly advice?: unknown }>();
  const measured: Measurement[] = [];
  const make = (kind: string) => (name: string, options: { readonly unit?: string; readonly advice?: unknown }) => {
    instruments.set(name, { kind, ...options });
    const add = (value: number, attributes: Measurement['attributes']) => void measured.push({ instrument: name, value, attributes });
    return { add, record: add };
  };
  const meter = { createHistogram: make('histogram'), createCounter: make('counter') } as unknown as NonNullable<OpenTelemetryOptions['meter']>;
  return { meter, instruments, measured, of: (instrument: string) => measured.filter((m) => m.instrument === instrument) };
}
