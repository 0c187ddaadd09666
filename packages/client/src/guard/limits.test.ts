import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { limitsOf } from './limits.ts';
import type { Shape } from './shape.ts';

const document = readFileSync(new URL('../../../../docs/guard.md', import.meta.url), 'utf8');
const all = { group: 'g', transactionalId: 't' };
const nothing = { group: undefined, transactionalId: undefined };

/** The rows of a section's tables, without their heads. */
function rows(heading: string): string[][] {
  const section = document.split(/^## /m).find((s) => s.startsWith(`${heading}\n`)) ?? '';
  const cells = [...section.matchAll(/^\| (.+) \| (.+) \|$/gm)].map(([, what = '', why = '']) => [what, why]);
  return cells.filter(([what]) => what !== 'held' && what !== 'not held');
}

describe('what guard() says of itself', () => {
  it.each<[string, Shape[]]>([
    ['kafkajs', ['kafkajs Kafka']],
    ['confluent, promisified', ['confluent Kafka']],
    ['confluent, raw', ['rdkafka producer', 'rdkafka consumer']],
  ])('stands in docs/guard.md as well: %s', (heading, shapes) => {
    const limits = shapes.map((shape) => limitsOf(shape, all));
    const held = limits.flatMap((l) => l.enforced.map(({ what, how }) => [what, how]));
    const left = limits.flatMap((l) => l.notEnforced.map(({ what, why }) => [what, why]));
    const unique = new Map([...held, ...left].map((row) => [row.join('|'), row]));
    expect(rows(heading)).toEqual([...unique.values()]);
  });

  it.each<[Shape, string]>([
    ['kafkajs producer', 'the transactional id'],
    ['kafkajs consumer', 'the group at subscribe()'],
    ['confluent producer', 'the transactional id'],
    ['confluent consumer', 'the group at subscribe()'],
    ['rdkafka consumer', 'the group'],
  ])('admits of a %s by itself that it may not know %s, until it is told', (shape, what) => {
    const names = (known: typeof all | typeof nothing) => limitsOf(shape, known).notEnforced.map((n) => n.what);
    expect(names(nothing)).toContain(what);
    expect(names(all)).not.toContain(what);
  });
});
