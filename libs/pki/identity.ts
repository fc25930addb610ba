/**
 * Who a certificate speaks for: exactly one URI subject alternative name `spiffe://<trust domain>/<type>/<name>` (SPIFFE
 * ID, section 2 of the SPIFFE-ID standard). Knows no files and no network.
 */
import type { X509Certificate } from 'node:crypto';
import { PkiError } from './errors.js';

export const identityTypes = ['node', 'service', 'server'] as const;
export type IdentityType = (typeof identityTypes)[number];

export interface PeerIdentity {
  type: IdentityType;
  /** Lower-case letters, digits, dots, dashes and underscores; 63 at most. */
  name: string;
  trustDomain: string;
}

export const defaultTrustDomain = 'rhyzome.internal';

const namePattern = /^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$/;
const trustDomainPattern = /^[a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?$/;
const uriPattern = /^spiffe:\/\/([^/]+)\/([^/]+)\/([^/]+)$/;

/** The URI that stands in the certificate. Throws PkiError `name_malformed`. */
export function identityUri(identity: PeerIdentity): string {
  if (!namePattern.test(identity.name)) {
    throw new PkiError(
      'name_malformed',
      `“${identity.name}” cannot be the name of a ${identity.type}: up to 63 lower-case letters, digits, “.”, “-” and “_”, beginning and ending with a letter or digit.`,
    );
  }
  return `${trustDomainUri(identity.trustDomain)}/${identity.type}/${identity.name}`;
}

/** `spiffe://<trust domain>`, as it stands in the CA's own certificate. Throws PkiError `name_malformed`. */
export function trustDomainUri(trustDomain: string): string {
  if (!trustDomainPattern.test(trustDomain)) {
    throw new PkiError('name_malformed', `“${trustDomain}” cannot be a trust domain: it must look like a DNS name.`);
  }
  return `spiffe://${trustDomain}`;
}

/**
 * Reads the identity from a certificate or from the text of its subject alternative names as Node gives it
 * (`subjectaltname` of a TLS peer). Throws PkiError `identity_missing`, `identity_ambiguous` or `identity_malformed`.
 */
export function parsePeerIdentity(source: string | undefined | Pick<X509Certificate, 'subjectAltName'>): PeerIdentity {
  const text = typeof source === 'object' ? source.subjectAltName : source;
  const uris = subjectAltNames(text ?? '')
    .filter(([type, value]) => type === 'URI' && /^spiffe:/i.test(value))
    .map(([, value]) => value);
  const uri = uris[0];
  if (uri === undefined) {
    throw new PkiError(
      'identity_missing',
      'The certificate says nothing about who it is for: it needs one URI name such as spiffe://rhyzome.internal/node/node-1.',
    );
  }
  if (uris.length > 1) {
    throw new PkiError('identity_ambiguous', `The certificate has ${uris.length} identities; exactly one is allowed.`);
  }
  const [, trustDomain, type, name] = uriPattern.exec(uri) ?? [];
  if (
    trustDomain === undefined ||
    name === undefined ||
    !trustDomainPattern.test(trustDomain) ||
    !namePattern.test(name) ||
    !isIdentityType(type)
  ) {
    throw new PkiError(
      'identity_malformed',
      `The certificate's identity is not of the form spiffe://<trust domain>/(node|service|server)/<name>: ${JSON.stringify(uri.slice(0, 120))}`,
    );
  }
  return { type, name, trustDomain };
}

function isIdentityType(text: string | undefined): text is IdentityType {
  return identityTypes.some((type) => type === text);
}

/**
 * Splits `DNS:localhost, URI:spiffe://…`. Node writes a value with special characters as a JSON string, so that a comma
 * inside a name cannot forge another name; whatever does not fit that grammar is refused as a whole.
 */
export function subjectAltNames(text: string): [type: string, value: string][] {
  const names: [string, string][] = [];
  const entry = /([A-Za-z][A-Za-z ]*):(?:("(?:[^"\\]|\\.)*")|([^",]*))(?:, |$)/y;
  while (entry.lastIndex < text.length) {
    const match = entry.exec(text);
    if (match === null) {
      throw new PkiError('identity_malformed', 'The names of the certificate cannot be read.');
    }
    const [, type = '', quoted, plain = ''] = match;
    names.push([type, quoted === undefined ? plain : unquote(quoted)]);
  }
  return names;
}

function unquote(text: string): string {
  try {
    return String(JSON.parse(text));
  } catch (cause) {
    throw new PkiError('identity_malformed', 'The names of the certificate cannot be read.', undefined, { cause });
  }
}
