/**
 * Which token issuer belongs to which tenant, in memory, so that no request asks the database (or Keycloak) for it.
 * It knows neither SQL nor NOTIFY: rows come from an injected `load`, and whoever hears of a change calls `refresh`.
 */

export type TenantState = 'active' | 'suspended';

/** A row of tenant_issuer joined with its tenant. */
export interface IssuerRow {
  /** Exactly as in the token's `iss`. */
  issuer: string;
  tenantId: string;
  tenantState: TenantState;
  /** Null: the installation's default audience. */
  audience: string | null;
  /** Null: found by OpenID Connect discovery. */
  jwksUri: string | null;
}

export type IssuerEntry = Readonly<Omit<IssuerRow, 'issuer'>>;

export interface IssuerDirectory {
  /** What is known of an issuer (exact match), in memory. */
  find(issuer: string): IssuerEntry | undefined;
  /** Asked when `find` knew nothing: the issuer may be so new that no notification has come yet. */
  lookAgain?(issuer: string): Promise<IssuerEntry | undefined>;
}

/** Keeps the last rows that could be read, also while the database is away. Empty before the first `refresh`. */
export class IssuerCache implements IssuerDirectory {
  private entries: ReadonlyMap<string, IssuerEntry> = new Map();
  private running: Promise<void> | undefined;
  private next: Promise<void> | undefined;
  private lookedAgainAt = Number.NEGATIVE_INFINITY;

  constructor(
    private readonly load: () => Promise<IssuerRow[]>,
    /** Unknown issuers make it read the rows again at most this often. */
    private readonly lookAgainMs = 1000,
  ) {}

  find(issuer: string): IssuerEntry | undefined {
    return this.entries.get(issuer);
  }

  /** Reads the rows again, unless that was just done. Rejects with what `load` rejected with. */
  async lookAgain(issuer: string): Promise<IssuerEntry | undefined> {
    if (performance.now() - this.lookedAgainAt >= this.lookAgainMs) {
      this.lookedAgainAt = performance.now();
      await this.refresh();
    } else await this.running;
    return this.find(issuer);
  }

  get size(): number {
    return this.entries.size;
  }

  /**
   * Reads all rows again. Calls during a read share ONE further read that starts after it, because the read under way may
   * have missed their change. Rejects with what `load` rejected with; the old rows then stay.
   */
  refresh(): Promise<void> {
    if (!this.running) return this.start();
    this.next ??= this.running
      .catch(() => undefined) // its own callers hear of it
      .then(() => {
        this.next = undefined;
        return this.start();
      });
    return this.next;
  }

  private start(): Promise<void> {
    this.running = this.read().finally(() => {
      this.running = undefined;
    });
    return this.running;
  }

  private async read(): Promise<void> {
    const rows = await this.load();
    this.entries = new Map(rows.map(({ issuer, ...entry }) => [issuer, entry]));
  }
}
