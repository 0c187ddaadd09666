import { readFileSync } from 'node:fs';
import type { Platform } from '@turnpike/testing';
import kafkajs from 'kafkajs';

const { AclOperationTypes, AclPermissionTypes, AclResourceTypes, Kafka, logLevel, ResourcePatternTypes } = kafkajs;

const TOPICS = ['passengers.notified', 'gate-desk.retry', 'gate-desk.dlq'];
const GROUPS = ['gate-desk.notify', 'gate-desk.retry'];
const TRANSACTIONAL_ID = 'gate-desk-summary';

/** The cluster as it has grown: topics and ACLs from before there was a manifest, which the service lives on. Whoever wrote its turnpike.yaml didn't know of them. */
export async function yesterdaysCluster(platform: Platform): Promise<void> {
  const { caFile, certFile, keyFile } = platform.admin.mtls;
  const kafka = new Kafka({
    clientId: 'yesterday',
    brokers: [...(platform.cluster?.bootstrap.mtls ?? [])],
    ssl: { ca: readFileSync(caFile), cert: readFileSync(certFile), key: readFileSync(keyFile) },
    logLevel: logLevel.ERROR,
  });
  const allow = (resourceType: kafkajs.AclResourceTypes, resourceName: string, operation: kafkajs.AclOperationTypes) => ({
    ...{ resourceType, resourceName, operation, resourcePatternType: ResourcePatternTypes.LITERAL },
    ...{ principal: 'User:gate-desk', host: '*', permissionType: AclPermissionTypes.ALLOW },
  });
  const admin = kafka.admin();
  await admin.connect();
  try {
    await admin.createTopics({ topics: TOPICS.map((topic) => ({ topic, numPartitions: 2 })) });
    await admin.createAcls({
      acl: [
        ...TOPICS.flatMap((topic) => [AclOperationTypes.READ, AclOperationTypes.WRITE].map((operation) => allow(AclResourceTypes.TOPIC, topic, operation))),
        ...GROUPS.map((group) => allow(AclResourceTypes.GROUP, group, AclOperationTypes.READ)),
        allow(AclResourceTypes.TRANSACTIONAL_ID, TRANSACTIONAL_ID, AclOperationTypes.WRITE),
      ],
    });
  } finally {
    await admin.disconnect();
  }
}
