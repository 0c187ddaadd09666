import { readdirSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** What this process holds. Threads and file descriptors are those of native libraries too, and known on Linux only. */
export interface Resources {
  /** Handles and requests that keep the event loop alive, by their kind. */
  readonly active: Readonly<Record<string, number>>;
  readonly files: number | undefined;
  readonly threads: number | undefined;
}

export function resources(): Resources {
  const active: Record<string, number> = {};
  for (const kind of process.getActiveResourcesInfo()) active[kind] = (active[kind] ?? 0) + 1;
  return { active, files: entries('/proc/self/fd'), threads: entries('/proc/self/task') };
}

/** What there is more of than before; [] = all is back to the start. */
export function grown(before: Resources, now: Resources): readonly string[] {
  const found = Object.entries(now.active)
    .filter(([kind, count]) => count > (before.active[kind] ?? 0))
    .map(([kind, count]) => `${kind}: ${before.active[kind] ?? 0} -> ${count}`);
  if ((now.files ?? 0) > (before.files ?? 0)) found.push(`file descriptors: ${before.files} -> ${now.files}`);
  if ((now.threads ?? 0) > (before.threads ?? 0)) found.push(`threads: ${before.threads} -> ${now.threads}`);
  return found;
}

/** Bytes that live JavaScript objects hold, on the heap and beside it, after a collection. */
export async function liveBytes(): Promise<number> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  // Finalizers run between two turns, and free what the next collection takes.
  for (let turn = 0; turn < 4; turn++) {
    collect();
    await new Promise((resolve) => setImmediate(resolve));
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

function entries(folder: string): number | undefined {
  try {
    return readdirSync(folder).length;
  } catch {
    return undefined;
  }
}
