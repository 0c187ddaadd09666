const BYTES: Readonly<Record<string, number>> = { B: 1, kB: 1e3, KB: 1e3, MB: 1e6, GB: 1e9, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3, '': 1 };
const MILLISECONDS: Readonly<Record<string, number>> = { ms: 1, s: 1e3, m: 60e3, h: 3600e3, d: 86_400e3 };

/** "5MiB/s" -> bytes a second; undefined = it isn't one, or nothing could ever pass. */
export function bytesPerSecond(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)\/s$/.exec(text.trim());
  const unit = BYTES[match?.[2] ?? '-'];
  if (!match || unit === undefined) return undefined;
  const bytes = Math.floor(Number(match[1]) * unit);
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : undefined;
}

/** "2000/s" -> records a second. */
export function recordsPerSecond(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\/s$/.exec(text.trim());
  const records = Number(match?.[1] ?? 0);
  return records > 0 && records <= Number.MAX_SAFE_INTEGER ? records : undefined;
}

/** "2s" -> ms; undefined = it isn't one, or no time at all. */
export function durationMs(text: string): number | undefined {
  const match = /^(\d+)\s*(ms|s|m|h|d)$/.exec(text.trim());
  const unit = MILLISECONDS[match?.[2] ?? '-'];
  if (!match || unit === undefined) return undefined;
  const ms = Number(match[1]) * unit;
  return Number.isSafeInteger(ms) && ms > 0 ? ms : undefined;
}

/** As durationMs; "forever" -> -1, as Kafka has it. */
export const retentionMs = (text: string): number | undefined => (text.trim() === 'forever' ? -1 : durationMs(text));
