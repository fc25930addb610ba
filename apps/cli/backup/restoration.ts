/**
 * A restored database beside what the nodes have: what they have and it does not know, what it knows and they lack, what
 * differs; and the word that ends the comparison. Reads what inventories wrote (libs/nodes).
 */
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import { type Tx, wakeAfterCommit } from '#libs/db';
import { withCondition } from '#libs/resources';
import { listMissing, listOrphans, type MissingView, type OrphanView } from '../sweep.js';

export interface Restoration {
  id: string;
  backupId: string;
  backupAt: Date;
  restoredAt: Date;
  restoredBy: string;
  finishedAt: Date | null;
}

export interface Difference {
  node: string;
  kind: string;
  id: string;
  tenant: string;
  name: string | null;
  /** What of it: `sizeBytes` or `powerState`. */
  what: string;
  onNode: string;
  inDatabase: string;
}

export interface RestoreReport {
  restoration: Restoration;
  /** Nodes on which something is placed and that have not told what they have since. */
  silent: string[];
  told: string[];
  unknown: OrphanView[];
  missing: (MissingView & { isContent: boolean })[];
  different: Difference[];
  openJobs: number;
  /** Certificates that were revoked after the backup and that nodes knew of. */
  revocations: TakenRevocation[];
}

export interface TakenRevocation {
  /** A serial number, or whose certificates up to then. */
  what: string;
  revokedAt: Date;
  /** The node that knew. */
  from: string;
}

/** Kinds whose content cannot be made again. */
const CONTENT = ['disk', 'snapshot'];

/** The last one. Throws RhyzomeError `not_found` where the database was never restored. */
export async function readRestoration(tx: Tx): Promise<Restoration> {
  const found = await sql<Restoration>`
    select id, backup_id as "backupId", backup_at as "backupAt", restored_at as "restoredAt", restored_by as "restoredBy",
      finished_at as "finishedAt" from restoration order by restored_at desc limit 1`.execute(tx);
  if (found.rows[0]) return found.rows[0];
  throw new RhyzomeError('not_found', 'This database was not restored from a backup.');
}

export async function readReport(tx: Tx): Promise<RestoreReport> {
  const restoration = await readRestoration(tx);
  const nodes = await sql<{ name: string; told: boolean }>`
    select n.name, exists (select from node_inventory v where v.node_id = n.id and v.taken_at >= ${restoration.restoredAt}) as told
    from node n where exists (select from placement p where p.node_id = n.id)
      or exists (select from node_inventory v where v.node_id = n.id) order by n.name`.execute(tx);
  const jobs = await sql<{ open: number }>`select count(*)::int as open from job where finished_at is null`.execute(tx);
  const names = (told: boolean) => nodes.rows.filter((node) => node.told === told).map(({ name }) => name);
  return {
    restoration,
    silent: names(false),
    told: names(true),
    unknown: await listOrphans(tx),
    missing: (await listMissing(tx)).map((one) => ({ ...one, isContent: CONTENT.includes(one.kind) })),
    different: await listDifferences(tx),
    openJobs: jobs.rows[0]!.open,
    revocations: await listTaken(tx, restoration.restoredAt),
  };
}

async function listTaken(tx: Tx, since: Date): Promise<TakenRevocation[]> {
  const found = await sql<TakenRevocation>`
    select coalesce(serial, kind || '/' || name) as what, revoked_at as "revokedAt", substr(revoked_by, 6) as "from"
    from revocation where taken_over_at >= ${since} order by revoked_at, 1 limit 1000`.execute(tx);
  return found.rows;
}

/** Of what both know: a disk that has grown since, a machine that was started or stopped since. */
async function listDifferences(tx: Tx): Promise<Difference[]> {
  const found = await sql<Difference>`
    select n.name as node, p.kind, p.resource_id as id, p.tenant_id as tenant, r.name, d.what,
      p.status ->> d.what as "onNode", p.spec ->> d.what as "inDatabase"
    from placement p join node n on n.id = p.node_id
    left join resource r on r.tenant_id = p.tenant_id and r.id = p.resource_id
    cross join (values ('disk', 'sizeBytes'), ('instance', 'powerState')) d (kind, what)
    where p.kind = d.kind and p.present and p.status ? d.what and p.spec ->> d.what <> p.status ->> d.what
      and not exists (select from missing_placement m
        where m.tenant_id = p.tenant_id and m.resource_id = p.resource_id and m.node_id = p.node_id)
    order by n.name, p.kind, p.resource_id limit 1000`.execute(tx);
  return found.rows;
}

export interface Finished {
  /** Marked as failed: their content is not on their nodes, and nothing empty is made in its place. */
  failed: { kind: string; id: string; tenant: string }[];
  /** Deleted disks that could be had back and are gone. */
  purged: { id: string; tenant: string }[];
}

/**
 * Ends the comparison: nodes are told what is desired again, and the sweep's clock begins. What held content that its node
 * lacks is not made anew, empty: it is marked as failed and no longer placed, with the machines that were lost with it.
 * Throws RhyzomeError `conflict` when there is nothing to finish, or nodes are silent and `force` does not say so.
 */
export async function finishRestoration(tx: Tx, by: string, force: boolean): Promise<Finished> {
  const { silent, restoration, missing } = await readReport(tx);
  if (restoration.finishedAt) throw new RhyzomeError('conflict', 'The last restore is finished already.');
  if (silent.length > 0 && !force)
    throw new RhyzomeError(
      'conflict',
      `These nodes have not told what they have: ${silent.join(', ')}. Connect them first. With --force it goes without them: what they lack is made anew on them, disks without their content.`,
      { extensions: { silent } },
    );
  const lost = missing.filter(({ isContent }) => isContent);
  const purged = await purgeLost(tx, lost);
  const disks = lost.filter(({ id }) => !purged.some((one) => one.id === id));
  const failed = [...disks, ...(await machinesOf(tx, disks, missing))];
  for (const { tenant, id } of failed) await markFailed(tx, tenant, id);
  await sql`update restoration set finished_at = now(), finished_by = ${by} where id = ${restoration.id}`.execute(tx);
  // Days begin to count now.
  await sql`update orphan set first_seen_at = now(), inventories = 1`.execute(tx);
  await sql`delete from missing_placement`.execute(tx);
  wakeAfterCommit('rhyzome_node');
  return { failed: failed.map(({ kind, id, tenant }) => ({ kind, id, tenant })), purged };
}

async function purgeLost(tx: Tx, lost: readonly MissingView[]): Promise<Finished['purged']> {
  const purged: Finished['purged'] = [];
  for (const { tenant, id } of lost) {
    const gone = await sql`delete from deleted_disk where tenant_id = ${tenant} and id = ${id} returning 1`.execute(tx);
    if (gone.rows.length === 0) continue;
    await sql`delete from placement where tenant_id = ${tenant} and resource_id = ${id}`.execute(tx);
    await sql`delete from reservation where tenant_id = ${tenant} and resource_id = ${id}`.execute(tx);
    purged.push({ tenant, id });
  }
  return purged;
}

/** Machines that their node lacks, too, and that a lost disk was attached to. */
async function machinesOf(
  tx: Tx,
  disks: readonly MissingView[],
  missing: readonly MissingView[],
): Promise<MissingView[]> {
  const ids = disks.map(({ id }) => id);
  const found = await sql<{ id: string }>`
    select distinct instance_id as id from disk where id = any (${ids}::uuid[]) and instance_id is not null`.execute(
    tx,
  );
  return missing.filter(({ kind, id }) => kind === 'instance' && found.rows.some((one) => one.id === id));
}

/** No node is told of it any more; its tenant sees why, and can delete it. */
async function markFailed(tx: Tx, tenantId: string, id: string): Promise<void> {
  await sql`delete from placement where tenant_id = ${tenantId} and resource_id = ${id}`.execute(tx);
  const found = await sql<{ conditions: unknown[]; generation: number }>`
    select conditions, generation from resource where tenant_id = ${tenantId} and id = ${id} for update`.execute(tx);
  const [row] = found.rows;
  if (!row) return;
  const conditions = withCondition(row.conditions, {
    type: 'Ready',
    status: 'false',
    reason: 'content_lost',
    message:
      'It was deleted or lost after the backup that the database was restored from: nothing of it is on its node. Delete it.',
    observedGeneration: row.generation,
  });
  await sql`update resource set state = 'failed', conditions = ${JSON.stringify(conditions)}::jsonb
    where tenant_id = ${tenantId} and id = ${id}`.execute(tx);
  await sql`update instance set power_state = 'unknown' where tenant_id = ${tenantId} and id = ${id}`.execute(tx);
}
