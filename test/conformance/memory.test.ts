import { runConformance } from './suite.ts';

runConformance('memory');
