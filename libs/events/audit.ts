/** Audit rows: who did what to which resource from where with which result. Written in the change's own transaction. */

import { newId } from '#libs/core';
import type { Database, Tx } from '#libs/db';

export interface AuditEntry {
  tenantId: string;
  /** Token subject, `service:NAME` or `admin:LOGIN`. */
  actor: string;
  /** E.g. `network.create`. */
  action: string;
  kind?: string;
  resourceId?: string;
  resourceName?: string;
  result: 'done' | 'refused';
  /** Error code of a refusal. */
  code?: string;
  requestId?: string;
  /** Address that it came from. */
  source?: string;
  details?: Record<string, unknown>;
}

/** The columns of an audit row. */
export function auditValues(entry: AuditEntry) {
  return {
    tenant_id: entry.tenantId,
    id: newId(),
    actor: entry.actor,
    action: entry.action,
    kind: entry.kind ?? null,
    resource_id: entry.resourceId ?? null,
    resource_name: entry.resourceName?.replaceAll('\0', '\ufffd') ?? null, // refused calls may have named anything
    result: entry.result,
    code: entry.code ?? null,
    request_id: entry.requestId ?? null,
    source: entry.source ?? null,
    details: entry.details ? JSON.stringify(entry.details) : null,
  };
}

export async function writeAudit(tx: Tx, entry: AuditEntry): Promise<void> {
  await tx.insertInto('audit').values(auditValues(entry)).execute();
}

/** A refusal's row, in a transaction of its own, since the refused one rolled back. */
export async function writeRefusal(db: Database, entry: Omit<AuditEntry, 'result'>): Promise<void> {
  await db.tenantTransaction(entry.tenantId, (tx) => writeAudit(tx, { ...entry, result: 'refused' }));
}
