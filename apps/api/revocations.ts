/**
 * What rhyzome-api, as the client of the rhyzome-grpc that holds a node's stream, does not believe: servers that the database knows
 * to be revoked. New connections to one fail, and who uses one that stands hears of it.
 */
import { RevocationList } from '#libs/certificates';
import type { Database, Listener } from '#libs/db';
import { type CredentialsSource, refusingBy, revokedError } from '#libs/pki';
import type { Logger } from '#libs/process';

export interface WaryCredentials {
  credentials: CredentialsSource;
  /** Resolves when a reading that is under way has ended. The credentials themselves stay open. */
  close(): Promise<void>;
}

/** Rejects when the list cannot be read. Call before the listener starts. */
export async function refuseRevokedServers(
  source: CredentialsSource,
  db: Database,
  listener: Listener,
  log: Logger,
): Promise<WaryCredentials> {
  const list = new RevocationList(db, log, undefined, 'servers');
  const watchers = new Set<() => void>();
  await list.follow(listener, () => {
    for (const watcher of watchers) watcher();
  });
  const credentials = refusingBy(source, {
    refusalOf: (shown) => (list.known.refuses(shown) ? revokedError(shown) : undefined),
    watchRefusals: (watcher) => {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
  });
  return { credentials, close: () => list.close() };
}
