import { runConformance } from './suite.ts';

// In full it is part of the proof: npm run prove -- conformance --quick.
runConformance('wire', { quick: true });
