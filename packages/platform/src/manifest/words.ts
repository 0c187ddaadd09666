/** "there are local, prod", for what a reader may choose from. */
export function thereAre(names: Iterable<string>): string {
  const all = [...names];
  return all.length === 0 ? 'there is none' : `there ${all.length === 1 ? 'is' : 'are'} ${all.join(', ')}`;
}

/** " (did you mean retention?)" where one of these names is at most two letters away from what was written; else nothing. */
export function meant(written: string, names: Iterable<string>): string {
  // Of a short name two letters are most of it.
  const most = written.length > 4 ? 2 : 1;
  const near = [...names].map((name) => ({ name, away: distance(written, name) })).filter((n) => n.away > 0 && n.away <= most);
  const [nearest] = near.sort((a, b) => a.away - b.away);
  return nearest === undefined ? '' : ` (did you mean ${nearest.name}?)`;
}

/** How many letters must be put in, taken out, changed or swapped with the next to make `b` of `a` (optimal string alignment). */
function distance(a: string, b: string): number {
  let before: readonly number[] = [];
  let last: readonly number[] = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? (before[j - 2] ?? 0) + 1 : Number.POSITIVE_INFINITY;
      row.push(Math.min((last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (last[j - 1] ?? 0) + same, swapped));
    }
    before = last;
    last = row;
  }
  return last[b.length] ?? 0;
}
