/**
 * What the certificates of internal services may do: for which tenants, which verbs. The identity stands in the
 * certificate, the rights here. Works in the caller's transaction, which spans tenants.
 */
import { invalid, isTenantId, printable, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';

export interface Service {
  /** As in the certificate's URI SAN. */
  name: string;
  /** Tenant ids; `*` alone: every tenant. */
  tenants: string[];
  /** `kind:verb`, either of them `*`. */
  verbs: string[];
  createdAt: Date;
  updatedAt: Date;
}

export interface ServiceRightsChange {
  tenants?: readonly string[];
  verbs?: readonly string[];
}

const namePattern = /^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$/;
const verbPattern = /^(\*|[a-z][a-z0-9-]{0,62}):(\*|[a-z][a-z0-9-]{0,62})$/;
const MAX_ENTRIES = 1000;

export async function listServices(tx: Tx): Promise<Service[]> {
  return (await tx.selectFrom('service').selectAll().orderBy('name').execute()).map(serviceOf);
}

/** Throws RhyzomeError `not_found`. */
export async function findService(tx: Tx, name: string): Promise<Service> {
  const row = await tx.selectFrom('service').selectAll().where('name', '=', name).executeTakeFirst();
  if (!row) throw noService(name);
  return serviceOf(row);
}

/**
 * Gives a service its rights. With the same rights as before it changes nothing (`changed` is false). Throws RhyzomeError
 * `invalid`, `not_found` (a tenant), and `already_exists` where other rights are there and `replace` is not set.
 */
export async function createService(
  tx: Tx,
  asked: { name: string; tenants: readonly string[]; verbs: readonly string[]; replace?: boolean },
): Promise<{ service: Service; changed: boolean }> {
  if (!namePattern.test(asked.name))
    throw wrong('name', 'a service’s name is 1-63 of a-z, 0-9, "." and "-", as in its certificate');
  const tenants = await checkTenants(tx, asked.tenants);
  const verbs = checkVerbs(asked.verbs);
  const made = await tx
    .insertInto('service')
    .values({ name: asked.name, tenants, verbs })
    .onConflict((oc) => oc.column('name').doNothing())
    .executeTakeFirst();
  if (made.numInsertedOrUpdatedRows === 1n) return { service: await findService(tx, asked.name), changed: true };
  const before = await findService(tx, asked.name);
  if (same(before.tenants, tenants) && same(before.verbs, verbs)) return { service: before, changed: false };
  if (!asked.replace)
    throw new RhyzomeError(
      'already_exists',
      `The service ${asked.name} has other rights: tenants ${before.tenants.join(',')}, verbs ${before.verbs.join(',')}. ` +
        '--replace or `service update` changes them.',
    );
  return { service: await updateService(tx, asked.name, { tenants, verbs }), changed: true };
}

/** Throws RhyzomeError `invalid`, `not_found`. */
export async function updateService(tx: Tx, name: string, change: ServiceRightsChange): Promise<Service> {
  const changed = await tx
    .updateTable('service')
    .set({
      ...(change.tenants && { tenants: await checkTenants(tx, change.tenants) }),
      ...(change.verbs && { verbs: checkVerbs(change.verbs) }),
      updated_at: new Date(),
    })
    .where('name', '=', name)
    .returningAll()
    .executeTakeFirst();
  if (!changed) throw noService(name);
  return serviceOf(changed);
}

/** Throws RhyzomeError `not_found`. */
export async function removeService(tx: Tx, name: string): Promise<void> {
  const gone = await tx.deleteFrom('service').where('name', '=', name).executeTakeFirst();
  if (gone.numDeletedRows === 0n) throw noService(name);
}

async function checkTenants(tx: Tx, given: readonly string[]): Promise<string[]> {
  const tenants = tidy('tenants', given);
  if (tenants.includes('*')) {
    if (tenants.length > 1) throw wrong('tenants', '"*" means every tenant and stands alone');
    return tenants;
  }
  for (const id of tenants) if (!isTenantId(id)) throw wrong('tenants', `“${printable(id)}” is not a tenant id`);
  const known = await tx.selectFrom('tenant').select('id').where('id', 'in', tenants).execute();
  const missing = tenants.filter((id) => !known.some((row) => row.id === id));
  if (missing.length > 0)
    throw new RhyzomeError(
      'not_found',
      `There is no tenant ${missing.join(', ')}. \`rhyzome tenant list\` names them.`,
    );
  return tenants;
}

function checkVerbs(given: readonly string[]): string[] {
  const verbs = tidy(
    'verbs',
    given.map((verb) => (verb === '*' ? '*:*' : verb)),
  );
  for (const verb of verbs)
    if (!verbPattern.test(verb))
      throw wrong('verbs', `“${printable(verb)}” is not kind:verb, e.g. network:create, network:*, *:read or *`);
  return verbs;
}

/** Sorted, each once, so that equal rights compare equal. */
function tidy(field: string, given: readonly string[]): string[] {
  const entries = [...new Set(given)].sort();
  if (entries.length === 0) throw wrong(field, 'must name at least one');
  if (entries.length > MAX_ENTRIES) throw wrong(field, `must name at most ${MAX_ENTRIES}`);
  return entries;
}

function same(a: readonly string[], b: readonly string[]): boolean {
  return [...a].sort().join(' ') === [...b].sort().join(' ');
}

function serviceOf(row: { name: string; tenants: string[]; verbs: string[]; created_at: Date; updated_at: Date }) {
  const { name, tenants, verbs } = row;
  return { name, tenants, verbs, createdAt: row.created_at, updatedAt: row.updated_at };
}

function wrong(field: string, message: string): RhyzomeError {
  return invalid([{ pointer: `/${field}`, code: 'invalid_value', message }]);
}

function noService(name: string): RhyzomeError {
  return new RhyzomeError(
    'not_found',
    `There is no service “${printable(name)}”. \`rhyzome service list\` names them.`,
  );
}
