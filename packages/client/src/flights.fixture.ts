import { avroCodec, defineService, type TopicContract } from './generated.ts';

/** A contract as `turnpike generate` writes it, for tests of the client alone. */
export interface Departed {
  id: string;
  origin: string;
  delayMinutes: number;
}

const text = JSON.stringify({
  type: 'record',
  name: 'Departed',
  namespace: 'com.acme.flights',
  fields: [
    { name: 'id', type: 'string' },
    { name: 'origin', type: 'string' },
    { name: 'delayMinutes', type: 'int' },
  ],
});

function topic(name: string, cluster = 'airside'): TopicContract<Departed, Departed, string> {
  const schema = { subject: `${name}-value`, sha256: `sha-of-${name}` };
  return {
    name,
    cluster,
    key: { format: 'string', of: (event) => event.origin },
    value: { format: 'avro', schema, text, codec: () => avroCodec<Departed>(schema, text) },
  };
}

export const flights = defineService({
  name: 'flight-ops',
  team: 'airside',
  environments: { dev: { principals: ['flight-ops-dev'] }, prod: { principals: ['spiffe://acme/airside/flight-ops'] } },
  rootKeys: [],
  produces: { 'flights.departed': topic('flights.departed'), 'flights.landed': topic('flights.landed', 'landside') },
  consumes: {
    'flights.departed': { topic: topic('flights.departed'), groups: ['ops.audit', 'ops.stats'] },
    'flights.landed': { topic: topic('flights.landed', 'landside'), groups: ['ops.stats'] },
  },
});
