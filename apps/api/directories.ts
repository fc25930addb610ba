/**
 * What of the tenants a server knows by heart, so that no request asks for it: whose tokens which issuer gives, whose
 * host names which are, and what grants give to whom. Refreshed when somebody says that it has changed.
 */
import { sql } from 'kysely';
import { AccessDirectory } from '#libs/auth';
import { RhyzomeError } from '#libs/core';
import { type Database, type Listener, whenReachable } from '#libs/db';
import type { Logger } from '#libs/process';
import { DomainCache, type DomainRow, IssuerCache, type IssuerRow } from '#libs/tenants';

export interface Directories {
  issuers: IssuerCache;
  domains: DomainCache;
  access: AccessDirectory;
}

/** Resolves when they were read once. The listener is to be started afterwards. */
export async function openDirectories(
  db: Database,
  listener: Listener,
  log: Logger,
  /** Below which each tenant has a host name. */
  domain: string | undefined,
): Promise<Directories> {
  const issuers = new IssuerCache(async () => {
    const query = sql<IssuerRow>`
      select issuer, organization, tenant_id as "tenantId", tenant_state as "tenantState", audience, jwks_uri as "jwksUri"
      from issuer_directory()`;
    return db.unscopedRead(query.compile(db.builder));
  });
  const domains = new DomainCache(async () => {
    const query = sql<DomainRow>`select domain, tenant_id as "tenantId" from domain_directory()`;
    return db.unscopedRead(query.compile(db.builder));
  }, domain);
  const access = new AccessDirectory(db, (error) =>
    log.warn({ err: error }, 'comparing the tenants’ permissions failed'),
  );
  const read = () => Promise.all([issuers.refresh(), domains.refresh()]);
  listener.on('rhyzome_tenant', () => {
    read().catch((error: unknown) => {
      // What is known stays in force; the listener calls again when the database is back.
      const isAway = error instanceof RhyzomeError && error.code === 'database_unavailable';
      if (!isAway) log.error({ err: error }, 'reading the tenants’ issuers and domains failed');
    });
  });
  listener.on('rhyzome_access', (tenantId) => access.forget(tenantId));
  access.start();
  await whenReachable(log, read);
  return { issuers, domains, access };
}
