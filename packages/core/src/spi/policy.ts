/** Asked at each drain, for the bytes of one attempt. `capabilities.quotaBasis` says whether bytes are "wire" or an "estimate". */
export interface DrainGate {
  /** 0 = go (and it is charged), else the ms to wait before asking again. Reads the real clock. */
  admit(topic: string, records: number, bytes: number): number;
  /** Takes a charge back after a definite non-write. */
  refund(topic: string, records: number, bytes: number): void;
  /** The most that one admit should ask for, so that one big batch can't overdraw a bucket; undefined = no quota on this topic. */
  burst(topic: string): { readonly records: number; readonly bytes: number } | undefined;
  /** Refuse mode decides at send(): throws QUOTA_EXCEEDED with `retryAfterMs` when this much more, on top of what is queued, could not go at once. In wait mode it does nothing. */
  refuse(topic: string, queuedRecords: number, queuedBytes: number): void;
}

/** The consumer's side: no permit, no fetch; so nothing is held while it waits. */
export interface FetchGate {
  /** 0 = fetch now, else the ms to wait before asking again. Throws GRANT_DENIED when the topic was revoked. */
  permit(topic: string, group: string): number;
  charge(topic: string, group: string, records: number, bytes: number): void;
}

/** What this process may do. Synchronous: lookups that need the network happen at start-up and in the background. */
export interface AccessPolicy {
  /** Throws GRANT_DENIED (written "no") in mode enforce; in warn it logs, in shadow it only counts. */
  produce(topic: string): void;
  consume(topic: string, group: string): void;
}

export const openGate: DrainGate & FetchGate = {
  admit: () => 0,
  refund: () => {},
  burst: () => undefined,
  refuse: () => {},
  permit: () => 0,
  charge: () => {},
};
