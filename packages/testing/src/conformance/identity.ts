import type { CaseDefinition } from './frame.ts';

export const identity: readonly CaseDefinition[] = [];
