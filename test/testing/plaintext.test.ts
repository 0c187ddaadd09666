// The listener that the benchmark measures over: nothing to prove, on loopback only, by every transport.
import { connect } from '@turnpike/client';
import type { Transport } from '@turnpike/core/spi';
import { anonymousIdentity, mtlsIdentity } from '@turnpike/identity';
import { type Platform, startPlatform } from '@turnpike/testing';
import { confluentTransport } from '@turnpike/transports/confluent';
import { kafkajsTransport } from '@turnpike/transports/kafkajs';
import { wireTransport } from '@turnpike/transports/wire';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Desk, readEvents } from '../support/service.ts';

let platform: Platform;
let desk: Desk;

beforeAll(async () => {
  platform = await startPlatform({ plaintext: true });
  desk = await Desk.open(platform);
});
afterAll(async () => {
  await desk?.[Symbol.asyncDispose]();
  await platform?.[Symbol.asyncDispose]();
});

/** No descriptor names a plaintext listener: it is put in between. */
const overPlaintext = ({ name, capabilities, connect }: Transport): Transport => ({
  name,
  capabilities,
  connect: (link) => {
    const bootstrap = platform.nodes.map(({ ports }) => `127.0.0.1:${ports.plaintext}`);
    return connect({ ...link, cluster: { ...link.cluster, bootstrap } });
  },
});

describe('a plaintext listener beside the others', () => {
  it.each([wireTransport(), kafkajsTransport(), confluentTransport()])('serves an anonymous service over $name', async (transport) => {
    const name = `anonymous-${transport.name}`;
    await desk.topic(name);
    const { service, options } = await desk.service({ name, produces: [name], consumes: [name] });
    await using admin = await mtlsIdentity(platform.admin.mtls); // The registry has TLS only.
    await using kafka = await connect(service, { ...options, identity: { ...anonymousIdentity(name), http: admin.http }, transport: overPlaintext(transport) });
    await kafka.producer(name).send({ id: 'a', n: 1 });
    const [event] = await readEvents(kafka, name, 1);
    expect(event?.value).toEqual({ id: 'a', n: 1 });
  });
});
