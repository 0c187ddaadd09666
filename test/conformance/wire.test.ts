import { runConformance } from './suite.ts';

runConformance('wire');
