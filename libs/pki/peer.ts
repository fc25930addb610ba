/**
 * Checks of a TLS peer beyond what the handshake proves: the name that was dialled, and that the other side is a server
 * of the same trust domain. A node's certificate can never pass for a server's.
 */
import { checkServerIdentity, type PeerCertificate } from 'node:tls';
import { PkiError } from './errors.js';
import { type PeerIdentity, parsePeerIdentity } from './identity.js';
import type { ShownCertificate } from './revocations.js';

/** As `checkServer`, for a client that has no trust domain yet. */
export function checkAnyServer(hostname: string, certificate: PeerCertificate): Error | undefined {
  return checkServer(hostname, certificate, undefined);
}

/** Why a certificate of the right CA is not to be believed; undefined: nothing speaks against it. */
export type Refusing = (shown: ShownCertificate) => Error | undefined;

/** For TLS clients: returns what is wrong with the server's certificate, undefined when nothing is (RFC 6125). */
export function checkServer(
  hostname: string,
  certificate: PeerCertificate,
  trustDomain: string | undefined,
  refusalOf?: Refusing,
): Error | undefined {
  const wrongName = checkServerIdentity(hostname, certificate);
  if (wrongName) return wrongName;
  try {
    const peer = parsePeerIdentity(certificate.subjectaltname);
    if (peer.type === 'server' && (trustDomain ?? peer.trustDomain) === peer.trustDomain)
      return refusalOf?.(shownBy(certificate, peer));
    return new PkiError(
      'identity_malformed',
      `The other side is ${peer.type} “${peer.name}” of ${peer.trustDomain}, not a server${trustDomain === undefined ? '' : ` of ${trustDomain}`}.`,
    );
  } catch (error) {
    return error as Error;
  }
}

/** What a peer has shown, as revocations are asked about it. */
export function shownBy(
  certificate: Pick<PeerCertificate, 'serialNumber' | 'valid_from'>,
  { type, name }: PeerIdentity,
): ShownCertificate {
  const { serialNumber, valid_from } = certificate;
  return { type, name, serial: serialNumber.toUpperCase(), notBefore: new Date(valid_from) };
}

/** For servers: who the client is; a client of another trust domain is nobody. Throws PkiError. */
export function identifyClient(
  certificate: Pick<PeerCertificate, 'subjectaltname'>,
  trustDomain: string,
): PeerIdentity {
  const peer = parsePeerIdentity(certificate.subjectaltname);
  if (peer.trustDomain !== trustDomain) {
    throw new PkiError(
      'identity_malformed',
      `The certificate is of the trust domain ${peer.trustDomain}, not of ${trustDomain}.`,
    );
  }
  return peer;
}
