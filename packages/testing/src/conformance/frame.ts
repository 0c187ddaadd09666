import type { ConsumerOptions, ProducerOptions } from '@turnpike/core';
import type { MemoryCluster } from '@turnpike/core/memory';
import { type Capabilities, type CompiledConsumerOptions, type CompiledProducerOptions, requireCapabilities, type Transport } from '@turnpike/core/spi';
import type { Platform, PlatformOptions } from '../platform.ts';
import { assertRefusal } from './assertions.ts';
import { type Bench, Grounds } from './bench.ts';
import { within } from './within.ts';

/** A transport and what its cases run against. */
export interface TransportUnderTest {
  readonly name: string;
  /** A new one each time; with metadata that is at most 1 s old, where it has such an option. */
  transport(): Transport;
  /** What `connect()` of @turnpike/client does with this transport and these options. What it resolves with is disposed of, if it can be. */
  connect(transport: Transport, options: ConnectAsks): Promise<unknown>;
  /** A real cluster; the same one for the same options. Whoever makes it closes it, after the suite. undefined = the memory transport. */
  platform?(options?: PlatformOptions): Promise<Platform>;
  /** The memory transport's: with an authorizer whose super user is "platform-admin". */
  readonly cluster?: MemoryCluster;
}

export interface ConnectAsks {
  readonly producer?: ProducerOptions;
  readonly consumer?: ConsumerOptions;
}

/** "refused": the transport lacks the capability, and `connect()` said so with CAPABILITY_MISSING. */
export type CaseOutcome = 'passed' | 'refused';

export interface ConformanceCase {
  /** A sentence. */
  readonly name: string;
  /** The row of docs/transports.md that it proves. */
  readonly row: string;
  /** Among the few that show within a minute whether a transport works at all. */
  readonly quick: boolean;
  /** Looks at what the whole process holds, so nothing may run beside it. The others may run side by side. */
  readonly alone: boolean;
  /** Rejects with what is wrong, at the latest after a minute. */
  run(): Promise<CaseOutcome>;
}

/** "yes": it does it. "refused": it can't, and `connect()` says so. "no": it can't, and `connect()` has no option that asks for it. "none": it has no broker that could show it. */
export type Support = 'yes' | 'refused' | 'no' | 'none';

export interface ConformanceRow {
  readonly row: string;
  /** As the transport's capabilities promise; the cases show whether it is so. */
  readonly support: Support;
}

export interface ConformanceSuite extends AsyncDisposable {
  readonly cases: readonly ConformanceCase[];
  /** All rows, also those that this transport has no case of. */
  readonly rows: readonly ConformanceRow[];
}

/** One case, as it is written. */
export interface CaseDefinition {
  readonly row: string;
  readonly name: string;
  /** "broker": TLS, tokens, a broker that goes away, what only a real one knows. A transport without a platform doesn't have the case. */
  readonly needs?: 'broker';
  /** Whether the transport can do it at all. Where it can't, the refusal of `asks`, or of `requires`, is the case; with neither, there is nothing that a service could ask for,
   *  and the transport doesn't have the case. */
  readonly capability?: (capabilities: Capabilities) => boolean;
  /** What connect() must refuse where the capability is missing. */
  readonly asks?: ConnectAsks;
  /** What `requireCapabilities()` must refuse where the capability is missing and connect() has no option for it. */
  readonly requires?: { readonly producer?: Partial<CompiledProducerOptions>; readonly consumer?: Partial<CompiledConsumerOptions> };
  readonly quick?: boolean;
  readonly alone?: boolean;
  /** Rejects with what is wrong. What it has opened through the bench is closed afterwards. */
  run(bench: Bench): Promise<void>;
}

export const define = (definition: CaseDefinition): CaseDefinition => definition;

/** How long a case may take, in ms. */
const CASE_MS = 60_000;
const CLOSE_MS = 30_000;

/** The cases that a transport has, of these definitions. */
export function suiteOf(definitions: readonly CaseDefinition[], make: () => TransportUnderTest): ConformanceSuite {
  const under = make();
  const grounds = new Grounds(under);
  const { capabilities } = under.transport();
  const lacking = (d: CaseDefinition): boolean => d.capability?.(capabilities) === false;
  const has = (d: CaseDefinition): boolean => (lacking(d) ? (d.asks ?? d.requires) !== undefined : d.needs !== 'broker' || under.platform !== undefined);
  const supportOf = (d: CaseDefinition): Support => {
    if (lacking(d)) return d.asks ? 'refused' : 'no';
    return has(d) ? 'yes' : 'none';
  };
  const cases = definitions.filter(has).map((definition) => ({
    name: definition.name,
    row: definition.row,
    quick: definition.quick ?? false,
    alone: definition.alone ?? false,
    run: () => (lacking(definition) ? refuse(under, definition) : perform(grounds, definition)),
  }));
  const rows = [...Map.groupBy(definitions, (d) => d.row)].map(([row, of]) => ({ row, support: together(of.map(supportOf)) }));
  return { cases, rows, [Symbol.asyncDispose]: () => grounds[Symbol.asyncDispose]() };
}

/** Of all cases of a row: what the reader has to know first. */
const together = (supports: readonly Support[]): Support => (['refused', 'no', 'yes'] as const).find((s) => supports.includes(s)) ?? 'none';

async function perform(grounds: Grounds, definition: CaseDefinition): Promise<CaseOutcome> {
  const bench = await grounds.bench();
  const close = () => within(CLOSE_MS, bench[Symbol.asyncDispose](), `${definition.name}: closing what it had opened`);
  try {
    await within(CASE_MS, definition.run(bench), definition.name);
  } catch (error) {
    await close().catch(() => {}); // What went wrong first is what the reader can mend.
    throw error;
  }
  await close();
  return 'passed';
}

async function refuse(under: TransportUnderTest, { asks, requires, name }: CaseDefinition): Promise<CaseOutcome> {
  const transport = under.transport();
  if (asks) {
    const connected = under.connect(transport, asks).then(async (kafka) => {
      const closing = kafka as Partial<AsyncDisposable> | undefined;
      await closing?.[Symbol.asyncDispose]?.();
    });
    await assertRefusal(within(CASE_MS, connected, name), 'CAPABILITY_MISSING');
  }
  if (requires) await assertRefusal((async () => requireCapabilities(transport, requires))(), 'CAPABILITY_MISSING');
  return 'refused';
}
