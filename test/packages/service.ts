// A small service as its developer would write it, in a folder of its own; the READMEs of the packages show this same one.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { names, root } from './tarballs.ts';

/** Fenced blocks of one language in a package's README. */
function shown(name: string, language: 'ts' | 'yaml'): string {
  const readme = readFileSync(path.join(root, 'packages', name, 'README.md'), 'utf8');
  return [...readme.matchAll(/^```(\w+)\n(.*?)^```$/gms)].flatMap(([, tag, text = '']) => (tag === language ? [text] : [])).join('\n');
}

export const manifest = shown('platform', 'yaml');

/** What an excerpt takes as given. */
const given: Readonly<Record<string, string>> = {
  policy: `import type { GrantClaims, Logger } from '@turnpike/core/spi';
declare const claims: GrantClaims, path: string, logger: Logger;
`,
};
export const readmes: readonly (readonly [name: string, module: string])[] = names.map((name) => [name, (given[name] ?? '') + shown(name, 'ts')]);

export const schema = JSON.stringify({
  type: 'record',
  name: 'OrderPlaced',
  namespace: 'com.acme.shop',
  fields: [
    { name: 'id', type: 'string' },
    { name: 'customer', type: 'string' },
    { name: 'cents', type: 'long' },
    { name: 'note', type: ['null', 'string'], default: null },
  ],
});

export const main = `import { connect, isTurnpikeError } from '@turnpike/client';
import { MemoryCluster, memoryTransport } from '@turnpike/core/memory';
import { checkout, type OrderPlaced } from './generated/checkout.ts';

const cluster = new MemoryCluster({ topics: { 'orders.placed': 3 } });
await using kafka = await connect(checkout, { environment: 'dev', transport: memoryTransport({ cluster }) });
await using orders = kafka.producer('orders.placed');
await orders.sendBatch(['ada', 'bob', 'ada'].map((customer, n) => ({ id: \`o-\${n}\`, customer, cents: 100n * BigInt(n) })));

const seen: OrderPlaced[] = [];
for await (const event of kafka.consumer(['orders.placed'])) {
  if (event.value) seen.push(event.value);
  if (seen.length === 3) break;
}
const total = seen.reduce((sum, order) => sum + order.cents, 0n);
console.log(\`\${kafka.principal}: \${seen.map((order) => order.id).sort().join(' ')}, \${total} cents\`);
try {
  kafka.producer('orders.shipped' as 'orders.placed');
} catch (error) {
  if (isTurnpikeError(error)) console.log(error.code);
}
`;

/** What must not compile: a topic that isn't declared, and an event of another shape. */
export const wrong = `import { connect } from '@turnpike/client';
import { checkout } from './generated/checkout.ts';

const kafka = await connect(checkout);
kafka.producer('orders.shipped');
await kafka.producer('orders.placed').send({ id: 'o-1', customer: 'ada', cents: 'a lot' });
`;
