// The seams that packages meet at. Siblings import `@turnpike/core/spi`; services don't need it.
export { accumulate } from './accumulator/accumulator.ts';
export { Cursor } from './cursor.ts';
export { withoutCode } from './errors.ts';
export {
  type AclBinding,
  type AclOperation,
  type AclResourceType,
  type AdminPort,
  aclKey,
  type ClientQuota,
  type ConfigEntry,
  type GroupDescription,
  type ItemResult,
  type QuotaKey,
  type TopicDescription,
  type TopicSpec,
} from './spi/admin.ts';
export { requireCapabilities } from './spi/capabilities.ts';
export { type Clock, pause, systemClock } from './spi/clock.ts';
export type { Codec, SchemaRef, Serde } from './spi/codec.ts';
export type { BufferedRecord, ProduceBatch, ProduceDriver, ProduceOutcome } from './spi/driver.ts';
export type { ClusterDescriptor, ClusterSite, EnforcementMode, GrantClaims, GrantQuota, Lock, LockedSubject } from './spi/grant.ts';
export type { HttpPort, HttpRequest, HttpResponse, Identity, TlsMaterial, Token } from './spi/identity.ts';
export { type Logger, silentLogger } from './spi/logger.ts';
export { notAPath, shownUrl } from './spi/paths.ts';
export { type AccessPolicy, type DrainGate, type FetchGate, openGate } from './spi/policy.ts';
export { type HeaderCarrier, noTelemetry, type RecordSpan, type Telemetry } from './spi/telemetry.ts';
export type {
  AssignmentListener,
  Capabilities,
  ClusterRef,
  CommitOffset,
  CompiledConsumerOptions,
  CompiledProducerOptions,
  Compression,
  ConsumerPort,
  FetchedBatch,
  InboundRecord,
  InboundRecords,
  Link,
  LinkContext,
  OutboundRecord,
  Pending,
  ProducerPort,
  SeekTarget,
  SettledBatch,
  TopicPartition,
  TransactionPort,
  Transport,
  TransportEvents,
} from './spi/transport.ts';
