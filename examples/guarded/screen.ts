import type { Guarded, GuardReport } from '@turnpike/client';

// 80 columns.

export const say = (what: string, text = '') => {
  for (const [i, line] of wrapped(text, 66).entries()) console.log(`${(i === 0 ? what : '').padEnd(12)}  ${line}`.trimEnd());
};

export function title(text: string): void {
  console.log(`\n${text}`);
}

export function showLimits({ enforced, notEnforced }: Guarded<unknown>): void {
  title('What guard() holds here');
  for (const { what } of enforced) console.log(`  + ${what}`);
  title('What it cannot hold, and why');
  for (const { what, why } of notEnforced) for (const [i, line] of wrapped(`${what}: ${why}`, 74).entries()) console.log(`  ${i === 0 ? '-' : ' '} ${line}`);
}

const time = (ms: number) => new Date(ms).toISOString().slice(11, 23);

export function showReport({ refusals, quotas }: GuardReport): void {
  title('What enforcement would have refused');
  console.log(`  ${'operation'.padEnd(10)}${'name'.padEnd(22)}${'records'.padStart(8)}${'calls'.padStart(7)}  ${'first'.padEnd(14)}last (UTC)`);
  for (const r of refusals)
    console.log(
      `  ${r.operation.padEnd(10)}${r.name.padEnd(22)}${String(r.records).padStart(8)}${String(r.calls).padStart(7)}  ${time(r.firstAtMs).padEnd(14)}${time(r.lastAtMs)}`,
    );
  title('What to do about it');
  for (const remedy of new Set(refusals.map((r) => r.remedy)))
    for (const [i, line] of wrapped(remedy, 74).entries()) console.log(`  ${i === 0 ? '-' : ' '} ${line}`);
  title('What waited for its quota (held in every mode)');
  for (const q of quotas) console.log(`  ${q.operation} ${q.topic}: ${q.times} times, ${Math.round(q.waitedMs)} ms in all, ${q.refused} refused`);
  if (quotas.length === 0) console.log('  nothing');
}

function wrapped(text: string, width: number): string[] {
  const lines = [''];
  for (const word of text.split(' ')) {
    const last = lines[lines.length - 1] ?? '';
    if (last !== '' && last.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`;
  }
  return lines;
}
