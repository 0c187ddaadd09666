/** A finished span, as far as a tree of them is printed. */
export interface SpanLine {
  readonly service: string;
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId: string | undefined;
  readonly links: readonly { readonly traceId: string; readonly spanId: string }[];
  readonly records: number | undefined;
  readonly startMs: number;
  readonly durationMs: number;
}

/** What the two services tell the quickstart. */
export type Message =
  | { readonly kind: 'ready' }
  | { readonly kind: 'produced'; readonly count: number; readonly ms: number }
  | { readonly kind: 'departed'; readonly ms: number }
  | { readonly kind: 'refused'; readonly what: 'undeclared' | 'ungranted'; readonly code: string; readonly message: string }
  | { readonly kind: 'burst'; readonly records: number; readonly ms: number }
  | { readonly kind: 'handled'; readonly ids: readonly string[] }
  | { readonly kind: 'span'; readonly span: SpanLine };

export type Report = (message: Message) => void;

/** Tells the process that started this one, if one did. When that one is gone, this one drains and ends too. */
export function parentProcess(): Report {
  process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'));
  process.channel?.unref();
  return (message) => {
    if (process.connected) process.send?.(message);
  };
}
