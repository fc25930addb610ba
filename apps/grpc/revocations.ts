/**
 * The list of what was revoked as this replica tells it to nodes: signed by its issuer, anew when it has changed. And what
 * nodes hand back because a restored database lacks it: taken over where an issuer of this CA had signed it.
 */
import { type RevocationList, takeOverRevocations } from '#libs/certificates';
import type { Database } from '#libs/db';
import type { ToldRevocations } from '#libs/nodes';
import {
  type CertificateIssuer,
  type CredentialsSource,
  PkiError,
  type SignedRevocations,
  verifyRevocations,
} from '#libs/pki';
import type { Logger } from '#libs/process';

export class NodesRevocations implements ToldRevocations {
  current: SignedRevocations | undefined;
  private renewing: Promise<boolean> = Promise.resolve(false);

  constructor(
    private readonly db: Database,
    private readonly list: RevocationList,
    private readonly issuer: CertificateIssuer | null,
    private readonly credentials: CredentialsSource,
    private readonly log: Logger,
  ) {}

  /** After each reading of the list. Whether it is another one now. Never rejects. */
  renew(): Promise<boolean> {
    this.renewing = this.renewing.then(() => this.sign());
    return this.renewing;
  }

  private async sign(): Promise<boolean> {
    const list = this.list.known.encode();
    if (list && this.current && list.equals(this.current.list)) return false;
    if (!list) {
      if (this.current)
        this.log.error({ revocations: this.list.size }, 'there are too many revocations to tell nodes of');
      this.current = undefined;
      return false;
    }
    try {
      this.current = (await this.issuer?.signRevocations(list)) ?? { list, signature: Buffer.alloc(0), chain: '' };
      return true;
    } catch (error) {
      this.log.error({ err: error }, 'what was revoked cannot be signed, and nodes are not told of it');
      return false;
    }
  }

  async takeOver(nodeName: string, known: SignedRevocations): Promise<void> {
    try {
      const revoked = await verifyRevocations(known, this.credentials.current.ca);
      const taken = await takeOverRevocations(this.db, revoked, nodeName);
      if (taken > 0)
        this.log.warn({ node: nodeName, revocations: taken }, 'a node knew of revocations that the database lacked');
    } catch (error) {
      if (!(error instanceof PkiError)) throw error;
      this.log.warn({ node: nodeName, code: error.code }, 'a node knows of revocations that nobody here vouches for');
    }
  }
}
