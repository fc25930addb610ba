/**
 * Statements that must find nothing: what stands in the database and belongs to nothing there. What foreign keys exclude is
 * not asked. What is found again and again for an hour is mended where nobody could miss it, else only reported.
 */
import { sql } from 'kysely';
import type { Database, Tx } from '#libs/db';
import { clearAlarm, raiseAlarm } from '#libs/jobs';

interface Rule {
  name: string;
  title: string;
  /** SQL that gives tenant_id and id (text) of what must not be. */
  finds: string;
  /** Puts one right, unless it is no longer so; absent: somebody has to look. */
  mend?: (tx: Tx, tenantId: string, id: string) => Promise<unknown>;
}

const noResource = (
  of: string,
) => `not exists (select from resource r where r.tenant_id = ${of}.tenant_id and r.id = ${of}.resource_id)
  and not exists (select from deleted_disk d where d.tenant_id = ${of}.tenant_id and d.id = ${of}.resource_id)`;

export const leftoverRules: readonly Rule[] = [
  {
    name: 'reservation',
    title: 'Room on a node that is reserved for a resource that is gone',
    finds: `select v.tenant_id, v.resource_id::text as id from reservation v where ${noResource('v')}
      and not exists (select from placement p where p.tenant_id = v.tenant_id and p.resource_id = v.resource_id)
      and not exists (select from move m where m.tenant_id = v.tenant_id and m.id = v.resource_id)`,
    mend: (tx, tenantId, id) =>
      sql`
      delete from reservation v where v.tenant_id = ${tenantId} and v.resource_id = ${id}::uuid and ${sql.raw(noResource('v'))}
        and not exists (select from move m where m.tenant_id = v.tenant_id and m.id = v.resource_id)`.execute(tx),
  },
  {
    name: 'held-address',
    title: 'An address that is held for a node that has nothing to remove any more',
    finds: `select h.tenant_id, h.id::text from held_address h where not exists (select from placement p
      where p.tenant_id = h.tenant_id and p.resource_id = h.resource_id and p.node_id = h.node_id)`,
    mend: (tx, tenantId, id) =>
      sql`delete from held_address where tenant_id = ${tenantId} and id = ${id}::uuid`.execute(tx),
  },
  {
    name: 'placement',
    title: 'A resource that is gone and is still wanted on a node',
    finds: `select p.tenant_id, p.resource_id::text as id from placement p where p.present and ${noResource('p')}`,
  },
  {
    name: 'disk-without-node',
    title: 'A disk that is ready and that no node is told of',
    finds: `select k.tenant_id, k.id::text from disk k join resource r on r.tenant_id = k.tenant_id and r.id = k.id
      where k.made and k.node_id is not null and r.state = 'ready'
        and not exists (select from placement p where p.tenant_id = k.tenant_id and p.resource_id = k.id and p.present)`,
  },
  {
    name: 'instance-without-node',
    title: 'A machine that is ready and that no node is told of',
    finds: `select k.tenant_id, k.id::text from instance k join resource r on r.tenant_id = k.tenant_id and r.id = k.id
      where r.state = 'ready'
        and not exists (select from placement p where p.tenant_id = k.tenant_id and p.resource_id = k.id and p.present)`,
  },
  {
    name: 'state-without-job',
    title: 'A resource that is being changed, and no job is at it',
    // A machine's job is at the disk that came with it, too.
    finds: `select r.tenant_id, r.id::text from resource r where r.state in ('pending', 'provisioning', 'updating', 'deleting')
      and not exists (select from job j where j.tenant_id = r.tenant_id and j.finished_at is null and (j.resource_id = r.id
        or exists (select from disk d where d.tenant_id = r.tenant_id and d.id = r.id and d.with_instance and d.instance_id = j.resource_id)))`,
  },
  {
    name: 'job',
    title: 'A job that has not ended, of a resource that is gone',
    finds: `select v.tenant_id, v.id::text from job v where v.finished_at is null and ${noResource('v')}`,
  },
  {
    name: 'deed',
    title: 'A deed that a node was asked for, of a resource that is gone',
    finds: `select v.tenant_id, v.id::text from deed v where v.state = 'asked' and ${noResource('v')}
      and not exists (select from job j where j.tenant_id = v.tenant_id and j.finished_at is null
        and j.resource_id in (v.resource_id, v.asked_by))`,
    mend: (tx, tenantId, id) =>
      sql`
      delete from deed v where v.tenant_id = ${tenantId} and v.id = ${id}::uuid and v.state = 'asked'
        and ${sql.raw(noResource('v'))}`.execute(tx),
  },
  {
    name: 'room',
    title: 'A node whose room is not counted as its reservations say',
    finds: `select 'system', node_id::text from node_room_drift`,
    // Whoever takes room there holds the row until it commits; what is given back meanwhile is a row that is yet to come.
    mend: async (tx, _tenantId, id) => {
      await sql`select 1 from node_load where node_id = ${id}::uuid for update`.execute(tx);
      await sql`
        with gone as (delete from room_given_back where node_id = ${id}::uuid)
        update node_load l set (vcpus, memory_mib, disk_gib) = (
          select coalesce(sum(vcpus), 0), coalesce(sum(memory_mib), 0), coalesce(sum(disk_gib), 0)
          from reservation where node_id = l.node_id)
        where l.node_id = ${id}::uuid`.execute(tx);
    },
  },
  {
    name: 'quota',
    title: 'A quota that is not charged with what is used',
    finds: `select tenant_id, name as id from quota_drift`,
    // Measured anew with no charge under way.
    mend: async (tx, tenantId, id) => {
      const quota = await sql<{ max: number }>`
        select max from quota where tenant_id = ${tenantId} and name = ${id}`.execute(tx);
      if (quota.rows[0]) await sql`call set_quota(${tenantId}, ${id}, ${quota.rows[0].max})`.execute(tx);
    },
  },
];

/** Of one rule, in one look. */
const MOST = 1_000;
const MENDED_AFTER = '1 hour';

/** Looks once, and mends what was found for long enough. One process at a time. */
export async function sweepLeftovers(db: Database, signal: AbortSignal): Promise<void> {
  for (const rule of leftoverRules) {
    if (signal.aborted) return;
    await db.operatorTransaction((tx) => look(tx, rule));
    if (rule.mend) await mendOld(db, rule, rule.mend);
  }
  await db.operatorTransaction(tellAlarm);
}

async function look(tx: Tx, { name, finds }: Rule): Promise<void> {
  await sql`
    with found as materialized (select f.tenant_id, f.id from (${sql.raw(finds)}) f (tenant_id, id) limit ${MOST}),
    gone as (delete from leftover l where l.rule = ${name}
      and not exists (select from found f where f.tenant_id = l.tenant_id and f.id = l.id))
    insert into leftover as l (tenant_id, rule, id) select tenant_id, ${name}, id from found order by 1, 3
    on conflict (tenant_id, rule, id) do update set last_seen_at = excluded.last_seen_at, looks = l.looks + 1`.execute(
    tx,
  );
}

async function mendOld(db: Database, { name }: Rule, mend: NonNullable<Rule['mend']>): Promise<void> {
  const old = await sql<{ tenant_id: string; id: string }>`
    select tenant_id, id from leftover where rule = ${name} and looks >= 3
      and first_seen_at < now() - ${MENDED_AFTER}::interval and not nodes_are_held()`.execute(db.operator);
  for (const { tenant_id, id } of old.rows) await db.operatorTransaction((tx) => mend(tx, tenant_id, id));
}

/** Of what was there for three looks: a change under way may look like one of these for a moment. */
async function tellAlarm(tx: Tx): Promise<void> {
  const found = await sql<{ count: number; rules: string[] | null }>`
    select count(*)::int as count, array_agg(distinct rule) as rules from leftover where looks >= 3`.execute(tx);
  const { count, rules } = found.rows[0]!;
  const cause = { tenantId: null, code: 'leftovers' as const, cause: 'leftovers' };
  if (count === 0) await clearAlarm(tx, cause);
  else {
    const message = `The database has ${count} that belong to nothing (${rules!.join(', ')}); \`rhyzome sweep\` shows them.`;
    await raiseAlarm(tx, { ...cause, message, details: { count, rules } });
  }
}
