import type { CaseDefinition } from './frame.ts';

export const transactions: readonly CaseDefinition[] = [];
