import type { TextMapGetter, TextMapSetter } from '@opentelemetry/api';
import type { RecordHeaders } from '@turnpike/core';
import type { HeaderCarrier } from '@turnpike/core/spi';

/** Never over a context that the caller has put on the event. */
export const headerSetter: TextMapSetter<HeaderCarrier> = {
  set(carrier, name, value) {
    if (!carrier.hasHeaders || !carrier.headers.has(name)) carrier.headers.append(name, value);
  },
};

export const headerGetter: TextMapGetter<RecordHeaders> = {
  get: (headers, name) => headers.text(name),
  keys: (headers) => [...headers].map(([name]) => name),
};
