import assert from 'node:assert/strict';
import { inspect } from 'node:util';
import { type ErrorCode, TurnpikeError } from '@turnpike/core';
import { type Identity, type Logger, pause, systemClock, type Token } from '@turnpike/core/spi';
import { oauthIdentity } from '@turnpike/identity';
import { certificateAuthority } from '../certificates.ts';
import { assertRefusal } from './assertions.ts';
import type { Bench, LinkBench, LinkOptions } from './bench.ts';
import type { ConsumerBench } from './consumer-bench.ts';
import { eachSent, numbered } from './data.ts';
import { type CaseDefinition, define } from './frame.ts';
import { Flow } from './groups-member.ts';
import { altered, connectionsTo, Forwarder, forged, renewing } from './identity-forgery.ts';

/** Whoever is refused knows why within this, in ms: the promise of the seam. */
const TOLD_MS = 5_000;

/** Tokens that live for so long, in s, at a broker that asks for a new proof when one ends, and forgives an expired one for a second. */
const TTL_S = 4;
const SHORT_LIVED = {
  tokenTtlSeconds: TTL_S,
  reauthMs: 60_000,
  properties: { 'listener.name.oauth.oauthbearer.sasl.oauthbearer.clock.skew.seconds': '1' },
} as const;

/** Everything that is logged, as text. */
function recorder(): { readonly logger: Logger; readonly lines: string[] } {
  const lines: string[] = [];
  const line = (event: string, facts?: unknown): void => void lines.push(inspect([event, facts], { depth: 20 }));
  return { logger: { debug: line, info: line, warn: line, error: line }, lines };
}

/** That connect() rejects with this code within 5 s, with a text that helps, and that no part of a token is in the error or in a log line. */
async function assertNoLink(
  bench: Bench,
  options: LinkOptions,
  code: ErrorCode | readonly ErrorCode[],
  secrets: readonly Token[] = [],
): Promise<TurnpikeError> {
  const { logger, lines } = recorder();
  const error = await assertRefusal(bench.link({ ...options, logger }), code, TOLD_MS);
  const told = [inspect(error, { depth: 20, showHidden: true }), ...lines].join('\n');
  for (const { value } of secrets)
    for (const part of value.split('.').filter((p) => p.length > 20))
      assert.ok(!told.includes(part), `a part of the token stands in the error or the log of ${error.code}`);
  return error;
}

/** Records go there and back. */
async function assertWorks(bench: Bench, link: LinkBench): Promise<void> {
  const principal = link.identity.principal;
  const topic = await bench.topic('t', { principals: [principal] });
  const group = await bench.group('g', { principal });
  const producer = await link.producer();
  eachSent(await producer.sendAll(numbered(50).map((n) => ({ topic, value: `${n}` }))));
  const consumer = await link.consumer({ group });
  await consumer.join([topic], 1);
  await consumer.untilCount(50);
  assert.deepEqual(consumer.values, numbered(50).map(String));
  await consumer.commit();
}

/** Subscribes and waits for a record: whichever of the two tells of a refusal. */
async function consume(consumer: ConsumerBench, topic: string): Promise<void> {
  await consumer.subscribe([topic]);
  const before = consumer.records.length;
  await consumer.until(() => consumer.records.length > before, { what: 'a record, or a refusal' });
}

/** A principal's link that has no right but those which the case gives it. */
const stranger = async (bench: Bench): Promise<{ readonly principal: string; readonly link: LinkBench }> => {
  const principal = bench.unique('p');
  return { principal, link: await bench.link({ principal }) };
};

export const identity: readonly CaseDefinition[] = [
  define({
    row: 'mTLS',
    name: 'is who its certificate names, also where that is a SPIFFE id',
    needs: 'broker',
    run: async (bench) => {
      await assertWorks(bench, await bench.link({ kind: 'mtls' }));
      await assertWorks(bench, await bench.link({ kind: 'mtls', principal: `spiffe://turnpike.example/${bench.name}` }));
    },
  }),

  define({
    row: 'OAUTHBEARER',
    name: 'is who its token names',
    needs: 'broker',
    quick: true,
    run: async (bench) => {
      await assertWorks(bench, await bench.link({ kind: 'oauth' }));
    },
  }),

  define({
    row: 'Re-authentication',
    name: 'produces and consumes over three lives of a token without an error, and on the connections that it began with',
    needs: 'broker',
    capability: (c) => c.reauthentication,
    run: async (bench) => {
      const platform = await bench.platformWith(SHORT_LIVED);
      const port = platform.nodes[0]?.ports.oauth ?? 0;
      const topic = await bench.topic('t', { platform });
      const group = await bench.group('g', { platform });
      const strangers = connectionsTo(port) ?? new Set();
      const { oauth } = await platform.principal(bench.principal);
      const issue = async (): Promise<Token> => {
        await using fresh = await oauthIdentity(oauth);
        return fresh.token();
      };
      const identity = await renewing(await bench.identity({ platform, kind: 'oauth' }), (TTL_S * 1_000) / 2, issue);
      bench.defer(() => identity[Symbol.dispose]());
      const link = await bench.link({ platform, kind: 'oauth', identity });
      const issuedBefore = platform.issuer.tokensIssued;
      const flow = Flow.start(link, topic, 1);
      const consumer = await link.consumer({ group });
      await consumer.join([topic], 1);
      await consumer.untilCount(20);
      await consumer.commit();
      const own = () => [...(connectionsTo(port) ?? [])].filter((c) => !strangers.has(c)).sort((a, b) => a - b);
      await consumer.pollFor(1_000); // What opens connections of its own has opened them by now.
      const begun = own();
      const until = performance.now() + 3 * TTL_S * 1_000;
      while (performance.now() < until) {
        await consumer.pollFor(200);
        await consumer.commit();
      }
      const ended = own();
      await flow.stop();
      await consumer.untilCount(flow.sent.length);
      assert.deepEqual(consumer.values, flow.sent);
      assert.deepEqual(consumer.failure, undefined);
      assert.deepEqual(
        consumer.changes.map((c) => c.kind),
        ['assigned'],
        'its membership saw nothing of it',
      );
      assert.ok(platform.issuer.tokensIssued - issuedBefore >= 3, 'three tokens were used');
      // Only Linux tells of a process's connections.
      if (connectionsTo(port) === undefined) return;
      assert.ok(begun.length > 0);
      assert.deepEqual(ended, begun, 'the connections are those of the beginning');
    },
  }),

  define({
    row: 'Denied topic',
    name: 'tells a producer within 5 s that it may not write, whether it may see the topic or not',
    quick: true,
    run: async (bench) => {
      const topic = await bench.topic('t', { principals: [] });
      const { principal, link } = await stranger(bench);
      const producer = await link.producer();
      const hidden = await assertRefusal(producer.send({ topic, value: 'v' }), 'AUTHORIZATION_FAILED', TOLD_MS);
      assert.equal(hidden.facts.topic, topic);
      assert.match(hidden.message, new RegExp(topic));
      await bench.allow('topic', topic, ['describe'], { principal });
      const seen = await assertRefusal(producer.send({ topic, value: 'v' }), 'AUTHORIZATION_FAILED', TOLD_MS);
      assert.deepEqual([seen.facts.topic, seen.written], [topic, 'no']);
      // The same producer, of a topic that it may write: one refusal is not the next one's.
      const other = await bench.topic('other', { principals: [principal] });
      await producer.send({ topic: other, value: 'v' });
      await bench.allow('topic', topic, ['write'], { principal });
      await producer.send({ topic, value: 'v' });
    },
  }),

  define({
    row: 'Denied topic',
    name: 'fails only the records of the denied topic, where a flush holds those of another one too',
    run: async (bench) => {
      const { principal, link } = await stranger(bench);
      const [denied, open] = [await bench.topic('denied', { principals: [] }), await bench.topic('open', { principals: [principal], partitions: 2 })];
      await bench.allow('topic', denied, ['describe'], { principal });
      const producer = await link.producer();
      const outcomes = await bench.within(
        TOLD_MS,
        producer.sendAll(numbered(60).map((n) => ({ topic: n % 3 === 0 ? denied : open, partition: n % 3 === 2 ? 1 : 0, value: `${n}` }))),
        'the outcome of all records',
      );
      for (const [n, outcome] of outcomes.entries()) {
        if (n % 3 !== 0) assert.equal(outcome.status, 'fulfilled', `record ${n} of the open topic`);
        else assert.equal(outcome.status === 'rejected' && (outcome.reason as TurnpikeError).code, 'AUTHORIZATION_FAILED');
      }
      assert.equal(producer.settledTwice, 0);
    },
  }),

  define({
    row: 'Denied topic',
    name: 'tells a consumer within 5 s that it may not read, whether it may see the topic or not',
    run: async (bench) => {
      const topic = await bench.topic();
      await (await (await bench.link()).producer()).send({ topic, value: 'v' });
      const { principal, link } = await stranger(bench);
      const hidden = await assertRefusal(consume(await link.consumer(), topic), 'AUTHORIZATION_FAILED', TOLD_MS);
      assert.equal(hidden.facts.topic, topic);
      await bench.allow('topic', topic, ['describe'], { principal });
      const seen = await assertRefusal(consume(await link.consumer(), topic), 'AUTHORIZATION_FAILED', TOLD_MS);
      assert.equal(seen.facts.topic, topic);
      await bench.allow('topic', topic, ['read'], { principal });
      await consume(await link.consumer(), topic);
    },
  }),

  define({
    row: 'Denied group',
    name: 'tells a consumer within 5 s that it may not be in the group',
    quick: true,
    run: async (bench) => {
      const topic = await bench.topic();
      const group = bench.unique('g');
      const link = await bench.link();
      await (await link.producer()).send({ topic, value: 'v' });
      const error = await assertRefusal(consume(await link.consumer({ group }), topic), 'AUTHORIZATION_FAILED', TOLD_MS);
      assert.equal(error.facts.group, group);
      assert.match(error.message, new RegExp(group));
      await bench.allow('group', group, ['read']);
      await consume(await link.consumer({ group }), topic);
    },
  }),

  define({
    row: 'Denied transactional id',
    name: 'tells a producer within 5 s that it may not use the transactional id',
    needs: 'broker',
    capability: (c) => c.transactions,
    requires: { producer: { transactionalId: 'conformance' } },
    run: async (bench) => {
      const transactionalId = bench.unique('x');
      const link = await bench.link();
      const begin = async () => (await link.producer({ transactionalId })).transaction.begin();
      const error = await assertRefusal(begin(), 'AUTHORIZATION_FAILED', TOLD_MS);
      assert.equal(error.facts.transactionalId, transactionalId);
      await bench.allow('transactionalId', transactionalId, ['write', 'describe']);
      await begin();
    },
  }),

  define({
    row: 'ACL withdrawn',
    name: 'tells a producer within 5 s that it may no longer write, and goes on once it may again',
    run: async (bench) => {
      const topic = await bench.topic();
      const producer = await (await bench.link()).producer();
      await producer.send({ topic, value: 'before' });
      await bench.revoke('topic', topic, ['write', 'read']);
      const error = await assertRefusal(producer.send({ topic, value: 'refused' }), 'AUTHORIZATION_FAILED', TOLD_MS);
      assert.deepEqual([error.facts.topic, error.written], [topic, 'no']);
      await bench.allow('topic', topic, ['write', 'read']);
      await producer.send({ topic, value: 'after' });
      const reader = await bench.readBack(topic, 2);
      assert.deepEqual(reader.values, ['before', 'after']);
    },
  }),

  define({
    row: 'ACL withdrawn',
    name: 'tells a consumer within 5 s that it may no longer read the topic, or no longer be in the group',
    run: async (bench) => {
      const topic = await bench.topic();
      const [link, writer] = [await bench.link(), await bench.link({ principal: bench.unique('p') })];
      await bench.allow('topic', topic, ['write'], { principal: writer.identity.principal });
      const producer = await writer.producer();
      const [byTopic, byGroup] = [await link.consumer(), await link.consumer()];
      await Promise.all([byTopic.join([topic], 1), byGroup.join([topic], 1)]);
      await producer.send({ topic, value: 'before' });
      await Promise.all([byTopic.untilCount(1), byGroup.untilCount(1)]);

      await bench.revoke('group', byGroup.group, ['read']);
      const noGroup = await assertRefusal(
        (async () => {
          // Whichever is first: its heartbeat, or the next commit.
          while (byGroup.failure === undefined) {
            await byGroup.poll(100);
            await byGroup.commit();
          }
          throw byGroup.failure;
        })(),
        'AUTHORIZATION_FAILED',
        TOLD_MS,
      );
      assert.equal(noGroup.facts.group, byGroup.group);

      await bench.revoke('topic', topic, ['read']);
      const noTopic = await assertRefusal(
        byTopic.until(() => false, { what: 'a refusal' }),
        'AUTHORIZATION_FAILED',
        TOLD_MS,
      );
      await producer.send({ topic, value: 'after' });
      assert.equal(noTopic.facts.topic, topic);
      assert.deepEqual(byTopic.values, ['before']);
    },
  }),

  define({
    row: 'Refused token',
    name: 'says AUTHENTICATION_FAILED within 5 s where a key that the broker does not know has signed the token, and never shows it',
    needs: 'broker',
    run: async (bench) => {
      const good = await bench.identity({ kind: 'oauth' });
      const token = await forged(await good.token());
      await assertNoLink(bench, { kind: 'oauth', identity: altered(good, { token: async () => token }) }, 'AUTHENTICATION_FAILED', [token]);
    },
  }),

  define({
    row: 'Refused token',
    name: 'says so within 5 s where the token has expired, whatever the client believes of its life',
    needs: 'broker',
    run: async (bench) => {
      // Not the one on which another case counts connections.
      const platform = await bench.platformWith({ ...SHORT_LIVED, tokenTtlSeconds: 2 });
      const good = await bench.identity({ kind: 'oauth', platform });
      const token = await good.token();
      await pause(systemClock, token.expiresAtMs - Date.now() + 1_500); // And the second that the broker forgives.
      const expired = (expiresAtMs: number): Identity => altered(good, { token: async () => ({ value: token.value, expiresAtMs }) });
      const where = { platform, kind: 'oauth' } as const;
      await assertNoLink(bench, { ...where, identity: expired(Date.now() + 60_000) }, 'AUTHENTICATION_FAILED', [token]);
      // Some libraries know themselves that there is nothing to send.
      await assertNoLink(bench, { ...where, identity: expired(token.expiresAtMs) }, ['AUTHENTICATION_FAILED', 'TOKEN_UNAVAILABLE'], [token]);
      await bench.link({ ...where, identity: good });
    },
  }),

  define({
    row: 'Refused token',
    name: 'says TOKEN_UNAVAILABLE within 5 s where the issuer gives none',
    needs: 'broker',
    run: async (bench) => {
      const good = await bench.identity({ kind: 'oauth' });
      const gone = new TurnpikeError('TOKEN_UNAVAILABLE', 'The issuer does not answer.', { retriable: true });
      const error = await assertNoLink(
        bench,
        { kind: 'oauth', connectTimeoutMs: 3_000, identity: altered(good, { token: () => Promise.reject(gone) }) },
        'TOKEN_UNAVAILABLE',
      );
      assert.equal(error.retriable, true);
      // The last try is cut short by the timeout, and knows less than the one before.
      let asked = 0;
      const stuck = (): Promise<Token> => (asked++ === 0 ? Promise.reject(gone) : new Promise(() => {}));
      await assertNoLink(bench, { kind: 'oauth', connectTimeoutMs: 1_500, identity: altered(good, { token: stuck }) }, 'TOKEN_UNAVAILABLE');
    },
  }),

  define({
    row: 'Refused token',
    name: 'tells producer and consumer within 5 s where tokens are refused that come after the link was opened, and never shows them',
    needs: 'broker',
    run: async (bench) => {
      const topic = await bench.topic();
      const group = await bench.group();
      const good = await bench.identity({ kind: 'oauth' });
      const bad = await forged(await good.token());
      let token = () => good.token();
      const { logger, lines } = recorder();
      const link = await bench.link({ kind: 'oauth', identity: altered(good, { token: () => token() }), logger });
      token = async () => bad;
      const errors = [
        await assertRefusal(
          (async () => {
            const producer = await link.producer();
            await producer.send({ topic, value: 'v' });
          })(),
          'AUTHENTICATION_FAILED',
          TOLD_MS,
        ),
        await assertRefusal(consume(await link.consumer({ group }), topic), 'AUTHENTICATION_FAILED', TOLD_MS),
      ];
      const told = [...errors.map((e) => inspect(e, { depth: 20, showHidden: true })), ...lines].join('\n');
      assert.ok(!told.includes(bad.value) && !told.includes(bad.value.split('.')[2] ?? bad.value));
    },
  }),

  define({
    row: 'Wrong CA',
    name: "says TLS_FAILED within 5 s where an authority has signed the broker's certificate that it does not trust",
    needs: 'broker',
    run: async (bench) => {
      const other = await certificateAuthority('another-ca');
      for (const kind of ['mtls', 'oauth'] as const) {
        const good = await bench.identity({ kind });
        const error = await assertNoLink(bench, { kind, identity: altered(good, { tls: { ...good.tls(), ca: other.ca } }) }, 'TLS_FAILED');
        assert.equal(error.retriable, false, 'nothing but a change of configuration helps');
      }
    },
  }),

  define({
    row: 'Refused certificate',
    name: 'says TLS_FAILED within 5 s without a certificate, with an expired one, and with one of an authority that the broker does not trust',
    needs: 'broker',
    run: async (bench) => {
      const { certificates } = bench.platform;
      const good = await bench.identity({ kind: 'mtls' });
      const request = { commonName: bench.principal };
      const [expired, foreign] = [
        await certificates.issue({ ...request, notBefore: new Date(Date.now() - 3_600_000), notAfter: new Date(Date.now() - 60_000) }),
        await (await certificateAuthority('another-ca')).issue(request),
      ];
      const tls = [{ ca: certificates.ca }, { ...expired, ca: certificates.ca }, { ...foreign, ca: certificates.ca }];
      for (const material of tls) {
        const error = await assertNoLink(bench, { kind: 'mtls', identity: altered(good, { tls: material }) }, 'TLS_FAILED');
        assert.match(error.message, /client certificate/, 'it says which of the two certificates is meant');
        assert.ok(!inspect(error, { depth: 20 }).includes('PRIVATE KEY'));
      }
    },
  }),

  define({
    row: 'Wrong host name',
    name: "says TLS_FAILED within 5 s where the address is none of the broker certificate's names",
    needs: 'broker',
    run: async (bench) => {
      for (const kind of ['mtls', 'oauth'] as const) {
        const [address = ''] = bench.platform.cluster?.bootstrap[kind] ?? [];
        // All of 127/8 is this machine; the certificate names 127.0.0.1.
        const forwarder = bench.use(await Forwarder.open('127.0.0.2', address));
        const error = await assertNoLink(bench, { kind, cluster: { bootstrap: [forwarder.address] } }, 'TLS_FAILED');
        assert.match(error.message, /name/);
      }
    },
  }),
];
