/** Another certificate for whoever shows one that holds: for another key, and for nobody but the one that it names. */
import { RhyzomeError } from '#libs/core';
import type { Database } from '#libs/db';
import { writeAudit } from '#libs/events';
import { type CertificateIssuer, type CheckedRequest, identityUri, type PeerIdentity } from '#libs/pki';
import { isRevoked, lockHolder } from './holder.js';
import { recordCertificate } from './issued.js';

/** The certificate that was shown. */
export interface Shown extends PeerIdentity {
  serial: string;
  notBefore: Date;
}

/**
 * The new certificate in PEM, with its intermediates. Asking twice gives two; whoever lost the answer asks again. Throws
 * RhyzomeError `forbidden` (servers; a request in another's name), `unauthenticated` (revoked meanwhile).
 */
export async function renew(
  db: Database,
  issuer: CertificateIssuer,
  shown: Shown,
  request: CheckedRequest,
  source: string,
): Promise<string> {
  const { type, name, serial } = shown;
  if (type === 'server')
    throw new RhyzomeError('forbidden', 'Servers’ certificates are issued by hand: “rhyzome pki issue --force”.');
  if (request.askedUri !== undefined && request.askedUri !== identityUri(shown))
    throw new RhyzomeError('forbidden', 'A certificate is renewed for its own holder only; the request names another.');
  const holder = { kind: type, name };
  return db.operatorTransaction(async (tx) => {
    await lockHolder(tx, holder);
    if (await isRevoked(tx, holder, serial, shown.notBefore))
      throw new RhyzomeError('unauthenticated', 'Your certificate was revoked.');
    const leaf = await issuer.issue(type, name, request);
    await recordCertificate(tx, holder, leaf, { by: `${type}:${name}`, renews: serial, source });
    await writeAudit(tx, {
      tenantId: 'system',
      actor: `${type}:${name}`,
      action: 'certificate.renew',
      kind: type,
      resourceName: name,
      result: 'done',
      source,
      details: { serial: leaf.serial, renews: serial, notAfter: leaf.notAfter.toISOString() },
    });
    return leaf.chain;
  });
}
