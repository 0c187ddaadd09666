export { memoryAdmin } from './memory/admin.ts';
export { type FaultPoint, MemoryCluster, type MemoryClusterOptions, type StoredRecord } from './memory/cluster.ts';
export { ManualClock } from './memory/manual-clock.ts';
export { memoryTransport } from './memory/transport.ts';
