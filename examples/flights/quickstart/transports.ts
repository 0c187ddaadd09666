import type { ConnectOptions } from '@turnpike/client';

export const TRANSPORTS = ['wire', 'confluent', 'kafkajs'] as const;
export type TransportName = (typeof TRANSPORTS)[number];

export const isTransport = (name: string): name is TransportName => (TRANSPORTS as readonly string[]).includes(name);

/** The transport of a service's process, which is told its name as the first argument. A service of yours imports the one that it uses. */
export async function chosenTransport(name = process.argv[2] ?? 'wire'): Promise<ConnectOptions['transport'] & object> {
  if (name === 'confluent') return (await import('@turnpike/transports/confluent')).confluentTransport();
  if (name === 'kafkajs') return (await import('@turnpike/transports/kafkajs')).kafkajsTransport();
  return (await import('@turnpike/transports/wire')).wireTransport();
}
