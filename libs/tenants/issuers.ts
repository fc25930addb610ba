/**
 * Which token issuer belongs to which tenant, in memory, so that no request asks the database (or Keycloak) for it.
 * It knows neither SQL nor NOTIFY: rows come from an injected `load`, and whoever hears of a change calls `refresh`.
 */

export type TenantState = 'active' | 'suspended';

/** A row of tenant_issuer joined with its tenant. */
export interface IssuerRow {
  /** Exactly as in the token's `iss`. */
  issuer: string;
  /** Empty: the whole issuer is this tenant's. Otherwise the tenant's name in the claim `organization` of an issuer that many share. */
  organization: string;
  tenantId: string;
  tenantState: TenantState;
  /** Null: the installation's default audience. */
  audience: string | null;
  /** Null: found by OpenID Connect discovery. */
  jwksUri: string | null;
}

/** A tenant that tokens of an issuer may belong to. */
export type IssuerTenant = Readonly<Pick<IssuerRow, 'tenantId' | 'tenantState' | 'audience'>>;

export interface IssuerEntry {
  readonly jwksUri: string | null;
  /** The tenant that the whole issuer belongs to; undefined: many share it. */
  readonly owner: IssuerTenant | undefined;
  /** By the name of the organization; empty where there is an owner. */
  readonly organizations: ReadonlyMap<string, IssuerTenant>;
}

export interface IssuerDirectory {
  /** What is known of an issuer (exact match), in memory. */
  find(issuer: string): IssuerEntry | undefined;
  /** Asked when `find` knew nothing, or not the organization: it may be so new that no notification has come yet. */
  lookAgain?(issuer: string): Promise<IssuerEntry | undefined>;
}

/**
 * What is to be known of each issuer. Where rows of one issuer name different key addresses, the first that is named
 * counts: an issuer has one set of keys. An issuer that is a tenant's as a whole is nobody else's, whatever rows say.
 */
export function issuerEntries(rows: readonly IssuerRow[]): Map<string, IssuerEntry> {
  const entries = new Map<string, IssuerEntry & { organizations: Map<string, IssuerTenant> }>();
  for (const { issuer, organization, tenantId, tenantState, audience, jwksUri } of rows) {
    const before = entries.get(issuer) ?? { jwksUri: null, owner: undefined, organizations: new Map() };
    const tenant = Object.freeze({ tenantId, tenantState, audience });
    const owner = organization === '' ? tenant : before.owner;
    if (owner) before.organizations.clear();
    else before.organizations.set(organization, tenant);
    entries.set(issuer, { jwksUri: before.jwksUri ?? jwksUri, owner, organizations: before.organizations });
  }
  return entries;
}

/** Keeps the last rows that could be read, also while the database is away. Empty before the first `refresh`. */
export class IssuerCache implements IssuerDirectory {
  private entries: ReadonlyMap<string, IssuerEntry> = new Map();
  private byTenant: ReadonlyMap<string, readonly string[]> = new Map();
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

  /** Those whose tokens count for a tenant, in their order; none where it is not there or suspended. */
  issuersOf(tenantId: string): readonly string[] {
    return this.byTenant.get(tenantId) ?? [];
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
    this.entries = issuerEntries(rows);
    const active = rows.filter(({ tenantState }) => tenantState === 'active');
    const grouped = Map.groupBy(active, ({ tenantId }) => tenantId);
    this.byTenant = new Map(
      [...grouped].map(([id, own]) => [id, [...new Set(own.map(({ issuer }) => issuer))].sort()]),
    );
  }
}
