import { describe, expect, it } from 'vitest';
import { bytesPerSecond, durationMs, recordsPerSecond, retentionMs } from './units.ts';

describe('units', () => {
  it.each([
    ['5MiB/s', 5 * 1024 * 1024],
    ['5 MiB/s', 5 * 1024 * 1024],
    ['500kB/s', 500_000],
    ['1.5KiB/s', 1536],
    ['2GB/s', 2e9],
    ['500/s', 500],
    ['7B/s', 7],
  ])('%s is %d bytes a second', (text, bytes) => expect(bytesPerSecond(text)).toBe(bytes));

  it.each(['5MiB', '5Mb/s', '5 mib/s', '-1B/s', '0B/s', '0.4B/s', '1e9/s', '/s', '', `${'9'.repeat(400)}B/s`, '9007199254740993B/s', '5MiB/min'])(
    '%s is no rate of bytes: not a unit, or nothing could pass',
    (text) => expect(bytesPerSecond(text)).toBeUndefined(),
  );

  it.each([
    ['2000/s', 2000],
    ['0.5/s', 0.5],
  ])('%s is %d records a second', (text, records) => expect(recordsPerSecond(text)).toBe(records));

  it.each(['2000', '0/s', '0.0/s', '2k/s', '-1/s', '10/min'])('%s is no rate of records', (text) => expect(recordsPerSecond(text)).toBeUndefined());

  it.each([
    ['250ms', 250],
    ['2s', 2000],
    ['10 m', 600_000],
    ['72h', 259_200_000],
    ['30d', 2_592_000_000],
  ])('%s is %d ms', (text, ms) => {
    expect(durationMs(text)).toBe(ms);
    expect(retentionMs(text)).toBe(ms);
  });

  it.each(['0s', '1.5h', '3w', '90', 'h', '-2s', '999999999999999d'])('%s is no duration', (text) => expect(durationMs(text)).toBeUndefined());

  it('"forever" is a retention, and no time to burst for', () => {
    expect(retentionMs('forever')).toBe(-1);
    expect(durationMs('forever')).toBeUndefined();
  });
});
