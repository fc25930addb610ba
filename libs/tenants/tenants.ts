/**
 * Tenants and their issuers, as the administrator keeps them. Every function works in the caller's transaction, which
 * spans tenants (role operator); whoever calls writes the audit row.
 */
import { sql } from 'kysely';
import { type Blocker, invalid, isTenantId, printable, RhyzomeError, SYSTEM_TENANT, tagKeyPattern } from '#libs/core';
import { type Tx, violatedUnique } from '#libs/db';
import type { TenantState } from './issuers.js';

export interface TenantIssuer {
  /** Exactly as in the tokens' `iss`. */
  issuer: string;
  /** Null: the installation's audience. */
  audience: string | null;
  /** Null: found by OpenID Connect discovery. */
  jwksUri: string | null;
  /** Of a realm that tenants share: what the tokens' claim `organization` says. Absent or empty: the whole issuer is the tenant's. */
  organization?: string;
  /** It is the tenant's realm, which Rhyzome keeps, and comes and goes with that. */
  managed?: boolean;
}

export interface Tenant {
  id: string;
  displayName: string;
  /** Links the tenant to a billing system. */
  billingKey: string | null;
  properties: Record<string, string>;
  state: TenantState;
  /** Its people may move its machines from node to node. */
  mayMigrate: boolean;
  issuers: TenantIssuer[];
  createdAt: Date;
  updatedAt: Date;
}

export interface NewTenant {
  id: string;
  displayName: string;
  billingKey?: string | null;
  properties?: Record<string, string>;
  issuers?: readonly TenantIssuer[];
}

/** What is absent stays. */
export interface TenantChange {
  displayName?: string;
  billingKey?: string | null;
  /** Merged into what is there; null takes one away. */
  properties?: Record<string, string | null>;
  state?: TenantState;
  mayMigrate?: boolean;
  /** All issuers from now on. */
  issuers?: readonly TenantIssuer[];
}

const MAX_NAMED = 20;
const MAX_PROPERTIES = 64;
const MAX_ISSUERS = 16;
/** What is only about who may do what in the tenant: it goes with it. A realm is outside, too, and is removed by its job. */
const administration = ['user', 'group', 'serviceaccount', 'apitoken', 'grant'];

const selectTenant = sql<Tenant>`
  select t.id, t.display_name as "displayName", t.billing_key as "billingKey", t.properties, t.state,
    t.may_migrate as "mayMigrate",
    coalesce((select jsonb_agg(jsonb_build_object('issuer', i.issuer, 'audience', i.audience, 'jwksUri', i.jwks_uri)
      || case when i.organization = '' then '{}' else jsonb_build_object('organization', i.organization) end
      || case when i.managed then '{"managed": true}' else '{}'::jsonb end
      order by i.issuer, i.organization) from tenant_issuer i where i.tenant_id = t.id), '[]') as issuers,
    t.created_at as "createdAt", t.updated_at as "updatedAt"
  from tenant t`;

export async function listTenants(tx: Tx): Promise<Tenant[]> {
  return (await sql<Tenant>`${selectTenant} order by t.id`.execute(tx)).rows;
}

/** Throws RhyzomeError `not_found`. */
export async function findTenant(tx: Tx, id: string): Promise<Tenant> {
  const [tenant] = (await sql<Tenant>`${selectTenant} where t.id = ${id}`.execute(tx)).rows;
  if (!tenant) throw noTenant(id);
  return tenant;
}

/** Throws RhyzomeError `invalid`, `already_exists`. */
export async function createTenant(tx: Tx, asked: NewTenant): Promise<Tenant> {
  if (!isTenantId(asked.id)) throw wrong('id', 'a tenant id is 1-63 lower-case letters and digits');
  checkText('displayName', asked.displayName);
  const properties = mergeProperties({}, asked.properties ?? {});
  const made = await tx
    .insertInto('tenant')
    .values({
      id: asked.id,
      display_name: asked.displayName,
      billing_key: checkBillingKey(asked.billingKey ?? null),
      properties: JSON.stringify(properties),
    })
    .onConflict((oc) => oc.column('id').doNothing())
    .executeTakeFirst();
  if (made.numInsertedOrUpdatedRows !== 1n)
    throw new RhyzomeError('already_exists', `There is a tenant ${asked.id} already; \`tenant update\` changes it.`);
  await replaceIssuers(tx, asked.id, asked.issuers ?? []);
  return findTenant(tx, asked.id);
}

/** Throws RhyzomeError `not_found`, `invalid`, `already_exists` (an issuer is another tenant's). */
export async function updateTenant(tx: Tx, id: string, change: TenantChange): Promise<Tenant> {
  await lockTenant(tx, id);
  const before = await findTenant(tx, id);
  if (change.displayName !== undefined) checkText('displayName', change.displayName);
  if (id === SYSTEM_TENANT && change.state === 'suspended')
    throw new RhyzomeError('conflict', 'The tenant system holds the global images and cannot be suspended.');
  if (id === SYSTEM_TENANT && change.issuers?.length)
    throw new RhyzomeError('conflict', 'Nobody logs in to the tenant system: it can have no issuers.');
  const properties = change.properties && mergeProperties(before.properties, change.properties);
  await tx
    .updateTable('tenant')
    .set({
      ...(change.displayName !== undefined && { display_name: change.displayName }),
      ...(change.billingKey !== undefined && { billing_key: checkBillingKey(change.billingKey) }),
      ...(properties && { properties: JSON.stringify(properties) }),
      ...(change.state && { state: change.state }),
      ...(change.mayMigrate !== undefined && { may_migrate: change.mayMigrate }),
      updated_at: sql<Date>`now()`,
    })
    .where('id', '=', id)
    .execute();
  if (change.issuers) await replaceIssuers(tx, id, change.issuers);
  return findTenant(tx, id);
}

/**
 * Removes a tenant that has no resources but those of its administration, with these, its issuers, jobs, events and what services might do for it; its audit
 * rows stay. Throws RhyzomeError `not_found`, `conflict` (system) and `in_use` with the first resources as blockers.
 */
export async function deleteTenant(tx: Tx, id: string): Promise<void> {
  if (id === SYSTEM_TENANT)
    throw new RhyzomeError('conflict', 'The tenant system holds the global images and cannot be deleted.');
  // Waits for creates under way, whose foreign key holds the row, and lets no further one begin.
  await lockTenant(tx, id);
  await refuseTenantInUse(tx, id);
  await tx.deleteFrom('dependency').where('tenant_id', '=', id).execute();
  await tx.deleteFrom('resource').where('tenant_id', '=', id).execute();
  for (const table of ['idempotency', 'event', 'job', 'tenant_issuer'] as const)
    await tx.deleteFrom(table).where('tenant_id', '=', id).execute();
  // The numbers go on should a tenant of this id come again: a cursor from before is too old then, and not wrong.
  await tx
    .updateTable('event_counter')
    .set((eb) => ({ pruned: eb.ref('last') }))
    .where('tenant_id', '=', id)
    .execute();
  // Nobody keeps rights for a tenant of this id that may come.
  await sql`update service set tenants = array_remove(tenants, ${id}), updated_at = now()
    where ${id} = any (tenants)`.execute(tx);
  await tx.deleteFrom('tenant').where('id', '=', id).execute();
}

/** Throws RhyzomeError `in_use` with the first resources as blockers, but for those of its administration and of `further` kinds. */
export async function refuseTenantInUse(tx: Tx, id: string, further: readonly string[] = []): Promise<void> {
  const goAlong = [...administration, ...further];
  const blockers: Blocker[] = (
    await tx
      .selectFrom('resource')
      .select(['kind', 'id', 'name', sql<string>`'owner'`.as('relation')])
      .where('tenant_id', '=', id)
      .where('kind', 'not in', goAlong)
      .orderBy('kind')
      .orderBy('name')
      .limit(MAX_NAMED)
      .execute()
  ).map(({ kind, name, id: resourceId, relation }) => ({ kind, name, id: resourceId, relation }));
  if (blockers.length === 0) return;
  const { count } = await tx
    .selectFrom('resource')
    .select((eb) => eb.fn.countAll<number>().as('count'))
    .where('tenant_id', '=', id)
    .where('kind', 'not in', goAlong)
    .executeTakeFirstOrThrow();
  const more = Number(count) - blockers.length;
  const named = blockers.map((b) => `\n  ${b.kind} ${b.name} (${b.id})`).join('');
  throw new RhyzomeError(
    'in_use',
    `Tenant ${id} still has ${count} resource${Number(count) === 1 ? '' : 's'}; delete ${Number(count) === 1 ? 'it' : 'them'} first:${named}${more > 0 ? `\n  and ${more} more` : ''}`,
    { blockers, extensions: { more } },
  );
}

async function lockTenant(tx: Tx, id: string): Promise<void> {
  const row = await tx.selectFrom('tenant').select('id').where('id', '=', id).forUpdate().executeTakeFirst();
  if (!row) throw noTenant(id);
}

async function replaceIssuers(tx: Tx, id: string, issuers: readonly TenantIssuer[]): Promise<void> {
  if (issuers.length > MAX_ISSUERS) throw wrong('issuers', `a tenant has at most ${MAX_ISSUERS} issuers`);
  for (const one of issuers) {
    checkUrl('issuer', one.issuer);
    if (one.jwksUri !== null) checkUrl('jwksUri', one.jwksUri);
    if (one.audience !== null) checkText('audience', one.audience);
    if (one.organization) checkText('organization', one.organization);
  }
  const kept = issuers.map(({ issuer, organization = '' }) => `${issuer} ${organization}`);
  if (new Set(kept).size < kept.length) throw wrong('issuers', 'an issuer stands twice');
  if (issuers.length > 0) await refuseBesideRealm(tx, id);
  await tx.deleteFrom('tenant_issuer').where('tenant_id', '=', id).where('managed', '=', false).execute();
  for (const { issuer, audience, jwksUri, organization = '' } of issuers) {
    try {
      await tx
        .insertInto('tenant_issuer')
        .values({ issuer, organization, tenant_id: id, audience, jwks_uri: jwksUri })
        .execute();
    } catch (error) {
      if (!violatedUnique(error)) throw error;
      throw new RhyzomeError('already_exists', `The issuer ${printable(issuer)} belongs to another tenant.`);
    }
  }
}

/** Two places to log in at would be two sets of people, of which Rhyzome keeps one. */
async function refuseBesideRealm(tx: Tx, id: string): Promise<void> {
  const realm = await tx.selectFrom('realm').select('id').where('tenant_id', '=', id).executeTakeFirst();
  if (!realm) return;
  throw new RhyzomeError(
    'conflict',
    `Rhyzome keeps the realm of tenant ${id}; \`rhyzome tenant move ${id} --to issuer\` gives it an issuer of its own.`,
  );
}

function mergeProperties(
  before: Record<string, string>,
  change: Record<string, string | null>,
): Record<string, string> {
  const merged = new Map(Object.entries(before));
  for (const [key, value] of Object.entries(change)) {
    if (!tagKeyPattern.test(key))
      throw wrong('properties', 'a property’s key is 1-63 letters, digits, ".", "_", "/" or "-"');
    if (value === null) merged.delete(key);
    else merged.set(key, checkText('properties', value, 1000));
  }
  if (merged.size > MAX_PROPERTIES) throw wrong('properties', `a tenant has at most ${MAX_PROPERTIES} properties`);
  return Object.fromEntries(merged);
}

function checkBillingKey(key: string | null): string | null {
  return key === null ? null : checkText('billingKey', key);
}

function checkText(field: string, text: string, max = 255): string {
  if (text === '' || text.length > max || /\p{Cc}/u.test(text))
    throw wrong(field, `must be 1-${max} printable characters`);
  return text;
}

function checkUrl(field: string, text: string): void {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const fits = url && /^https?:$/.test(url.protocol) && !url.username && !url.password && !url.hash && !url.search;
  if (!fits || text.length > 1000) throw wrong(field, 'must be an http(s) URL without query and fragment');
}

function wrong(field: string, message: string): RhyzomeError {
  return invalid([{ pointer: `/${field}`, code: 'invalid_value', message }]);
}

function noTenant(id: string): RhyzomeError {
  return new RhyzomeError('not_found', `There is no tenant “${printable(id)}”. \`rhyzome tenant list\` names them.`);
}
