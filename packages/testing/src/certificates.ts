import 'reflect-metadata'; // @peculiar/x509 needs it, first.
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import * as x509 from '@peculiar/x509';

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
const DAY_MS = 86_400_000;
const LOCAL = [
  { type: 'dns', value: 'localhost' },
  { type: 'ip', value: '127.0.0.1' },
] as const;

/** PEM texts. */
export interface Certificate {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

/** The same as files, mode 0600. */
export interface CertificateFiles {
  readonly caFile: string;
  readonly certFile: string;
  readonly keyFile: string;
}

export interface CertificateRequest {
  readonly commonName: string;
  /** "server" answers for localhost and 127.0.0.1; "client" proves a name; "both" for brokers. Default "client". */
  readonly usage?: 'client' | 'server' | 'both';
  /** Default: a minute ago. */
  readonly notBefore?: Date;
  /** Default: in 30 days. */
  readonly notAfter?: Date;
  /** URI subject alternative names, such as a SPIFFE id. */
  readonly uris?: readonly string[];
}

/** A private certificate authority of one platform. */
export interface CertificateAuthority {
  readonly ca: string;
  issue(request: CertificateRequest): Promise<Certificate>;
  /** Issues and writes `<name>.crt.pem`, `<name>.key.pem`, `ca.pem`. */
  issueTo(folder: string, name: string, request: CertificateRequest): Promise<CertificateFiles>;
}

export async function certificateAuthority(commonName = 'turnpike-local-ca'): Promise<CertificateAuthority> {
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const root = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serial(),
    name: `O=turnpike,CN=${commonName}`,
    keys,
    signingAlgorithm: ALGORITHM,
    notBefore: new Date(Date.now() - DAY_MS),
    notAfter: new Date(Date.now() + 365 * DAY_MS),
    extensions: [
      new x509.BasicConstraintsExtension(true, 1, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  const ca = root.toString('pem');

  const issue = async (request: CertificateRequest): Promise<Certificate> => {
    const { commonName: name, usage = 'client', uris = [] } = request;
    const own = await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
    const names = [...(usage === 'client' ? [] : LOCAL), ...uris.map((value) => ({ type: 'url' as const, value }))];
    const purposes = [...(usage === 'client' ? [] : [x509.ExtendedKeyUsage.serverAuth]), ...(usage === 'server' ? [] : [x509.ExtendedKeyUsage.clientAuth])];
    const certificate = await x509.X509CertificateGenerator.create({
      serialNumber: serial(),
      // RFC 2253, which the broker's mapping rules see, prints these reversed: CN first.
      subject: [{ O: ['turnpike'] }, { CN: [name] }],
      issuer: root.subject,
      publicKey: own.publicKey,
      signingKey: keys.privateKey,
      signingAlgorithm: ALGORITHM,
      notBefore: request.notBefore ?? new Date(Date.now() - 60_000),
      notAfter: request.notAfter ?? new Date(Date.now() + 30 * DAY_MS),
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension(purposes),
        ...(names.length > 0 ? [new x509.SubjectAlternativeNameExtension(names)] : []),
        await x509.AuthorityKeyIdentifierExtension.create(keys.publicKey),
        await x509.SubjectKeyIdentifierExtension.create(own.publicKey),
      ],
    });
    const key = x509.PemConverter.encode(await crypto.subtle.exportKey('pkcs8', own.privateKey), 'PRIVATE KEY');
    return { ca, cert: certificate.toString('pem'), key };
  };

  return {
    ca,
    issue,
    async issueTo(folder, name, request) {
      const certificate = await issue(request);
      const files = { caFile: path.join(folder, 'ca.pem'), certFile: path.join(folder, `${name}.crt.pem`), keyFile: path.join(folder, `${name}.key.pem`) };
      writePrivate(files.caFile, ca);
      writePrivate(files.certFile, certificate.cert);
      writePrivate(files.keyFile, certificate.key);
      return files;
    },
  };
}

/** Writes a file that only its owner may read. */
export function writePrivate(file: string, text: string): void {
  mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
  writeFileSync(file, text.endsWith('\n') ? text : `${text}\n`, { mode: 0o600 });
  // The mode above is for a file that is new.
  chmodSync(file, 0o600);
}

/** Positive (RFC 5280, 4.1.2.2): the first hex digit stays under 8. */
const serial = (): string =>
  Buffer.from(crypto.getRandomValues(new Uint8Array(16)))
    .toString('hex')
    .replace(/^[089a-f]/, '1');
