import { runConformance } from './suite.ts';

runConformance('kafkajs', { quick: true });
