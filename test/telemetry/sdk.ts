import { createRequire } from 'node:module';
import type { OpenTelemetryOptions } from '@turnpike/telemetry';

// The SDK is a dependency of the example, not of any package: resolved from there, and described here as far as these tests look at it.
const load = createRequire(new URL('../../examples/flights/package.json', import.meta.url));

export interface SpanContext {
  readonly traceId: string;
  readonly spanId: string;
  readonly traceFlags: number;
}

export interface Span {
  readonly name: string;
  readonly kind: number;
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly links: readonly { readonly context: SpanContext }[];
  readonly status: { readonly code: number; readonly message?: string };
  readonly parentSpanContext?: SpanContext;
  readonly startTime: readonly [seconds: number, nanos: number];
  readonly endTime: readonly [seconds: number, nanos: number];
  spanContext(): SpanContext;
}

interface ActiveSpan {
  spanContext(): SpanContext;
  end(): void;
}
type Tracer = NonNullable<OpenTelemetryOptions['tracer']>;
interface Api {
  readonly context: { setGlobalContextManager(manager: unknown): boolean; disable(): void; active(): unknown; with<T>(context: unknown, f: () => T): T };
  readonly propagation: { setGlobalPropagator(propagator: unknown): boolean; disable(): void };
  readonly trace: {
    getActiveSpan(): ActiveSpan | undefined;
    setSpan(context: unknown, span: unknown): unknown;
    wrapSpanContext(context: SpanContext): unknown;
  };
  readonly ROOT_CONTEXT: unknown;
  readonly SpanKind: { readonly PRODUCER: number; readonly CONSUMER: number; readonly CLIENT: number };
  readonly SpanStatusCode: { readonly UNSET: number; readonly ERROR: number };
}
interface Sdk {
  readonly InMemorySpanExporter: new () => { getFinishedSpans(): Span[]; reset(): void };
  readonly SimpleSpanProcessor: new (options: unknown) => unknown;
  readonly BasicTracerProvider: new (options: unknown) => { getTracer(name: string): Tracer; shutdown(): Promise<void> };
  readonly AlwaysOffSampler: new () => unknown;
}

export const { context, propagation, trace, ROOT_CONTEXT, SpanKind, SpanStatusCode } = load('@opentelemetry/api') as Api;
const { InMemorySpanExporter, SimpleSpanProcessor, BasicTracerProvider, AlwaysOffSampler } = load('@opentelemetry/sdk-trace-base') as Sdk;
const { AsyncLocalStorageContextManager } = load('@opentelemetry/context-async-hooks') as {
  readonly AsyncLocalStorageContextManager: new () => { enable(): unknown };
};
const { CompositePropagator, W3CBaggagePropagator, W3CTraceContextPropagator } = load('@opentelemetry/core') as Readonly<
  Record<string, new (options?: unknown) => unknown>
>;

/** The SDK with everything in memory. Its tracer is given to the telemetry; context and propagation are global, as the API has them. */
export function tracing() {
  const exporter = new InMemorySpanExporter();
  const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
  const unsampled = new BasicTracerProvider({ sampler: new AlwaysOffSampler() });
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  const propagators = [W3CTraceContextPropagator, W3CBaggagePropagator].map((P) => P && new P());
  if (CompositePropagator) propagation.setGlobalPropagator(new CompositePropagator({ propagators }));
  const under = <T>(tracer: Tracer, f: () => T): T => {
    const span = tracer.startSpan('application') as unknown as ActiveSpan;
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
    spans: (prefix = ''): Span[] => exporter.getFinishedSpans().filter((s) => s.name.startsWith(prefix)),
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
