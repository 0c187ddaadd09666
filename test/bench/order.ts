// An order of ten fields, with a nested record, an array, an enum and a union: what the end-to-end tests serialize.

export interface Order {
  readonly orderId: string;
  readonly customerId: string;
  readonly createdAt: number;
  readonly status: 'NEW' | 'PAID' | 'SHIPPED' | 'CANCELLED';
  readonly currency: string;
  readonly total: number;
  readonly items: readonly { readonly sku: string; readonly qty: number; readonly price: number }[];
  readonly shipTo: { readonly street: string; readonly city: string; readonly zip: string; readonly country: string };
  readonly note: string | null;
  readonly attempt: number;
}

const field = (name: string, type: unknown) => ({ name, type });

const orderSchema = {
  type: 'record',
  name: 'OrderPlaced',
  namespace: 'shop',
  fields: [
    field('orderId', 'string'),
    field('customerId', 'string'),
    field('createdAt', 'long'),
    field('status', { type: 'enum', name: 'Status', symbols: ['NEW', 'PAID', 'SHIPPED', 'CANCELLED'] }),
    field('currency', 'string'),
    field('total', 'double'),
    field('items', { type: 'array', items: { type: 'record', name: 'Item', fields: [field('sku', 'string'), field('qty', 'int'), field('price', 'double')] } }),
    field('shipTo', {
      type: 'record',
      name: 'Address',
      fields: [field('street', 'string'), field('city', 'string'), field('zip', 'string'), field('country', 'string')],
    }),
    { name: 'note', type: ['null', 'string'], default: null },
    field('attempt', 'int'),
  ],
};

export const orderSchemaText = JSON.stringify(orderSchema);

/** The same numbers in every process. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    return state % below;
  };
}

const below = numbers(12_345);
const hex = (digits: number) => Array.from({ length: digits }, () => '0123456789abcdef'[below(16)]).join('');
const of = <T>(list: readonly T[]): T => list[below(list.length)] as T;

/** Every 16th has a city that isn't ASCII, so that no encoder may count on it. */
export const events: readonly Order[] = Array.from({ length: 1_024 }, (_, i) => ({
  orderId: `${hex(8)}-${hex(4)}-4${hex(3)}-a${hex(3)}-${hex(12)}`,
  customerId: `cust-${String(below(1_000_000)).padStart(6, '0')}`,
  createdAt: 1_790_000_000_000 + below(1_000_000_000),
  status: of(['NEW', 'PAID', 'SHIPPED', 'CANCELLED'] as const),
  currency: 'EUR',
  total: below(100_000) / 100,
  items: Array.from({ length: 1 + below(4) }, () => ({ sku: `SKU-${hex(8)}`, qty: 1 + below(9), price: below(10_000) / 100 })),
  shipTo: {
    street: `${1 + below(300)} Main Street`,
    city: i % 16 === 0 ? 'München' : of(['Amsterdam', 'Rotterdam', 'Utrecht', 'Lisboa', 'Dublin', 'Wien', 'Praha']),
    zip: String(10_000 + below(80_000)),
    country: 'NL',
  },
  note: below(3) > 0 ? null : 'leave at the door, ring twice',
  attempt: below(5),
}));
