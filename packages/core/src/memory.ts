export { type FaultPoint, MemoryCluster, type MemoryClusterOptions, type StoredRecord } from './memory/cluster.ts';
export { memoryTransport } from './memory/transport.ts';
