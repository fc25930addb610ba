/**
 * Who a token's `sub` is: rows by which AccessDirectory knows a user's or a service account's grants, and refuses whoever
 * is disabled or removed. The kinds user and serviceaccount write them, in the transactions of what is asked of them.
 */
import { sql } from 'kysely';
import type { Database, Tx } from '#libs/db';

export interface SubjectOwner {
  tenantId: string;
  kind: 'user' | 'serviceaccount';
  resourceId: string;
}

/** Subjects of this form are a service account's own, and never what an issuer says (token-claims refuses them). */
export function accountSubject(serviceAccountId: string): string {
  return `account:${serviceAccountId}`;
}

/** From now on the subject is this one's. Done again, it changes nothing but `enabled`. */
export async function putSubject(tx: Tx, owner: SubjectOwner, subject: string, enabled: boolean): Promise<void> {
  const row = { kind: owner.kind, resource_id: owner.resourceId, enabled, forget_at: null };
  await tx
    .insertInto('subject')
    .values({ tenant_id: owner.tenantId, subject, ...row })
    .onConflict((oc) => oc.columns(['tenant_id', 'subject']).doUpdateSet(row))
    .execute();
}

/** All tokens of the owner are refused, or accepted again, once the transaction is committed. */
export async function enableSubjects(
  tx: Tx,
  { tenantId, resourceId }: Pick<SubjectOwner, 'tenantId' | 'resourceId'>,
  enabled: boolean,
): Promise<void> {
  await tx
    .updateTable('subject')
    .set({ enabled })
    .where('tenant_id', '=', tenantId)
    .where('resource_id', '=', resourceId)
    .where('enabled', '!=', enabled)
    .execute();
}

/** Longer than any issuer's access token lives. */
const KEPT_DAYS = 90;

/** The owner is gone; its tokens, which may live on, are refused. */
export async function leaveSubjects(
  tx: Tx,
  { tenantId, resourceId }: Pick<SubjectOwner, 'tenantId' | 'resourceId'>,
): Promise<void> {
  await tx
    .updateTable('subject')
    .set({ enabled: false, forget_at: sql<Date>`now() + make_interval(days => ${KEPT_DAYS})` })
    .where('tenant_id', '=', tenantId)
    .where('resource_id', '=', resourceId)
    .execute();
}

/** The API tokens of the owner go, under whichever of its subjects they were made, whatever is under way with them. */
export async function dropApiTokens(
  tx: Tx,
  { tenantId, resourceId }: Pick<SubjectOwner, 'tenantId' | 'resourceId'>,
): Promise<void> {
  await sql`delete from resource r using apitoken t
    where t.tenant_id = ${tenantId} and r.tenant_id = t.tenant_id and r.id = t.id
      and (t.service_account_id = ${resourceId} or t.subject in (
        select s.subject from subject s where s.tenant_id = ${tenantId} and s.resource_id = ${resourceId}))`.execute(
    tx,
  );
}

/** Upkeep: rows of those who went long ago. Repeatable at any moment. */
export async function forgetSubjects(db: Database): Promise<void> {
  await db.operatorTransaction(async (tx) => {
    await sql`delete from subject where forget_at < now()`.execute(tx);
  });
}
