/**
 * Compares what this installation made at the identity provider with the resources: places without a realm, and accounts
 * in a place that no user, group or service account has. Every hour, or when an administrator wants it; one process at a
 * time. It only notes what it finds; what becomes of that stands in account-removal.ts.
 */
import { sql } from 'kysely';
import type { Database } from '#libs/db';
import { hasIdentity, identity, type KeptAccount, type KeptPlace } from '#libs/identity';
import { clearAlarm, raiseAlarm } from '#libs/jobs';
import { noteRemoved, removeAccountsOfNobody } from './account-removal.js';
import { kindOfAccount } from './moving.js';

/** Upkeep leaves ten minutes to one process; what is not done by then goes on in the next round. */
const ROUND_MS = 5 * 60_000;
const EVERY = '1 hour';

/** A place, and whether a tenant's people log in there, did so before a move, or neither. */
type FoundPlace = KeptPlace & { is: 'used' | 'left' | 'nobodys'; isDue: boolean };

/** One round. Throws RhyzomeError `identity_provider_unavailable`. */
export async function sweepAccounts(db: Database, signal: AbortSignal): Promise<void> {
  if (!hasIdentity()) return;
  const limit = AbortSignal.any([signal, AbortSignal.timeout(ROUND_MS)]);
  if (await isDue(db)) await lookAtAll(db, limit);
  await removeAccountsOfNobody(db, limit);
}

async function isDue(db: Database): Promise<boolean> {
  const found = await sql<{ isDue: boolean }>`
    select accounts_listed_at is null or accounts_listed_at < now() - ${EVERY}::interval
      or accounts_wanted_at is not null as "isDue" from installation`.execute(db.operator);
  return found.rows[0]!.isDue;
}

/** Places that were looked at in a round that did not come to its end are not looked at again. */
async function lookAtAll(db: Database, signal: AbortSignal): Promise<void> {
  const began = await clock(db);
  const kept: KeptPlace[] = [];
  for await (const place of identity().listPlaces(signal)) kept.push(place);
  const places = await told(db, kept);
  await notePlaces(db, places, began);
  for (const place of places) {
    if (signal.aborted) return;
    if (place.is === 'used' && place.isDue) await lookAt(db, place, signal);
  }
  await sql`update installation set accounts_listed_at = clock_timestamp(),
    accounts_wanted_at = case when accounts_wanted_at > ${began} then accounts_wanted_at end`.execute(db.operator);
  await tellAlarm(db);
}

async function clock(db: Database): Promise<Date> {
  return (await sql<{ now: Date }>`select clock_timestamp() as now`.execute(db.operator)).rows[0]!.now;
}

async function told(db: Database, kept: readonly KeptPlace[]): Promise<FoundPlace[]> {
  const found = await sql<FoundPlace>`
    select p.tenant_id as "tenantId", p.mode,
      case when p.mode in (k.mode, k.place_mode) then 'used' when p.mode = k.left_mode then 'left' else 'nobodys' end as is,
      v.taken_at is null or v.taken_at < now() - ${EVERY}::interval or v.taken_at < i.accounts_wanted_at as "isDue"
    from unnest(${kept.map(({ tenantId }) => tenantId)}::text[], ${kept.map(({ mode }) => mode)}::text[]) p (tenant_id, mode)
    cross join installation i
    left join realm k on k.tenant_id = p.tenant_id
    left join login_inventory v on v.tenant_id = p.tenant_id and v.mode = p.mode`.execute(db.operator);
  return found.rows;
}

/** Of places that are nobody's; and forgets those that are no longer there, or are somebody's again. */
async function notePlaces(db: Database, places: readonly FoundPlace[], began: Date): Promise<void> {
  const nobodys = places.filter((place) => place.is === 'nobodys');
  await db.operatorTransaction(async (tx) => {
    await sql`
      insert into account_orphan as o (tenant_id, mode, kind, name)
      select p.tenant_id, p.mode, 'realm', 'login'
      from unnest(${nobodys.map(({ tenantId }) => tenantId)}::text[], ${nobodys.map(({ mode }) => mode)}::text[]) p (tenant_id, mode)
      order by 1, 2
      on conflict (tenant_id, mode, kind, name) do update set last_seen_at = excluded.last_seen_at, looks = o.looks + 1`.execute(
      tx,
    );
    await noteRemoved(tx, sql`o.kind = 'realm' and o.last_seen_at < ${began}`);
    const used = places.filter((place) => place.is === 'used');
    const isUsed = sql`exists (
      select from unnest(${used.map(({ tenantId }) => tenantId)}::text[], ${used.map(({ mode }) => mode)}::text[]) p (tenant_id, mode)
      where p.tenant_id = o.tenant_id and p.mode = o.mode)`;
    // What stood in a place that is gone, or that is nobody's as a whole, is gone with it.
    await noteRemoved(tx, sql`o.kind <> 'realm' and not ${isUsed}`);
    await sql`delete from login_inventory o where not ${isUsed}`.execute(tx);
  });
}

async function lookAt(db: Database, place: KeptPlace, signal: AbortSignal): Promise<void> {
  const { tenantId, mode } = place;
  const began = await clock(db);
  let items = 0;
  for await (const accounts of identity().listAccounts(place, signal)) {
    items += accounts.length;
    await noteAccounts(db, place, accounts);
  }
  await db.operatorTransaction(async (tx) => {
    await noteRemoved(
      tx,
      sql`o.tenant_id = ${tenantId} and o.mode = ${mode} and o.kind <> 'realm' and o.last_seen_at < ${began}`,
    );
    await sql`
      insert into login_inventory (tenant_id, mode, items) values (${tenantId}, ${mode}, ${items})
      on conflict (tenant_id, mode) do update set taken_at = excluded.taken_at, items = excluded.items`.execute(tx);
  });
}

/** Whoever makes one writes its row first: what has none when it was seen is nobody's, or has just been deleted. */
async function noteAccounts(db: Database, { tenantId, mode }: KeptPlace, accounts: readonly KeptAccount[]) {
  const known = accounts.flatMap(({ sort, name }) => {
    const kind = kindOfAccount(sort);
    return kind === undefined ? [] : [{ kind, name }];
  });
  if (known.length === 0) return;
  await sql`
    insert into account_orphan as o (tenant_id, mode, kind, name)
    select ${tenantId}, ${mode}, a.kind, a.name
    from unnest(${known.map(({ kind }) => kind)}::text[], ${known.map(({ name }) => name)}::text[]) a (kind, name)
    where not exists (select from resource r where r.tenant_id = ${tenantId} and r.kind = a.kind and r.name = a.name)
    order by 3, 4
    on conflict (tenant_id, mode, kind, name) do update set last_seen_at = excluded.last_seen_at, looks = o.looks + 1`.execute(
    db.operator,
  );
}

/** Of what two looks found: a deletion under way looks like one of these for a moment. */
async function tellAlarm(db: Database): Promise<void> {
  await db.operatorTransaction(async (tx) => {
    const found = await sql<{ count: number; tenants: string[] | null }>`
      select count(*)::int as count, (array_agg(distinct tenant_id))[1:10] as tenants from account_orphan
      where looks >= 2`.execute(tx);
    const { count, tenants } = found.rows[0]!;
    const cause = { tenantId: null, code: 'account_orphans' as const, cause: 'account_orphans' };
    if (count === 0) await clearAlarm(tx, cause);
    else {
      const message = `The identity provider has ${count} that this installation made and nobody owns; \`rhyzome sweep\` shows them.`;
      await raiseAlarm(tx, { ...cause, message, details: { count, tenants } });
    }
  });
}
