import { readdirSync } from 'node:fs';
import path from 'node:path';
import { compileConsumerOptions, compileProducerOptions } from '@turnpike/core';
import { confluentTransport } from '@turnpike/transports/confluent';
import { kafkajsTransport } from '@turnpike/transports/kafkajs';
import { wireTransport } from '@turnpike/transports/wire';
import { describe, expect, it } from 'vitest';
import { code, read, root, rows, section } from './documents.ts';

const document = read('docs/configuration.md');

const sources = readdirSync(path.join(root, 'packages'), { recursive: true, encoding: 'utf8' })
  .filter((f) => /^[a-z-]+\/src\/.*\.ts$/.test(f) && !f.endsWith('.test.ts'))
  .map((f) => read(path.join('packages', f)));

const sorted = (names: Iterable<string>) => [...new Set(names)].sort();

/** The names of an interface's own members, as its source has them. */
function members(file: string, name: string): string[] {
  const body = new RegExp(`^export interface ${name} [^\\n]*\\n(.*?)^}`, 'ms').exec(read(file))?.[1] ?? '';
  return [...body.matchAll(/^ {2}readonly (\w+)\??:/gm)].map((m) => m[1] ?? '');
}

describe('docs/configuration.md', () => {
  it('lists every environment variable that the code reads or speaks of, and no other', () => {
    const settings = read('packages/client/src/settings.ts');
    const injected = [...settings.matchAll(/'(TURNPIKE_[A-Z_]+)'/g)].map((m) => m[1] ?? '');
    const spokenOf = sources.flatMap((text) => [...text.matchAll(/\bTURNPIKE_[A-Z_]+\b/g)].map((m) => m[0]));
    const direct = sources.flatMap((text) => [...text.matchAll(/process\.env\.([A-Z_]+)/g)].map((m) => m[1] ?? ''));
    const listed = rows(section(document, 'Environment variables')).map(([name]) => code(name));
    // PATH is the system's, and handed on as it is.
    expect(sorted(listed)).toEqual(sorted([...injected, ...direct]).filter((name) => name !== 'PATH'));
    expect(sorted(spokenOf).filter((name) => !listed.includes(name))).toEqual([]);
  });

  it.each([
    ['ConnectOptions', 'packages/client/src/settings.ts'],
    ['ProducerOptions', 'packages/core/src/pipeline/options.ts'],
    ['ConsumerOptions', 'packages/core/src/consumer/options.ts'],
    ['MetadataOptions', 'packages/transports/src/link.ts'],
    ['OpenTelemetryOptions', 'packages/telemetry/src/open-telemetry.ts'],
  ])('lists every option of %s, and no other', (name, file) => {
    const listed = rows(section(document, name)).map(([option]) => code(option));
    expect(listed.length).toBeGreaterThan(0);
    expect(sorted(listed)).toEqual(sorted(members(file, name)));
  });

  it('gives the defaults that the code has', () => {
    const compiled: Record<string, Readonly<Record<string, unknown>>> = {
      ProducerOptions: { ...compileProducerOptions() },
      ConsumerOptions: { ...compileConsumerOptions('g') },
    };
    for (const [name, values] of Object.entries(compiled))
      for (const [option, , , given] of rows(section(document, name))) {
        const text = code(given).replaceAll('_', '');
        const value = values[code(option)];
        const shown = code(given) === '' ? given : typeof value === 'string' ? code(given).slice(1, -1) : JSON.parse(text);
        expect(shown, `${name}.${code(option)}`).toBe(value ?? 'none');
      }
  });

  it.each<[string, (raw: Record<string, unknown>) => unknown]>([
    ['ProducerOptions', (raw) => compileProducerOptions(raw)],
    ['ConsumerOptions', (raw) => compileConsumerOptions('g', raw)],
    ['MetadataOptions', (raw) => wireTransport(raw)],
    ['MetadataOptions', (raw) => confluentTransport(raw)],
    ['MetadataOptions', (raw) => kafkajsTransport(raw)],
  ])('gives the bounds of %s that the code has', (name, compile) => {
    const numeric = rows(section(document, name)).flatMap(([option, , bounds]) => {
      const match = /^(?:>= ([\d_]+)|([\d_]+) to ([\d_]+))$/.exec(bounds ?? '');
      const number = (text: string | undefined) => (text === undefined ? undefined : Number(text.replaceAll('_', '')));
      return match ? [{ option: code(option), min: number(match[1] ?? match[2]) ?? 0, max: number(match[3]) }] : [];
    });
    expect(numeric.length).toBeGreaterThan(0);
    for (const { option, min, max } of numeric) {
      const outside = new RegExp(`\\.${option} is -?\\d+; it must be a whole number from ${min}${max === undefined ? '' : ` to ${max}`}`);
      expect(() => compile({ [option]: min - 1 })).toThrow(outside);
      if (max !== undefined) expect(() => compile({ [option]: max + 1 })).toThrow(outside);
    }
  });

  it('names the log events that there are, and no other', () => {
    const logged = sources.flatMap((text) => [...text.matchAll(/logger\.(?:debug|info|warn|error)\(\s*'([a-z_.]+)'/g)].map((m) => m[1] ?? ''));
    const named = [...section(document, 'Logs').matchAll(/`([a-z]+\.[a-z_]+)`/g)].map((m) => m[1] ?? '');
    expect(sorted(named)).toEqual(sorted(logged));
  });
});
