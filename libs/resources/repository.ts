/** The statements on `resource` joined with a kind's own table. One query a read, whatever comes back. */

import { type RawBuilder, sql } from 'kysely';
import type { Authorized } from '#libs/auth';
import { isName, isUuid, type ResourceCore, SYSTEM_TENANT, type Tags } from '#libs/core';
import type { Tx } from '#libs/db';
import type { CoreDocument, CoreRow, KindDefinition, RowScope } from './kind.js';

const coreColumns = sql.raw(
  [
    'tenant_id',
    'id',
    'kind',
    'name',
    'tags',
    'state',
    'conditions',
    'generation',
    'observed_generation',
    'deletion_protection',
    'version',
    'created_at',
    'updated_at',
    'created_by',
  ]
    .map((column) => `r.${column}`)
    .join(', '),
);

/** The columns of a kind's row, over `r` and `k`. */
export function selectionsOf(kind: KindDefinition): RawBuilder<unknown> {
  const own = kind.columns.map((column) => sql`, ${sql.ref(`k.${column}`)}`);
  const further = Object.entries(kind.selections ?? {}).map(
    ([alias, expression]) => sql`, ${expression} as ${sql.ref(alias)}`,
  );
  return sql`${coreColumns}${sql.join(own, sql``)}${sql.join(further, sql``)}`;
}

/** `select … from resource r join <table> k`, without a where. */
export function selectFromKind(kind: KindDefinition): RawBuilder<CoreRow> {
  return sql<CoreRow>`select ${selectionsOf(kind)} from resource r join ${sql.table(kind.table)} k on k.tenant_id = r.tenant_id and k.id = r.id`;
}

/** Whose rows of a kind a tenant sees: its own; of a shared kind the system's and published ones, too. */
export function visibleTenants(kind: KindDefinition, tenantId: string): RawBuilder<boolean> {
  return kind.isShared
    ? sql<boolean>`(r.tenant_id in (${tenantId}, ${SYSTEM_TENANT}) or r.published)`
    : sql<boolean>`r.tenant_id = ${tenantId}`;
}

/** Whose rows a name can mean: never other tenants', whatever they show. */
function namingTenants(kind: KindDefinition, tenantId: string): RawBuilder<boolean> {
  return kind.isShared
    ? sql<boolean>`r.tenant_id in (${tenantId}, ${SYSTEM_TENANT})`
    : sql<boolean>`r.tenant_id = ${tenantId}`;
}

/**
 * One resource by id or name, the tenant's own before a shared one. The same statement for what is not there and for
 * what is another tenant's; text that can be neither id nor name is nobody's.
 */
export async function findResource(
  scope: RowScope,
  kind: KindDefinition,
  idOrName: string,
): Promise<CoreRow | undefined> {
  if (!isUuid(idOrName) && !isName(idOrName)) return undefined;
  const [row] = await scope.rows(findQuery(scope, kind, idOrName).compile(scope.builder));
  return row;
}

/** The statement of `findResource`; the text is an id or a name. */
export function findQuery(
  scope: Pick<RowScope, 'tenantId'>,
  kind: KindDefinition,
  idOrName: string,
): RawBuilder<CoreRow> {
  const which = isUuid(idOrName)
    ? sql`${visibleTenants(kind, scope.tenantId)} and r.id = ${idOrName}`
    : sql`${namingTenants(kind, scope.tenantId)} and r.name = ${idOrName}`;
  const order = kind.isShared ? sql`order by (r.tenant_id = ${scope.tenantId}) desc limit 1` : sql``;
  return sql<CoreRow>`${selectFromKind(kind)}
    where ${which} and r.kind = ${kind.name} ${order}`;
}

/**
 * Locks one of the tenant's own resources until the transaction ends, and reads it as it is then. `no key update` where
 * neither its removal nor a change of its name follows.
 */
export async function lockResource(
  tx: Tx,
  kind: KindDefinition,
  core: ResourceCore,
  strength: 'update' | 'no key update' = 'update',
): Promise<CoreRow | undefined> {
  const query = sql<CoreRow>`${selectFromKind(kind)}
    where r.tenant_id = ${core.tenantId} and r.id = ${core.id} for ${sql.raw(strength)} of r`;
  return (await query.execute(tx)).rows[0];
}

export function coreOf(row: CoreRow): ResourceCore {
  const { id, tenant_id: tenantId, kind, name, tags, created_by: createdBy } = row;
  return { id, tenantId, kind, name, tags, createdBy };
}

/** Inserts the common row; a taken name violates `resource_name`. */
export async function insertResource(
  tx: Tx,
  _permission: Authorized<'create'>,
  core: ResourceCore,
  document: CoreDocument,
  createdBy: string,
): Promise<void> {
  await tx
    .insertInto('resource')
    .values({
      tenant_id: core.tenantId,
      id: core.id,
      kind: core.kind,
      name: core.name,
      tags: JSON.stringify(document.tags ?? {}),
      state: 'pending',
      deletion_protection: document.deletionProtection ?? false,
      created_by: createdBy,
    })
    .execute();
}

export interface ResourceChange {
  name?: string;
  tags?: Tags;
  deletionProtection?: boolean;
  state?: string;
  conditions?: unknown[];
  raiseGeneration?: boolean;
  /** The work for this generation is done. */
  observedGeneration?: number;
}

/** Changes the common row, by which version and event follow. */
export async function updateResource(
  tx: Tx,
  core: Pick<ResourceCore, 'tenantId' | 'id'>,
  change: ResourceChange,
): Promise<void> {
  await tx
    .updateTable('resource')
    .set((eb) => ({
      ...(change.name !== undefined && { name: change.name }),
      ...(change.tags !== undefined && { tags: JSON.stringify(change.tags) }),
      ...(change.deletionProtection !== undefined && { deletion_protection: change.deletionProtection }),
      ...(change.state !== undefined && { state: change.state }),
      ...(change.conditions !== undefined && { conditions: JSON.stringify(change.conditions) }),
      ...(change.observedGeneration !== undefined && { observed_generation: change.observedGeneration }),
      ...(change.raiseGeneration && { generation: eb('generation', '+', 1) }),
      updated_at: sql<Date>`now()`,
    }))
    .where('tenant_id', '=', core.tenantId)
    .where('id', '=', core.id)
    .execute();
}

export async function deleteResource(tx: Tx, core: Pick<ResourceCore, 'tenantId' | 'id'>): Promise<void> {
  await tx.deleteFrom('resource').where('tenant_id', '=', core.tenantId).where('id', '=', core.id).execute();
}
