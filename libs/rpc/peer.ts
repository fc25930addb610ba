/**
 * Who calls: the identity in the client's certificate and the id of the request, for handlers.
 */
import { randomUUID } from 'node:crypto';
import type * as grpc from '@grpc/grpc-js';
import { RhyzomeError } from '#libs/core';
import { type IdentityType, type PeerIdentity, PkiError, parsePeerIdentity } from '#libs/pki';

/** A client as its certificate names it. */
export interface Peer extends PeerIdentity {
  /** Serial number of the certificate, upper hex. */
  serial: string;
  /** SHA-256 of the certificate, upper hex with colons. */
  fingerprint: string;
  notBefore: Date;
  notAfter: Date;
}

type AuthenticatedCall = Pick<grpc.ServerInterceptingCallInterface, 'getAuthContext'>;

const peers = new WeakMap<object, Peer>();

/**
 * The peer of a call. Throws RhyzomeError `unauthenticated` when there is no certificate with one identity. The trust
 * domain was compared when the call was admitted.
 */
export function peerOf(call: AuthenticatedCall): Peer {
  const known = peers.get(call);
  if (known) return known;
  const certificate = call.getAuthContext()?.sslPeerCertificate;
  if (!certificate) throw new RhyzomeError('unauthenticated', 'A client certificate is needed.');
  let identity: PeerIdentity;
  try {
    identity = parsePeerIdentity(certificate.subjectaltname);
  } catch (error) {
    if (error instanceof PkiError) throw new RhyzomeError('unauthenticated', error.message, { cause: error });
    throw error;
  }
  const peer = {
    ...identity,
    serial: certificate.serialNumber,
    fingerprint: certificate.fingerprint256,
    notBefore: new Date(certificate.valid_from),
    notAfter: new Date(certificate.valid_to),
  };
  peers.set(call, peer);
  return peer;
}

/** The peer, if it is of one of the types. Throws RhyzomeError `forbidden`. */
export function requirePeer(call: AuthenticatedCall, ...types: IdentityType[]): Peer {
  const peer = peerOf(call);
  if (types.includes(peer.type)) return peer;
  throw new RhyzomeError('forbidden', `This is for a ${types.join(' or a ')}; your certificate is a ${peer.type}’s.`);
}

export const requestIdKey = 'x-request-id';

/** The id that came with the call, or a new one when there is none or it is not well-formed. */
export function requestIdOf(metadata: grpc.Metadata): string {
  const [given] = metadata.get(requestIdKey);
  return typeof given === 'string' && /^[A-Za-z0-9._-]{1,128}$/.test(given) ? given : randomUUID();
}
