import { readFileSync } from 'node:fs';
import { type AddressInfo, createConnection, createServer } from 'node:net';
import { Producer as LibraryProducer } from '@platformatic/kafka';
import { connect, type TurnpikeError } from '@turnpike/client';
import type { Identity, Token } from '@turnpike/core/spi';
import { mtlsIdentity } from '@turnpike/identity';
import { certificateAuthority, type Platform, startPlatform } from '@turnpike/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Desk, type MeasuredKafka, openLink } from '../support/service.ts';

let platform: Platform;
let desk: Desk;

beforeAll(async () => {
  platform = await startPlatform();
  desk = await Desk.open(platform);
});
afterAll(async () => {
  await desk?.[Symbol.asyncDispose]();
  await platform?.[Symbol.asyncDispose]();
});

/** The error that it ends with, which must come within 5 s. */
async function refusal(attempt: Promise<unknown>): Promise<TurnpikeError> {
  const started = performance.now();
  const error = await attempt.then(
    (value) => {
      (value as { close?: () => Promise<void> })?.close?.();
      throw new Error('it was not refused');
    },
    (e: TurnpikeError) => e,
  );
  expect(performance.now() - started).toBeLessThan(5_000);
  return error;
}

describe('wire: who is refused, and why, within 5 s', () => {
  it('a topic that no ACL allows, at connect()', async () => {
    await desk.topic('f.denied');
    const { service, options } = await desk.service({ name: 'f1', produces: ['f.denied'] });
    const error = await refusal(connect(service, options));
    expect(error).toMatchObject({
      code: 'AUTHORIZATION_FAILED',
      written: 'no',
      facts: { topic: 'f.denied', principal: 'f1', kafkaError: 'TOPIC_AUTHORIZATION_FAILED' },
    });
    expect(error.message).toContain('turnpike apply');
  });

  it('a topic that may be read but not written, at send()', async () => {
    await desk.topic('f.readonly');
    const { service, options } = await desk.service({ name: 'f2', produces: ['f.readonly'] });
    await desk.allow('f2', { read: ['f.readonly'] });
    await using kafka = await connect(service, options);
    const error = await refusal(kafka.producer('f.readonly').send({ id: 'a', n: 1 }));
    expect(error).toMatchObject({ code: 'AUTHORIZATION_FAILED', written: 'no', facts: { topic: 'f.readonly', principal: 'f2' } });
  });

  it('a topic that may be written but not read, and a group that is not allowed', async () => {
    await desk.topic('f.writeonly');
    const { service, options } = await desk.service({ name: 'f3', consumes: ['f.writeonly'], groups: ['f3.ok', 'f3.denied'] });
    await desk.allow('f3', { write: ['f.writeonly'], groups: ['f3.ok'] });
    await using kafka: MeasuredKafka = await connect(service, options);
    expect(await refusal(kafka.consumer(['f.writeonly'], { group: 'f3.denied' }).run(() => {}))).toMatchObject({
      code: 'AUTHORIZATION_FAILED',
      facts: { group: 'f3.denied', kafkaError: 'GROUP_AUTHORIZATION_FAILED' },
    });
    expect(await refusal(kafka.consumer(['f.writeonly'], { group: 'f3.ok' }).run(() => {}))).toMatchObject({
      code: 'AUTHORIZATION_FAILED',
      facts: { topic: 'f.writeonly', kafkaError: 'TOPIC_AUTHORIZATION_FAILED' },
    });
  });

  it('a topic that is not there', async () => {
    const { service, options } = await desk.service({ name: 'f4', consumes: ['f.missing'], produces: [] });
    await desk.allow('f4', { read: ['f.missing'], groups: ['f4.group'] });
    await using kafka: MeasuredKafka = await connect(service, options);
    expect(await refusal(kafka.consumer(['f.missing']).run(() => {}))).toMatchObject({ code: 'TOPIC_UNKNOWN', facts: { topic: 'f.missing' } });
  });

  it('a broker whose authority is not trusted', async () => {
    const other = await certificateAuthority();
    const files = await platform.certificateFiles('f5', { commonName: 'f5' }, other);
    await using identity = await mtlsIdentity({ ...(await platform.principal('f5')).mtls, caFile: files.caFile });
    expect(await refusal(openLink(platform, identity))).toMatchObject({ code: 'TLS_FAILED' });
  });

  it('a certificate of another authority, and none at all', async () => {
    const other = await certificateAuthority();
    const files = await platform.certificateFiles('f6', { commonName: 'f6' }, other);
    await using stranger = await mtlsIdentity({ ...files, caFile: platform.admin.mtls.caFile });
    const refused = await refusal(openLink(platform, stranger));
    expect(refused).toMatchObject({ code: 'TLS_FAILED' });
    expect(refused.message).toContain('TURNPIKE_TLS_CERT');
    await using known = await mtlsIdentity(platform.admin.mtls);
    const bare = withTls(known, { ca: known.tls()?.ca ?? '' });
    expect(await refusal(openLink(platform, bare))).toMatchObject({ code: 'TLS_FAILED' });
  });

  it('an address that the certificate does not name', async () => {
    await using identity = await mtlsIdentity(platform.admin.mtls);
    const relay = createServer((socket) => {
      const broker = createConnection(platform.nodes[0]?.ports.mtls ?? 0, '127.0.0.1');
      for (const s of [socket, broker]) s.on('error', () => {});
      socket.pipe(broker).pipe(socket);
    });
    await new Promise<void>((resolve) => relay.listen(0, '127.0.0.2', resolve));
    try {
      const bootstrap = [`127.0.0.2:${(relay.address() as AddressInfo).port}`];
      const error = await refusal(openLink(platform, identity, { bootstrap }));
      expect(error).toMatchObject({ code: 'TLS_FAILED' });
      expect(error.message).toContain("isn't one of the broker certificate's names");
    } finally {
      relay.close();
    }
  });

  it('a token that is not valid, without ever printing it', async () => {
    await using known = await mtlsIdentity(platform.admin.mtls);
    const token = `${Buffer.from('{"alg":"none"}').toString('base64url')}.${Buffer.from('{"sub":"x","exp":9999999999}').toString('base64url')}.`;
    const identity: Identity = { ...asOauth(known), token: async (): Promise<Token> => ({ value: token, expiresAtMs: Date.now() + 60_000 }) };
    const error = await refusal(openLink(platform, identity));
    expect(error).toMatchObject({ code: 'AUTHENTICATION_FAILED' });
    expect(JSON.stringify(error, Object.getOwnPropertyNames(error)) + String(error.stack)).not.toContain(token);
  });

  it('another cluster than the descriptor names', async () => {
    await using identity = await mtlsIdentity(platform.admin.mtls);
    expect(await refusal(openLink(platform, identity, { id: 'another' }))).toMatchObject({ code: 'CLUSTER_MISMATCH', written: 'no' });
  });

  it('a broker that is not there, when the time for connecting is over', async () => {
    await using identity = await mtlsIdentity(platform.admin.mtls);
    expect(await refusal(openLink(platform, identity, { bootstrap: ['127.0.0.1:1'], connectTimeoutMs: 1_000 }))).toMatchObject({
      code: 'BROKER_UNAVAILABLE',
      retriable: true,
    });
  });
});

describe('wire: transactions of others', () => {
  it('reads committed records only, through several aborted ranges of one producer (KAFKA: aborted_transactions lists each)', async () => {
    await desk.topic('t.tx', { partitions: 1 });
    const { mtls } = platform.admin;
    const producer = new LibraryProducer({
      clientId: 'tx',
      bootstrapBrokers: [`127.0.0.1:${platform.nodes[0]?.ports.mtls}`],
      tls: { ca: readFileSync(mtls.caFile), cert: readFileSync(mtls.certFile), key: readFileSync(mtls.keyFile) },
      transactionalId: 'tx-1',
      idempotent: true,
    });
    for (const [name, end] of [
      ['A1', 'abort'],
      ['C1', 'commit'],
      ['A2', 'abort'],
      ['C2', 'commit'],
      ['A3', 'abort'],
    ] as const) {
      const transaction = await producer.beginTransaction();
      await transaction.send({ messages: [{ topic: 't.tx', partition: 0, key: Buffer.from(name), value: Buffer.from(name) }] });
      await transaction[end]();
    }
    await producer.close();
    const { compileConsumerOptions } = await import('@turnpike/core');
    await using identity = await mtlsIdentity(platform.admin.mtls);
    await using link = await openLink(platform, identity);
    const keysRead = async (isolation: 'read_committed' | 'read_uncommitted') => {
      await using port = link.consumer(compileConsumerOptions(`t.${isolation}`, { isolation, startAt: 'earliest' }));
      await port.subscribe(['t.tx'], { assigned: () => {}, revoking: async () => {}, lost: () => {}, failed: (e) => expect.unreachable(e.message) });
      const [end] = await port.endOffsets([{ topic: 't.tx', partition: 0 }]);
      const keys: string[] = [];
      for (let at = 0n; at < (end?.offset ?? 0n); ) {
        for (const batch of await port.poll(1_000)) {
          keys.push(...[...batch.records].map((r) => String(r.key)));
          at = batch.nextOffset;
        }
      }
      return keys;
    };
    expect(await keysRead('read_committed')).toEqual(['C1', 'C2']);
    expect(await keysRead('read_uncommitted')).toEqual(['A1', 'C1', 'A2', 'C2', 'A3']);
  });
});

describe('wire: a broker that goes away', () => {
  it('brings every record once when the broker is killed under load and comes back; commits go on', async () => {
    await using own = await startPlatform();
    await using its = await Desk.open(own);
    await its.topic('k.t', { partitions: 2 });
    await its.allow('k', { write: ['k.t'], read: ['k.t'], groups: ['k.group'] });
    const { service, options } = await its.service({ name: 'k', produces: ['k.t'], consumes: ['k.t'] });
    await using kafka = await connect(service, options);
    const [node] = own.nodes;
    const sends: Promise<unknown>[] = [];
    for (let n = 0; n < 600; n++) {
      sends.push(kafka.producer('k.t').send({ id: `k${n % 5}`, n }));
      if (n === 200) await node?.kill();
      if (n === 400) void node?.start();
      await new Promise((r) => setTimeout(r, 2));
    }
    await Promise.all(sends);
    const got: number[] = [];
    for await (const event of kafka.consumer(['k.t'])) {
      got.push(event.value?.n ?? -1);
      if (got.length === 600) break;
    }
    expect(got.sort((a, b) => a - b)).toEqual(Array.from({ length: 600 }, (_, n) => n));
  });

  it('tells what may have been written when it stays away, and closes in bounded time', async () => {
    await using own = await startPlatform();
    await using its = await Desk.open(own);
    await its.topic('l.t', { partitions: 1 });
    await its.allow('l', { write: ['l.t'] });
    const { service, options } = await its.service({ name: 'l', produces: ['l.t'] });
    const kafka = await connect(service, { ...options, producer: { deliveryTimeoutMs: 2_000, requestTimeoutMs: 1_000 } });
    await kafka.producer('l.t').send({ id: 'a', n: 0 });
    own.nodes[0]?.pause(); // alive, but silent: the request goes out, no answer comes
    const silent = await refusal(kafka.producer('l.t').send({ id: 'a', n: 1 }));
    expect(silent).toMatchObject({ code: 'DELIVERY_TIMEOUT', written: 'unknown', retriable: true });
    own.nodes[0]?.resume();
    await own.nodes[0]?.kill();
    const gone = await refusal(kafka.producer('l.t').send({ id: 'a', n: 2 }));
    expect(gone).toMatchObject({ code: 'DELIVERY_TIMEOUT', retriable: true });
    const started = performance.now();
    await kafka.close();
    expect(performance.now() - started).toBeLessThan(5_000);
  });
});

function withTls(identity: Identity, tls: { ca: string }): Identity {
  return {
    kind: 'mtls',
    principal: identity.principal,
    tls: () => tls,
    token: () => identity.token(),
    onChange: (f) => identity.onChange(f),
    http: identity.http,
  };
}

function asOauth(identity: Identity): Identity {
  const ca = identity.tls()?.ca ?? '';
  return { kind: 'oauth', principal: 'x', tls: () => ({ ca }), token: () => identity.token(), onChange: (f) => identity.onChange(f), http: identity.http };
}
