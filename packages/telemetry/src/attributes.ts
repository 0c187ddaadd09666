// Names of the OpenTelemetry semantic conventions for messaging (v1.44, "Development"): kept here, in one place, since they still move.
export const SYSTEM = 'messaging.system';
export const OPERATION_NAME = 'messaging.operation.name';
export const OPERATION_TYPE = 'messaging.operation.type';
export const DESTINATION = 'messaging.destination.name';
export const PARTITION = 'messaging.destination.partition.id';
export const GROUP = 'messaging.consumer.group.name';
export const BATCH_COUNT = 'messaging.batch.message_count';
export const CLIENT_ID = 'messaging.client.id';
export const OFFSET = 'messaging.kafka.offset';
export const TOMBSTONE = 'messaging.kafka.message.tombstone';
export const ERROR_TYPE = 'error.type';

/** Seconds, as the conventions advise. */
export const DURATION_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10];
