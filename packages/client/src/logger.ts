import type { Logger } from '@turnpike/core/spi';

/** Warnings and errors as JSON lines on stderr, where a container's logs are collected. */
export function stderrLogger(write: (line: string) => void = (line) => void process.stderr.write(line)): Logger {
  const at =
    (level: string) =>
    (event: string, facts: Readonly<Record<string, unknown>> = {}) =>
      write(`${line({ time: new Date().toISOString(), level, event: `turnpike.${event}` }, facts)}\n`);
  return { debug: () => {}, info: () => {}, warn: at('warn'), error: at('error') };
}

/** Never throws: a fact that JSON can't hold is left out, not the line. */
function line(head: Readonly<Record<string, string>>, facts: Readonly<Record<string, unknown>>): string {
  try {
    return JSON.stringify({ ...head, ...facts, ...head }, (_, v: unknown) => (typeof v === 'bigint' ? String(v) : v instanceof Error ? v.message : v));
  } catch {
    return JSON.stringify({ ...head, facts: Object.keys(facts) });
  }
}
