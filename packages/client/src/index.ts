export {
  type BatchHandler,
  type BatchOptions,
  type ConsumedEvent,
  type ConsumerOptions,
  type ErrorCode,
  type ErrorFacts,
  type Handler,
  type HandlerContext,
  type HeadersInit,
  isTurnpikeError,
  type ProducerOptions,
  RecordHeaders,
  type RecordMetadata,
  type Stage,
  type StageEvent,
  TurnpikeError,
  type Written,
} from '@turnpike/core';
export { connect } from './connect.ts';
export type { AnyTopic, ConsumedTopic, ServiceContract, TopicContract } from './generated.ts';
export type { GuardDelay, GuardRefusal } from './guard/tally.ts';
export {
  type ConfluentOptions,
  type Enforced,
  type Guard,
  type Guarded,
  type GuardedLibrary,
  type GuardInit,
  type GuardOptions,
  type GuardReport,
  type KafkajsOptions,
  type NotEnforced,
  openGuard,
  type RdkafkaOptions,
} from './guard.ts';
export type { ConnectOptions } from './settings.ts';
export type { Consumer, ConsumerInit, EventOf, InputOf, Kafka, KeyOf, OutputOf, Producer, TypedSendOptions } from './types.ts';
