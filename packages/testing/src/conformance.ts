import { type CaseDefinition, type ConformanceSuite, suiteOf, type TransportUnderTest } from './conformance/frame.ts';
import { groups } from './conformance/groups.ts';
import { identity } from './conformance/identity.ts';
import { lifecycle } from './conformance/lifecycle.ts';
import { records } from './conformance/records.ts';
import { transactions } from './conformance/transactions.ts';

const definitions: readonly CaseDefinition[] = [...records, ...groups, ...identity, ...transactions, ...lifecycle];

/** The one suite that every transport passes, against a real cluster where it has one: what a service may rely on whatever library carries its records. Needs no test runner. */
export function transportConformance(make: () => TransportUnderTest): ConformanceSuite {
  return suiteOf(definitions, make);
}
