/** PEM texts; `ca` also verifies the issuer and the registry. */
export interface TlsMaterial {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
}

/** A bearer token. Its text never goes into a log, an error, a span or `util.inspect`. */
export interface Token {
  readonly value: string;
  /** Wall clock, ms since the epoch. */
  readonly expiresAtMs: number;
}

export interface HttpRequest {
  readonly url: string;
  readonly method?: 'GET' | 'POST' | 'PUT' | 'DELETE';
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  /** ms (> 0) for the whole exchange. Default 10_000. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface HttpResponse {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** HTTP as this identity: its CA and client certificate, its bearer token. Rejects with our error when there is no answer; a status of 400 and above is an answer. */
export interface HttpPort {
  request(request: HttpRequest): Promise<HttpResponse>;
}

/** Who this process is. One identity serves the brokers, the registry and every HTTP call. */
export interface Identity {
  /** Which listener it speaks to: "mtls" = a client certificate (SSL), "oauth" = a bearer token (SASL_SSL OAUTHBEARER), "none" = no proof (memory; plaintext on loopback). */
  readonly kind: 'mtls' | 'oauth' | 'none';
  /** The name that the brokers give it, without `User:`: a certificate's mapped subject or a token's `sub`. */
  readonly principal: string;
  tls(): TlsMaterial | undefined;
  /** A token that is valid now. Rejects with TOKEN_UNAVAILABLE; an identity of another kind rejects with IDENTITY_INVALID. */
  token(audience?: string): Promise<Token>;
  /** Called when certificate or token material has changed. */
  onChange(listener: () => void): Disposable;
  readonly http: HttpPort;
}
