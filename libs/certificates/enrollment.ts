/**
 * Trades a one-time token and a key for a node's certificate. The token is used up in the transaction that records the
 * certificate; whoever did not get the answer asks again with the same key and gets the same certificate. Whatever is
 * wrong with a token, the refusal is the same.
 */
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import { writeAudit } from '#libs/events';
import { type CertificateIssuer, type CheckedRequest, identityUri } from '#libs/pki';
import { type Holder, isRevoked, lockHolder } from './holder.js';
import { recordCertificate } from './issued.js';
import { hashOf, isToken } from './tokens.js';

export interface EnrollmentAsked {
  token: string;
  request: CheckedRequest;
  /** Empty, or what the machine believes to be. */
  nodeName: string;
  /** Address that it came from. */
  source: string;
}

export interface Enrolled {
  nodeName: string;
  labels: Record<string, string>;
  /** PEM, with its intermediates. */
  chain: string;
}

interface TokenRow {
  id: string;
  node_name: string;
  labels: Record<string, string>;
  holds: boolean;
  public_key: Buffer | null;
  serial: string | null;
}

/** Throws RhyzomeError `unauthenticated`, the same for every reason. */
export async function enroll(db: Database, issuer: CertificateIssuer, asked: EnrollmentAsked): Promise<Enrolled> {
  if (!isToken(asked.token)) throw refusal();
  return db.operatorTransaction(async (tx) => {
    const { rows } = await sql<TokenRow>`
      select id, node_name, labels, revoked_at is null and expires_at > now() as holds, public_key, serial
      from enrollment_token where hash = ${hashOf(asked.token)} for update`.execute(tx);
    const token = rows[0];
    if (!token?.holds || !isMeant(token, asked, issuer.trustDomain)) throw refusal();
    const { node_name: nodeName, labels } = token;
    const holder: Holder = { kind: 'node', name: nodeName };
    await lockHolder(tx, holder);
    const chain = token.serial
      ? await issuedBefore(tx, holder, token, asked.request)
      : await issueFirst(tx, issuer, token, asked);
    return { nodeName, labels, chain };
  });
}

/** A machine that says who it is must be right. */
function isMeant(token: TokenRow, { nodeName, request }: EnrollmentAsked, trustDomain: string): boolean {
  if (nodeName !== '' && nodeName !== token.node_name) return false;
  if (request.askedUri === undefined) return true;
  return request.askedUri === identityUri({ type: 'node', name: token.node_name, trustDomain });
}

async function issueFirst(tx: Tx, issuer: CertificateIssuer, token: TokenRow, asked: EnrollmentAsked): Promise<string> {
  const { request, source } = asked;
  const name = token.node_name;
  const leaf = await issuer.issue('node', name, request);
  const by = `token:${token.id}`;
  await recordCertificate(tx, { kind: 'node', name }, leaf, { by, source });
  await sql`update enrollment_token set used_at = now(), public_key = ${request.keyDigest}, serial = ${leaf.serial}
    where id = ${token.id}`.execute(tx);
  await writeAudit(tx, {
    tenantId: 'system',
    actor: by,
    action: 'certificate.issue',
    kind: 'node',
    resourceName: name,
    result: 'done',
    source,
    details: { serial: leaf.serial, notAfter: leaf.notAfter.toISOString() },
  });
  return leaf.chain;
}

async function issuedBefore(tx: Tx, holder: Holder, token: TokenRow, request: CheckedRequest): Promise<string> {
  if (!token.public_key?.equals(request.keyDigest)) throw refusal();
  const known = await tx
    .selectFrom('certificate')
    .select(['chain', 'not_before'])
    .where('serial', '=', token.serial)
    .executeTakeFirst();
  if (!known || (await isRevoked(tx, holder, token.serial!, known.not_before))) throw refusal();
  return known.chain;
}

function refusal(): RhyzomeError {
  return new RhyzomeError(
    'unauthenticated',
    'The token does not hold here: unknown, used, expired, revoked or for another node. An administrator makes a new one by “rhyzome node enroll NAME”.',
  );
}
