/** What nodes are told of revoked certificates, as whoever signs it gives it to the streams. */
import type { SignedRevocations } from '#libs/pki';

export interface ToldRevocations {
  /** As it is told now; undefined: not yet, or it is too long. */
  readonly current: SignedRevocations | undefined;
  /** A node knows what this installation once signed and `current` lacks. */
  takeOver(nodeName: string, known: SignedRevocations): Promise<void>;
}
