export type { BrokerNode } from './broker.ts';
export { type Certificate, type CertificateAuthority, type CertificateFiles, type CertificateRequest, certificateAuthority } from './certificates.ts';
export type { CaseOutcome, ConformanceCase, ConformanceRow, ConformanceSuite, ConnectAsks, Support, TransportUnderTest } from './conformance/frame.ts';
export { transportConformance } from './conformance.ts';
export { KAFKA_VERSION, type KafkaDistribution, kafkaAvailability, prepareKafka } from './distribution.ts';
export type { ClientMethod, Issuer, IssuerClient } from './issuer.ts';
export { type LocalPrincipal, type Platform, type PlatformOptions, startPlatform } from './platform.ts';
export type { EmbeddedRegistry } from './registry.ts';
