import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { orderSchemaText } from './order.ts';

/** Answers what the peers' registry packages ask at their start: one subject with one schema. They keep it, so it costs nothing while they are measured. */
export async function startStubRegistry(): Promise<{ readonly url: string; readonly id: number; readonly subject: string }> {
  const id = 1;
  const subject = 'orders-value';
  const whole = { subject, version: 1, id, schema: orderSchemaText, schemaType: 'AVRO' };
  const server = createServer((request, response) => {
    const path = (request.url ?? '').split('?')[0] ?? '';
    request.resume();
    const known = path.startsWith('/config') ? { compatibilityLevel: 'BACKWARD' } : /^\/(schemas|subjects)\//.test(path) ? whole : undefined;
    response.writeHead(known ? 200 : 404, { 'content-type': 'application/vnd.schemaregistry.v1+json' });
    response.end(JSON.stringify(known ?? { error_code: 40_401, message: `nothing at ${path}` }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  server.unref();
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, id, subject };
}
