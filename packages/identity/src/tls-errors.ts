/** OpenSSL's and Node's codes for a certificate that is not trusted, or a handshake that failed; never the text. */
export function isTlsError(code: string | undefined): boolean {
  return (
    code !== undefined &&
    (/^ERR_(SSL|TLS|OSSL)/.test(code) ||
      /^(CERT_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_(GET|VERIFY|DECRYPT|DECODE)_|CRL_|HOSTNAME_MISMATCH|INVALID_CA|INVALID_PURPOSE|PATH_LENGTH_|EPROTO$)/.test(
        code,
      ))
  );
}
