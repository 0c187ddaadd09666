import type { CaseDefinition } from './frame.ts';

export const lifecycle: readonly CaseDefinition[] = [];
