/**
 * Brings realms up to date that are behind: after an upgrade with new kinds (their scopes are missing), and where the
 * command that changed a tenant died before it had asked for the job.
 */
import { sql } from 'kysely';
import { adminActor } from '#libs/auth';
import { newId, RhyzomeError } from '#libs/core';
import type { Database } from '#libs/db';
import { hasIdentity } from '#libs/identity';
import { type KindDefinition, KindRegistry, Pipeline } from '#libs/resources';
import { narrowingScopes } from './scopes.js';

/** In one round; the rest has its turn in the next. */
const MOST = 20;

/** Enqueues an update for each realm that is behind; a realm with a job under way is left to that. */
export async function updateRealmsBehind(db: Database, realm: KindDefinition, signal: AbortSignal): Promise<void> {
  if (!hasIdentity()) return;
  const behind = await db.operatorTransaction((tx) =>
    sql<{ tenantId: string; id: string }>`
      select k.tenant_id as "tenantId", k.id from realm k
      join resource r on r.tenant_id = k.tenant_id and r.id = k.id and r.state = 'ready'
      join tenant t on t.id = k.tenant_id
      where (k.open <> (t.state = 'active') or k.display_name is distinct from t.display_name
        or not k.scopes @> ${narrowingScopes()}::text[])
        and not exists (select from job j where j.tenant_id = k.tenant_id and j.resource_id = k.id and j.finished_at is null)
        -- What has just failed for a reason of its own is not tried every minute.
        and not exists (select from job j where j.tenant_id = k.tenant_id and j.resource_id = k.id and j.state = 'failed'
          and j.finished_at > now() - interval '15 minutes')
      order by k.tenant_id limit ${MOST}`.execute(tx),
  );
  const pipeline = new Pipeline(db, new KindRegistry([realm]));
  for (const { tenantId, id } of behind.rows) {
    if (signal.aborted) return;
    const caller = { actor: adminActor(tenantId, 'admin:upkeep'), requestId: newId() };
    try {
      await pipeline.update(caller, realm, id, {});
    } catch (error) {
      const isTaken = error instanceof RhyzomeError && ['busy', 'not_found', 'conflict'].includes(error.code);
      if (!isTaken) throw error;
    }
  }
}
