/**
 * Removes what nobody owns at the identity provider: late, a tenth of all a day, a whole place only on an administrator's
 * word. While one is removed its name is taken, so that whoever is made under it meanwhile is made afterwards.
 */
import { type RawBuilder, sql } from 'kysely';
import { newId, RhyzomeError, SYSTEM_TENANT } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import { writeAudit } from '#libs/events';
import { identity, type LoginPlaceMode } from '#libs/identity';

interface AccountOrphan {
  tenantId: string;
  mode: LoginPlaceMode;
  kind: 'realm' | 'user' | 'group' | 'serviceaccount';
  name: string;
}

/** In one round; the next has the next ones. */
const MOST_AT_ONCE = 100;
/** Deleting a realm took a busy Keycloak ten seconds; the name is held for as long at most. */
const HOLD_MS = 150_000;
const REMOVALS_KEPT_DAYS = 90;

/** One round. Throws RhyzomeError `identity_provider_unavailable`; what it had begun is begun again by the next. */
export async function removeAccountsOfNobody(db: Database, signal: AbortSignal): Promise<void> {
  for (const orphan of await chosen(db)) {
    if (signal.aborted) return;
    await removeOne(db, orphan, signal);
  }
  await sql`delete from account_removal where removed_at < now() - make_interval(days => ${REMOVALS_KEPT_DAYS})`.execute(
    db.operator,
  );
}

/** What is to go now, marked as begun: should the process die in its middle, the next look knows why it is gone. */
async function chosen(db: Database): Promise<AccountOrphan[]> {
  return db.operatorTransaction(async (tx) => {
    const due = await sql<AccountOrphan & { isNew: boolean; isApproved: boolean }>`
      select o.tenant_id as "tenantId", o.mode, o.kind, o.name, o.asked_at is null as "isNew",
        o.approved_at is not null as "isApproved"
      from account_orphan o cross join installation i
      where not nodes_are_held() and (o.approved_at is not null or (i.sweep_mode = 'remove' and o.kind <> 'realm'
        and o.looks >= 2 and o.first_seen_at < now() - i.sweep_after))
      order by o.asked_at nulls last, o.first_seen_at, o.kind, o.name limit ${MOST_AT_ONCE}`.execute(tx);
    const needsShare = due.rows.some(({ isNew, isApproved }) => isNew && !isApproved);
    let left = needsShare ? await shareLeft(tx) : 0;
    const going = due.rows.filter(({ isNew, isApproved }) => !isNew || isApproved || left-- > 0);
    for (const orphan of going.filter(({ isNew }) => isNew))
      await sql`update account_orphan o set asked_at = now() where ${isThis(orphan)}`.execute(tx);
    return going;
  });
}

/** A tenth of what stands there, at least one, less what went within a day without an administrator's word. */
async function shareLeft(tx: Tx): Promise<number> {
  const found = await sql<{ left: number }>`
    select greatest(1, coalesce((select sum(items) from login_inventory), 0) / 10)::int
      - (select count(*) from account_orphan where asked_at is not null and approved_at is null)::int
      - (select count(*) from account_removal where approved_by is null and removed_at > now() - interval '1 day')::int
      as left`.execute(tx);
  return Math.max(0, found.rows[0]!.left);
}

async function removeOne(db: Database, orphan: AccountOrphan, signal: AbortSignal): Promise<void> {
  await db.operatorTransaction(async (tx) => {
    await sql`select set_config('idle_in_transaction_session_timeout', ${`${HOLD_MS}`}, true)`.execute(tx);
    await sql`savepoint name_is_taken`.execute(tx);
    let failure: RhyzomeError | undefined;
    const isNobodys = await takeName(tx, orphan);
    if (isNobodys) failure = await removeOutside(orphan, AbortSignal.any([signal, AbortSignal.timeout(HOLD_MS)]));
    await sql`rollback to savepoint name_is_taken`.execute(tx);
    if (failure) {
      const told = JSON.stringify({ code: failure.code, message: failure.message });
      await sql`update account_orphan o set failure = ${told}::jsonb where ${isThis(orphan)}`.execute(tx);
    } else if (isNobodys) await noteRemoved(tx, isThis(orphan));
    else await sql`delete from account_orphan o where ${isThis(orphan)}`.execute(tx);
  });
}

/**
 * Takes the name by a row that is rolled back: whoever wants it waits for that. False: it is somebody's. A tenant that is
 * no more gets a row, too, so that it is not made anew beside the removal of its place.
 */
async function takeName(tx: Tx, { tenantId, mode, kind, name }: AccountOrphan): Promise<boolean> {
  await sql`insert into tenant (id, display_name) values (${tenantId}, '') on conflict (id) do nothing`.execute(tx);
  const taken = await sql`
    insert into resource (tenant_id, id, kind, name, state, created_by)
    values (${tenantId}, ${newId()}, ${kind}, ${name}, 'pending', 'admin:upkeep')
    on conflict (tenant_id, kind, name) do nothing returning 1`.execute(tx);
  if (taken.rows.length === 1 || kind !== 'realm') return taken.rows.length === 1;
  // The tenant logs in at another place. Locked, it does not move to this one meanwhile.
  const other = await sql<{ isThis: boolean }>`
    select ${mode} in (mode, place_mode) or left_mode is not distinct from ${mode} as "isThis" from realm
    where tenant_id = ${tenantId} for update`.execute(tx);
  return other.rows[0]?.isThis === false;
}

/** Why it could not be removed. Throws `identity_provider_unavailable`. */
async function removeOutside(
  { tenantId, mode, kind, name }: AccountOrphan,
  signal: AbortSignal,
): Promise<RhyzomeError | undefined> {
  const place = { tenantId, mode, displayName: '' };
  try {
    if (kind === 'realm') await identity().removePlace(place, signal);
    else if (kind === 'user') await identity().removeUser(place, name, signal);
    else if (kind === 'group') await identity().removeGroup(place, name, signal);
    else await identity().removeProgram(place, name, signal);
    return undefined;
  } catch (error) {
    if (error instanceof RhyzomeError && error.code !== 'identity_provider_unavailable') return error;
    throw error;
  }
}

function isThis({ tenantId, mode, kind, name }: AccountOrphan): RawBuilder<unknown> {
  return sql`o.tenant_id = ${tenantId} and o.mode = ${mode} and o.kind = ${kind} and o.name = ${name}`;
}

/**
 * Forgets rows of `account_orphan o`, which are no longer there, or somebody's. Those that were being removed and that
 * nobody has now were removed here: that goes into the list of removals and into the audit.
 */
export async function noteRemoved(tx: Tx, which: RawBuilder<unknown>): Promise<void> {
  const gone = await sql<AccountOrphan & { approvedBy: string | null }>`
    with gone as (delete from account_orphan o where ${which} returning *),
    noted as (
      insert into account_removal (tenant_id, mode, kind, name, approved_by)
      select g.tenant_id, g.mode, g.kind, g.name, g.approved_by from gone g where g.asked_at is not null
        and (g.kind = 'realm'
          or not exists (select from resource r where r.tenant_id = g.tenant_id and r.kind = g.kind and r.name = g.name))
        and not exists (select from realm k where k.tenant_id = g.tenant_id and g.kind = 'realm'
          and (g.mode in (k.mode, k.place_mode) or g.mode = k.left_mode))
      returning *)
    select tenant_id as "tenantId", mode, kind, name, approved_by as "approvedBy" from noted`.execute(tx);
  for (const { tenantId, mode, kind, name, approvedBy } of gone.rows)
    await writeAudit(tx, {
      tenantId: SYSTEM_TENANT,
      actor: approvedBy ?? 'admin:upkeep',
      action: 'sweep.removed',
      kind,
      resourceName: name,
      result: 'done',
      details: { tenant: tenantId, at: mode, byItself: approvedBy === null },
    });
}
