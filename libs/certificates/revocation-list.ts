/**
 * What was revoked, in the memory of each server, so that no call costs a query: read anew when the database tells, and
 * every few seconds whatever it tells. While the database is away, what is known goes on to hold.
 */
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { Database, Listener } from '#libs/db';
import { type IdentityType, RevokedSet, type ShownCertificate } from '#libs/pki';

const LOOK_MS = 5_000;
/** Rows of certificates and tokens are kept for so long after their end. */
const KEPT_DAYS = 90;
const PRUNE_MS = 3_600_000;

interface ListLog {
  warn(fields: object, message: string): void;
}

interface Row {
  serial: string | null;
  kind: IdentityType | null;
  name: string | null;
  revoked_at: Date;
  spared: string[];
}

export class RevocationList {
  private revoked = new RevokedSet();
  private reading: Promise<void> | undefined;
  private isStale = false;
  private prunedAt = 0;
  private timer: NodeJS.Timeout | undefined;
  private unsubscribe: (() => void) | undefined;

  constructor(
    private readonly db: Database,
    private readonly log: ListLog,
    private readonly lookMs = LOOK_MS,
    /** `servers`: what rhyzome-api may know, who is the client of servers only. */
    private readonly of: 'all' | 'servers' = 'all',
  ) {}

  /**
   * Reads the list, and follows it from then on; `onRead` after each reading. Before it resolves nobody may be let in.
   * Rejects when the list cannot be read. Call before the listener starts.
   */
  async follow(listener: Listener, onRead: () => void): Promise<void> {
    await this.read();
    const again = () => void this.refresh().then(onRead);
    this.unsubscribe = listener.on('rhyzome_certificate', again);
    this.timer = setInterval(again, this.lookMs).unref();
  }

  /** Resolves when a reading that is under way has ended. */
  async close(): Promise<void> {
    clearInterval(this.timer);
    this.unsubscribe?.();
    await this.reading;
  }

  get size(): number {
    return this.revoked.size;
  }

  /** As of the last reading. */
  get known(): RevokedSet {
    return this.revoked;
  }

  /** Why this certificate may not be used; undefined when nothing speaks against it. */
  refusalOf(shown: ShownCertificate): RhyzomeError | undefined {
    if (!this.revoked.refuses(shown)) return undefined;
    return new RhyzomeError('unauthenticated', 'Your certificate was revoked. Enroll again, or have a new one issued.');
  }

  /** Never rejects. What asks while one reading is under way is answered by the next. */
  private refresh(): Promise<void> {
    this.isStale = true;
    this.reading ??= this.readAll().finally(() => {
      this.reading = undefined;
    });
    return this.reading;
  }

  private async readAll(): Promise<void> {
    while (this.isStale) {
      this.isStale = false;
      try {
        await this.read();
        if (this.of === 'all') await this.prune();
      } catch (error) {
        const isAway = error instanceof RhyzomeError && error.code === 'database_unavailable';
        if (!isAway) this.log.warn({ err: error }, 'what was revoked cannot be read; what is known holds on');
      }
    }
  }

  private async read(): Promise<void> {
    const rows = await (this.of === 'all' ? this.readAllRows() : this.readServers());
    this.revoked = new RevokedSet({
      serials: rows.flatMap(({ serial }) => serial ?? []),
      holders: rows.flatMap(({ kind, name, revoked_at, spared }) =>
        kind === null ? [] : [{ type: kind, name: name!, revokedAtMs: revoked_at.getTime(), spared }],
      ),
    });
  }

  /** Servers' certificates are issued by hand and written down nowhere: none can be spared. */
  private async readServers(): Promise<Row[]> {
    const found = sql<Omit<Row, 'spared'>>`select serial, kind, name, revoked_at from revoked_servers()`;
    const rows = await this.db.unscopedRead(found.compile(this.db.builder));
    return rows.map((row) => ({ ...row, spared: [] }));
  }

  private readAllRows(): Promise<Row[]> {
    return this.db.operatorTransaction(
      async (tx) =>
        (
          await sql<Row>`
            select r.serial, r.kind, r.name, r.revoked_at,
              array(select c.serial from certificate c where c.kind = r.kind and c.name = r.name
                and c.issued_at > r.revoked_at and c.not_before <= r.revoked_at and c.not_after > now()) as spared
            from revocation r`.execute(tx)
        ).rows,
    );
  }

  /** Harmless when several do it at once. Revocations stay: a certificate that nobody recorded may last for years. */
  private async prune(): Promise<void> {
    if (Date.now() - this.prunedAt < PRUNE_MS) return;
    this.prunedAt = Date.now();
    await sql`delete from certificate where not_after < now() - ${KEPT_DAYS} * interval '1 day'`.execute(
      this.db.operator,
    );
    await sql`delete from enrollment_token where expires_at < now() - ${KEPT_DAYS} * interval '1 day'`.execute(
      this.db.operator,
    );
  }
}
