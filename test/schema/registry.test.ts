import { request as httpsRequest } from 'node:https';
import { RecordHeaders } from '@turnpike/core';
import type { HttpPort } from '@turnpike/core/spi';
import { mtlsIdentity, oauthIdentity } from '@turnpike/identity';
import { avroCodec, confluentSerde, fingerprint, type RegistryClient, registryClient, registryIds, selfContained } from '@turnpike/schema';
import { type Platform, startPlatform } from '@turnpike/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

let platform: Platform;
let ci: RegistryClient;
let service: RegistryClient;
let admin: HttpPort;
const close: AsyncDisposable[] = [];

beforeAll(async () => {
  platform = await startPlatform({ kafka: false });
  close.push(platform);
  const byCertificate = await mtlsIdentity(platform.admin.mtls);
  close.push(byCertificate);
  const byToken = await oauthIdentity((await platform.principal('a-service')).oauth);
  close.push(byToken);
  admin = byCertificate.http;
  ci = registryClient({ url: platform.registryUrl, http: admin });
  service = registryClient({ url: platform.registryUrl, http: byToken.http });
});
afterAll(async () => {
  for (const resource of close.reverse()) await resource[Symbol.asyncDispose]();
});

const record = (name: string, ...fields: object[]) => JSON.stringify({ type: 'record', name, namespace: 'acme', fields });
const order = record('Order', { name: 'id', type: 'string' });
const newer = record('Order', { name: 'id', type: 'string' }, { name: 'qty', type: 'int', default: 1 });
const money = record('Money', { name: 'cents', type: 'long' });
const priced = record('Priced', { name: 'price', type: 'acme.Money' });
const reference = { name: 'acme.Money', subject: 'acme.Money', version: 1 };

describe('the local registry through its client', () => {
  it('registers for CI, once; a service looks up what CI has registered', async () => {
    const id = await ci.register('orders-value', order);
    expect(await ci.register('orders-value', order)).toBe(id);
    expect(await service.lookupId('orders-value', order)).toBe(id);
    expect(await service.schemaById(id)).toEqual({ id, text: order, format: 'avro', references: [] });
    const second = await ci.register('orders-value', newer);
    expect(second).not.toBe(id);
    expect(await service.latest('orders-value')).toMatchObject({ id: second, version: 2, text: newer });
    expect(await service.version('orders-value', 1)).toMatchObject({ id, version: 1, text: order });
    expect(await service.subjects()).toContain('orders-value');
    // One text has one id, whatever the subject.
    expect(await ci.register('orders-copy-value', order)).toBe(id);
  });

  it('lets no service register or change a level', async () => {
    await expect(service.register('mine-value', order)).rejects.toMatchObject({
      code: 'AUTHORIZATION_FAILED',
      message: expect.stringContaining('turnpike apply'),
    });
    await expect(service.setCompatibility('orders-value', 'NONE')).rejects.toMatchObject({ code: 'AUTHORIZATION_FAILED' });
    expect(await service.subjects()).not.toContain('mine-value');
  });

  it('answers nobody without a proof', async () => {
    const wrong: HttpPort = { request: (r) => admin.request({ ...r, headers: { ...r.headers, authorization: 'Bearer wrong' } }) };
    await expect(registryClient({ url: platform.registryUrl, http: wrong }).subjects()).rejects.toMatchObject({ code: 'AUTHENTICATION_FAILED' });
    expect(await status('GET', '/subjects')).toBe(401);
  });

  it('says what isn’t there', async () => {
    await expect(service.lookupId('nothing-value', order)).rejects.toMatchObject({ code: 'SCHEMA_UNKNOWN', facts: { subject: 'nothing-value' } });
    await expect(service.lookupId('orders-value', money)).rejects.toMatchObject({ code: 'SCHEMA_UNKNOWN' });
    await expect(service.schemaById(4_000)).rejects.toMatchObject({ code: 'SCHEMA_UNKNOWN' });
    await expect(service.version('orders-value', 9)).rejects.toMatchObject({ code: 'SCHEMA_UNKNOWN' });
    expect(await service.latest('nothing-value')).toBeUndefined();
    await expect(ci.register('broken-value', '{"type":')).rejects.toMatchObject({ code: 'SCHEMA_INVALID' });
  });

  it('keeps a compatibility level per subject', async () => {
    expect(await ci.compatibility('orders-value')).toBeUndefined();
    await ci.setCompatibility('orders-value', 'FULL_TRANSITIVE');
    expect(await service.compatibility('orders-value')).toBe('FULL_TRANSITIVE');
    expect(await service.compatibility('orders-copy-value')).toBeUndefined();
    await expect(ci.setCompatibility('orders-value', 'SIDEWAYS' as 'NONE')).rejects.toMatchObject({
      message: expect.stringContaining('Invalid compatibility level'),
    });
  });

  it('keeps references, and takes none that isn’t there', async () => {
    await expect(ci.register('priced-value', priced, { references: [reference] })).rejects.toMatchObject({
      code: 'SCHEMA_INVALID',
      message: expect.stringContaining('acme.Money'),
    });
    await ci.register('acme.Money', money);
    const id = await ci.register('priced-value', priced, { references: [reference] });
    expect(await service.schemaById(id)).toMatchObject({ references: [reference] });
    expect(await service.lookupId('priced-value', priced, { references: [reference] })).toBe(id);
  });

  it('gives a service, which has its schema in one piece, the id of what CI registered in two; and its events are read', async () => {
    const text = selfContained(priced, [money]);
    const schema = { subject: 'priced-value', sha256: fingerprint(text) };
    const serdeOf = () => confluentSerde<{ price: { cents: bigint } }>({ codec: avroCodec(schema, text), text, ids: registryIds(service), topic: 'priced' });
    const producer = serdeOf();
    await producer.ready();
    const bytes = Buffer.alloc(50);
    const end = producer.encodeInto({ price: { cents: 1_250n } }, bytes, 0);
    expect(bytes.readInt32BE(1)).toBe((await service.latest('priced-value'))?.id);
    const consumer = serdeOf();
    const headers = new RecordHeaders();
    await consumer.prepare(bytes.subarray(0, end), headers);
    expect(consumer.decode(bytes.subarray(0, end), headers)).toEqual({ price: { cents: 1_250n } });
  });

  it('takes texts that come in many pieces, whatever their letters', async () => {
    const doc = '€'.repeat(100_000);
    const id = await ci.register('long-value', JSON.stringify({ type: 'record', name: 'Long', doc, fields: [] }));
    expect(JSON.parse((await service.schemaById(id)).text)).toMatchObject({ doc });
  });

  it('is missed while it is down, and found when it is up again', async () => {
    const impatient = registryClient({ url: platform.registryUrl, http: admin, attempts: 1 });
    await platform.registry?.down();
    await expect(impatient.subjects()).rejects.toMatchObject({ code: 'SCHEMA_UNAVAILABLE', retriable: true });
    await platform.registry?.up();
    expect(await impatient.subjects()).toContain('orders-value');
  });

  it.each([
    ['no JSON', '/subjects/a/versions', '{', 400],
    ['null', '/subjects/a/versions', 'null', 400],
    ['a list', '/subjects/a/versions', '[]', 400],
    ['no schema', '/subjects/a/versions', '{}', 422],
    ['a reference without a version', '/subjects/a/versions', '{"schema":"{}","references":[{"name":"a"}]}', 422],
    ['a path that isn’t percent-encoded', '/subjects/%E0%A4%A', '{}', 400],
    ['a path that there isn’t', '/nothing', '{}', 404],
    ['more than 4 MB', '/subjects/a/versions', ' '.repeat(4 * 1024 * 1024 + 1), 413],
  ])('refuses %s as the sender’s mistake, not its own', async (_name, path, body, expected) => {
    expect((await admin.request({ url: platform.registryUrl + path, method: 'POST', body })).status).toBe(expected);
  });
});

/** Of a request without any identity. */
function status(method: string, path: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const sent = httpsRequest(platform.registryUrl + path, { method, ca: platform.certificates.ca, agent: false }, (response) => {
      response.resume();
      resolve(response.statusCode);
    });
    sent.on('error', reject);
    sent.end();
  });
}
