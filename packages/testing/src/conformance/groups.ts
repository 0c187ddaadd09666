import type { CaseDefinition } from './frame.ts';

export const groups: readonly CaseDefinition[] = [];
