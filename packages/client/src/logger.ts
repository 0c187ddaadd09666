import type { Logger } from '@turnpike/core/spi';

/** Warnings and errors as JSON lines on stderr, where a container's logs are collected. */
export function stderrLogger(write: (line: string) => void = (line) => void process.stderr.write(line)): Logger {
  const at =
    (level: string) =>
    (event: string, facts: Readonly<Record<string, unknown>> = {}) =>
      write(
        `${JSON.stringify({ time: new Date().toISOString(), level, event: `turnpike.${event}`, ...facts }, (_, v) => (typeof v === 'bigint' ? String(v) : v))}\n`,
      );
  return { debug: () => {}, info: () => {}, warn: at('warn'), error: at('error') };
}
