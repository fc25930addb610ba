/**
 * Makes a database that was put back to an older state one that nobody mistakes for what it was: numbers that agents,
 * replicas and clients may have seen after the backup are jumped over, what was under way is due anew, and a row says that
 * the nodes have not been compared yet. Within the restoring transaction, as owner, without triggers.
 */
import { newId } from '#libs/core';
import type { withSession } from '#libs/db';
import type { BackupHeader } from './backup-file.js';

type Session = Parameters<Parameters<typeof withSession>[3]>[0];

/**
 * Microseconds since 1970: no counter of ours runs faster, so it is ahead of what any earlier state, and any earlier restore,
 * has given out. Fits a JavaScript number until 2255.
 */
const NUMBERS_FROM = `(extract(epoch from clock_timestamp()) * 1000000)::bigint`;

export async function jumpAhead(
  session: Session,
  restore: { id: string; header: Pick<BackupHeader, 'id' | 'takenAt' | 'version'>; by: string },
): Promise<void> {
  const { id, header, by } = restore;
  const { rows } = await session.query<{ from: string }>(`select ${NUMBERS_FROM}::text as from`);
  const from = Number(rows[0]!.from);
  const run = (text: string) => session.query(text.replaceAll(':from', String(from)));

  // Agents pass over revisions that are older than what they know, and reports count up to the newest.
  await run(`select setval('placement_revision', greatest(:from, last_value)) from placement_revision`);
  await run(`update placement set revision = nextval('placement_revision')`);
  await run(`update node_session set session = greatest(session, 0) + :from, replica = null`);
  // Watchers resume from numbers that mean something else now: they are told to list anew.
  await run(`insert into event_counter (tenant_id, last, pruned) select id, :from, :from from tenant
    on conflict (tenant_id) do update set last = excluded.last, pruned = excluded.pruned`);
  // ETags of changes that are lost must match none that comes.
  await run(`update resource set version = version + :from / 1000`);
  await run(`update tenant_access set epoch = epoch + :from / 1000`);
  // Jobs that were being run go on with whoever takes them; who ran them then may no longer write.
  await run(`update job set lease_owner = null, lease_until = null, fence = fence + 1000000, run_at = now()
    where finished_at is null`);
  // Whether a machine is still to be switched off is a question of now.
  await run(`update node_fence set state = 'failed', finished_at = now(), lease_until = null,
    detail = 'The database was restored from a backup; ask again if it is still to be.' where finished_at is null`);
  // What was used since the backup would count once more.
  await run(`update enrollment_token set revoked_at = clock_timestamp() where used_at is null and revoked_at is null`);
  // Transaction ids mean nothing on another server, and another era of the audit begins with them.
  await run(`update quota set changed_by = null, used_before = null`);
  await openAuditEra(session);
  await run(`truncate orphan, missing_placement, node_inventory, leftover, sweep_removal`);
  // What a lost database had made on nodes is nobody's here, and may be somebody's: only an administrator lets it go.
  await run(`update installation set sweep_mode = 'report'`);

  // One that was not finished ends with this one.
  await session.query(`update restoration set finished_at = now(), finished_by = $1 where finished_at is null`, [by]);
  await session.query(
    `insert into restoration (id, backup_id, backup_at, restored_by, numbers_from) values ($1, $2, $3, $4, $5)`,
    [id, header.id, header.takenAt, by, from],
  );
  await session.query(
    `insert into audit (tenant_id, id, actor, action, result, details) values ('system', $1, $2, 'db.restore', 'done', $3)`,
    [newId(), by, JSON.stringify({ backup: header.id, takenAt: header.takenAt, version: header.version })],
  );
}

async function openAuditEra(session: Session): Promise<void> {
  const { rows } = await session.query<{ era: number }>(
    `insert into audit_era (era, system_identifier)
     select max(era) + 1, (select system_identifier from pg_control_system()) from audit_era returning era`,
  );
  await session.query(`alter table audit alter column era set default ${Number(rows[0]!.era)}`);
}
