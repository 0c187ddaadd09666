import { describe, expect, it } from 'vitest';
import { meant, thereAre } from './words.ts';

describe('the words of a message', () => {
  it.each<[readonly string[], string]>([
    [['a', 'b'], 'there are a, b'],
    [['staging'], 'there is staging'],
    [[], 'there is none'],
  ])('%j: %s', (names, words) => expect(thereAre(names)).toBe(words));

  it.each([
    ['retnetion', ' (did you mean retention?)'],
    ['retentionn', ' (did you mean retention?)'],
    ['partition', ' (did you mean partitions?)'],
    ['kye', ' (did you mean key?)'],
    ['retain', ''],
    ['ky', ' (did you mean key?)'],
    ['k', ''],
    ['key', ''],
  ])('of retention, partitions, key, %s is meant as%s', (written, words) => expect(meant(written, ['retention', 'partitions', 'key'])).toBe(words));
});
