const BYTES: Readonly<Record<string, number>> = { B: 1, kB: 1e3, KB: 1e3, MB: 1e6, GB: 1e9, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3, '': 1 };
const MILLISECONDS: Readonly<Record<string, number>> = { ms: 1, s: 1e3, m: 60e3, h: 3600e3, d: 86_400e3 };

/** "5MiB/s" -> bytes a second; undefined = it isn't one. */
export function bytesPerSecond(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)\/s$/.exec(text.trim());
  const unit = BYTES[match?.[2] ?? '-'];
  return match && unit !== undefined ? Math.floor(Number(match[1]) * unit) : undefined;
}

/** "2000/s" -> records a second. */
export function recordsPerSecond(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\/s$/.exec(text.trim());
  return match ? Number(match[1]) : undefined;
}

/** "72h" -> ms; "forever" -> -1, as Kafka has it. */
export function durationMs(text: string): number | undefined {
  if (text.trim() === 'forever') return -1;
  const match = /^(\d+)\s*(ms|s|m|h|d)$/.exec(text.trim());
  const unit = MILLISECONDS[match?.[2] ?? '-'];
  return match && unit !== undefined ? Number(match[1]) * unit : undefined;
}
