/**
 * The service of certificates as this replica gives it: with limits on how often, and refusals in words. Keys and tokens
 * are libs/certificates' matter.
 */
import { type Enrolled, enroll, renew } from '#libs/certificates';
import { RhyzomeError } from '#libs/core';
import type { Database } from '#libs/db';
import { type CertificateIssuer, type CheckedRequest, checkRequest, PkiError } from '#libs/pki';
import { addressKey, TokenBuckets } from '#libs/rest';
import type { Peer } from '#libs/rpc';

/** Tries to enroll: of an address, and of all together. A token cannot be guessed; a request costs a signature check. */
const enrollments = { perSecond: 0.5, burst: 10 };
const allEnrollments = { perSecond: 20, burst: 100 };
/** Renewals of one certificate’s holder. */
const renewals = { perSecond: 1 / 60, burst: 10 };

export class Certificates {
  private readonly addresses = new TokenBuckets('address', enrollments.perSecond, enrollments.burst);
  private readonly everybody = new TokenBuckets('enrollments', allEnrollments.perSecond, allEnrollments.burst);
  private readonly holders = new TokenBuckets('holder', renewals.perSecond, renewals.burst);

  constructor(
    private readonly db: Database,
    private readonly issuer: CertificateIssuer | null,
  ) {}

  /** Throws RhyzomeError `too_many_requests`, `invalid`, `unauthenticated`, `no_issuer`. */
  async enroll(asked: { token: string; request: Uint8Array; nodeName: string }, source: string): Promise<Enrolled> {
    count(this.addresses, addressKey(source));
    count(this.everybody, '');
    const { issuer } = this;
    if (!issuer) throw noIssuer();
    return issuing(async () => enroll(this.db, issuer, { ...asked, request: await checked(asked.request), source }));
  }

  /** The new certificate in PEM. Throws RhyzomeError `too_many_requests`, `invalid`, `forbidden`, `no_issuer`. */
  async renew(peer: Peer, request: Uint8Array, source: string): Promise<string> {
    const { issuer } = this;
    if (!issuer) throw noIssuer();
    count(this.holders, `${peer.type}/${peer.name}`);
    return issuing(async () => renew(this.db, issuer, peer, await checked(request), source));
  }
}

function count(buckets: TokenBuckets, key: string): void {
  const { retryAfterSeconds } = buckets.take(key);
  if (retryAfterSeconds === undefined) return;
  throw new RhyzomeError('too_many_requests', `More requests than the limit per ${buckets.policy} allows; wait.`, {
    retryAfterSeconds,
  });
}

/** Throws RhyzomeError `invalid` for a request that is refused. */
async function checked(request: Uint8Array): Promise<CheckedRequest> {
  try {
    return await checkRequest(request);
  } catch (error) {
    if (error instanceof PkiError) throw new RhyzomeError('invalid', error.message, { cause: error });
    throw error;
  }
}

/** An issuer that has expired issues nothing until it is replaced. */
async function issuing<Result>(work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof PkiError)) throw error;
    throw new RhyzomeError('no_issuer', `The issuer of this server cannot be used: ${error.code}.`, { cause: error });
  }
}

function noIssuer(): RhyzomeError {
  return new RhyzomeError(
    'no_issuer',
    'This rhyzome-grpc has no CA to issue certificates with: “pki.issuer” is missing in its settings. “rhyzome pki init” makes one.',
  );
}
