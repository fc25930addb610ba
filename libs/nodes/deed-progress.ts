/** How far a deed has come, as its node says: shown as the progress of the job that asked for it, and nothing more. */
import { sql } from 'kysely';
import { isUuid } from '#libs/core';
import type { Database } from '#libs/db';
import type { DeedProgress } from '#libs/rpc';
import { countFrom } from './node-words.js';
import type { NodeSession } from './registry.js';

const MIB = 2 ** 20;
/** The part of a job's progress that a deed has, whatever comes before and after it. */
const FROM = 30;
const TO = 90;

/** Nothing for what this node was not asked for, or has ended. Throws RhyzomeError `malformed_request`. */
export async function recordDeedProgress(
  db: Database,
  { nodeId, session }: NodeSession,
  { operationId, doneBytes, totalBytes }: DeedProgress,
): Promise<void> {
  if (!isUuid(operationId)) return;
  const total = countFrom(totalBytes, 'The number of bytes');
  const done = Math.min(countFrom(doneBytes, 'The number of bytes'), total);
  const progress = Math.floor(FROM + (total === 0 ? 0 : (done / total) * (TO - FROM)));
  const message = `sent ${Math.floor(done / MIB)} of ${Math.ceil(total / MIB)} MiB`;
  // Each percent once: every change of a job is an event.
  await sql`
    update job j set progress = ${progress}, message = ${message} from deed d, node_session s
    where d.id = ${operationId} and d.node_id = ${nodeId} and d.state = 'asked'
      and s.node_id = d.node_id and s.session = ${session}
      and j.tenant_id = d.tenant_id and j.resource_id = coalesce(d.asked_by, d.resource_id) and j.finished_at is null
      and j.phase = 'do' and j.progress < ${progress}`.execute(db.operator);
}
