import { runConformance } from './suite.ts';

runConformance('confluent', { quick: true });
