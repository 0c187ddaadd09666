import { settleRecords, TurnpikeError } from '@turnpike/core';
import { type AdminPort, type ClusterRef, type Identity, type Link, noTelemetry, openGate, silentLogger, systemClock } from '@turnpike/core/spi';
import { wireTransport } from '@turnpike/transports/wire';

export interface AdminLink extends AsyncDisposable {
  readonly admin: AdminPort;
}

/** Administration of a cluster, as this identity. Rejects with TLS_FAILED, AUTHENTICATION_FAILED, BROKER_UNAVAILABLE, CLUSTER_MISMATCH. */
export async function openAdmin(cluster: ClusterRef, identity: Identity): Promise<AdminLink> {
  const link: Link = await wireTransport().connect({
    cluster,
    identity,
    clientId: 'turnpike',
    connectTimeoutMs: 10_000,
    clock: systemClock,
    logger: silentLogger,
    gate: openGate,
    fetchGate: openGate,
    events: settleRecords(noTelemetry, () => {}),
  });
  if (!link.admin) throw new TurnpikeError('CAPABILITY_MISSING', 'The transport has no administration.');
  return { admin: link.admin, [Symbol.asyncDispose]: () => link[Symbol.asyncDispose]() };
}
