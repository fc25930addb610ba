/**
 * Which host name belongs to which tenant: names below the installation's domain by their first label, others by rows that
 * an administrator keeps. Asked in memory on every request, read again when somebody says that tenants have changed.
 */
import { sql } from 'kysely';
import { domainOf, invalid, isTenantId, printable, RhyzomeError, SYSTEM_TENANT } from '#libs/core';
import type { Tx } from '#libs/db';
import { findTenant } from './tenants.js';

export interface DomainRow {
  domain: string;
  tenantId: string;
}

/** Whose host it is; null: it would be a tenant's, and nobody has it. */
export interface HostOwner {
  readonly tenantId: string | null;
}

export interface TenantDomain extends DomainRow {
  createdAt: Date;
}

const MAX_DOMAINS = 16;
const nobody: HostOwner = { tenantId: null };

/** Keeps the last rows that could be read, also while the database is away. Empty before the first `refresh`. */
export class DomainCache {
  private owners: ReadonlyMap<string, HostOwner> = new Map();
  private started = 0;
  private shown = 0;

  constructor(
    private readonly load: () => Promise<DomainRow[]>,
    /** `api.domain` of the settings: `acme.` before it is the host of the tenant acme. */
    private readonly installation?: string,
  ) {}

  /**
   * Whose `host` is (as parseAuthority gives it); undefined: no tenant's, and every tenant is served there. Below the
   * installation's domain it depends on the name alone, so that the answer tells nobody which tenants there are.
   */
  ownerOf(host: string): HostOwner | undefined {
    const { installation } = this;
    if (installation !== undefined && host.endsWith(installation)) {
      if (host.length === installation.length) return undefined;
      const label = host.slice(0, -installation.length - 1);
      if (host[label.length] === '.') return isTenantId(label) ? { tenantId: label } : nobody;
    }
    return this.owners.get(host);
  }

  /** Reads all rows again. Of reads that overlap the one that began last counts. Rejects with what `load` rejected with. */
  async refresh(): Promise<void> {
    this.started += 1;
    const turn = this.started;
    const rows = await this.load();
    if (turn < this.shown) return;
    this.shown = turn;
    this.owners = new Map(rows.map(({ domain, tenantId }) => [domain, { tenantId }]));
  }
}

const selectDomain = sql<TenantDomain>`
  select domain, tenant_id as "tenantId", created_at as "createdAt" from tenant_domain`;

/** Of one tenant, or of all. Throws RhyzomeError `not_found`. */
export async function listDomains(tx: Tx, tenantId?: string): Promise<TenantDomain[]> {
  if (tenantId === undefined) return (await sql<TenantDomain>`${selectDomain} order by domain`.execute(tx)).rows;
  await findTenant(tx, tenantId);
  return (await sql<TenantDomain>`${selectDomain} where tenant_id = ${tenantId} order by domain`.execute(tx)).rows;
}

/** Hosts that the installation serves everybody at. */
export interface InstallationHosts {
  /** `api.domain`: it and all below it are no tenant's own. */
  domain?: string;
  /** `api.publicUrl`. */
  publicUrl?: string;
}

/**
 * Gives a tenant a domain; one that it has already stays as it is (`isNew` false). Throws RhyzomeError `invalid`, `not_found`,
 * `already_exists` (another tenant's) and `conflict` (the installation's own, or too many).
 */
export async function addDomain(
  tx: Tx,
  tenantId: string,
  text: string,
  hosts: InstallationHosts,
): Promise<{ domain: TenantDomain; isNew: boolean }> {
  const name = checkDomain(text);
  refuseInstallations(name, hosts);
  if (tenantId === SYSTEM_TENANT)
    throw new RhyzomeError('conflict', 'Nobody logs in to the tenant system: it has no host name.');
  await findTenant(tx, tenantId);
  // One at a time for a tenant, so that its number holds.
  await tx.selectFrom('tenant').select('id').where('id', '=', tenantId).forUpdate().execute();
  const had = await listDomains(tx, tenantId);
  const same = had.find(({ domain }) => domain === name);
  if (same) return { domain: same, isNew: false };
  if (had.length >= MAX_DOMAINS)
    throw new RhyzomeError('conflict', `A tenant has at most ${MAX_DOMAINS} domains; remove one first.`);
  const made = await tx
    .insertInto('tenant_domain')
    .values({ domain: name, tenant_id: tenantId })
    .onConflict((oc) => oc.column('domain').doNothing())
    .returning(['domain', 'tenant_id as tenantId', 'created_at as createdAt'])
    .executeTakeFirst();
  if (!made) throw new RhyzomeError('already_exists', `The domain ${name} belongs to another tenant.`);
  return { domain: made, isNew: true };
}

/** Throws RhyzomeError `invalid`, and `not_found` where the tenant has no such domain. */
export async function removeDomain(tx: Tx, tenantId: string, text: string): Promise<string> {
  const name = checkDomain(text);
  const gone = await tx
    .deleteFrom('tenant_domain')
    .where('domain', '=', name)
    .where('tenant_id', '=', tenantId)
    .executeTakeFirst();
  if (gone.numDeletedRows === 0n)
    throw new RhyzomeError('not_found', `Tenant ${printable(tenantId)} has no domain ${name}.`);
  return name;
}

function checkDomain(text: string): string {
  const name = domainOf(text);
  if (name !== undefined) return name;
  const message = 'must be a domain with two labels or more, e.g. api.acme.example; no URL, address or wildcard';
  throw invalid([{ pointer: '/domain', code: 'invalid_value', message }]);
}

function refuseInstallations(name: string, { domain, publicUrl }: InstallationHosts): void {
  if (domain !== undefined && (name === domain || name.endsWith(`.${domain}`)))
    throw new RhyzomeError('conflict', `Names below ${domain} (api.domain) go by the tenants’ ids and need no entry.`);
  if (publicUrl !== undefined && name === domainOf(new URL(publicUrl).hostname))
    throw new RhyzomeError('conflict', `All tenants are served at ${name} (api.publicUrl).`);
}
