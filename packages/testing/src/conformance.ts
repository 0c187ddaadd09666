import { admin } from './conformance/admin.ts';
import { consuming } from './conformance/consuming.ts';
import { type CaseDefinition, type ConformanceSuite, suiteOf, type TransportUnderTest } from './conformance/frame.ts';
import { groups } from './conformance/groups.ts';
import { identity } from './conformance/identity.ts';
import { lifecycle } from './conformance/lifecycle.ts';
import { limits } from './conformance/limits.ts';
import { ordering } from './conformance/ordering.ts';
import { records } from './conformance/records.ts';
import { topics } from './conformance/topics.ts';
import { transactions } from './conformance/transactions.ts';

const definitions: readonly CaseDefinition[] = [
  ...records,
  ...ordering,
  ...limits,
  ...topics,
  ...consuming,
  ...groups,
  ...identity,
  ...transactions,
  ...lifecycle,
  ...admin,
];

/** The one suite that every transport passes, against a real cluster where it has one: what a service may rely on whatever library carries its records. Needs no test runner. */
export function transportConformance(make: () => TransportUnderTest): ConformanceSuite {
  return suiteOf(definitions, make);
}
